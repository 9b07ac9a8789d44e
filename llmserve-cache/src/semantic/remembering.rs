//! Vectors of texts that were embedded lately.

use std::sync::Arc;

use llmserve_core::{Embedder, Error};
use moka::sync::Cache;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of an entry beside its vector: moka's bookkeeping, roughly.
const OVERHEAD: usize = 160;

/// An embedder that remembers: who asks the same in the same other words again pays for it once.
///
/// Holds hashes of texts and their vectors, no texts.
pub(super) struct Remembering {
    inner: Arc<dyn Embedder>,
    vectors: Cache<u128, Arc<[f32]>>,
}

impl Remembering {
    pub(super) fn new(inner: Arc<dyn Embedder>, max_bytes: usize) -> Self {
        let weigh = |_: &u128, vector: &Arc<[f32]>| {
            u32::try_from(size_of_val(&**vector) + OVERHEAD).unwrap_or(u32::MAX)
        };
        Self {
            inner,
            vectors: Cache::builder()
                .max_capacity(max_bytes as u64)
                .weigher(weigh)
                .build(),
        }
    }
}

impl Embedder for Remembering {
    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn identity(&self) -> &str {
        self.inner.identity()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        let hashes: Vec<u128> = texts.iter().map(|text| xxh3_128(text.as_bytes())).collect();
        let mut vectors: Vec<Option<Vec<f32>>> = hashes
            .iter()
            .map(|hash| self.vectors.get(hash).map(|vector| vector.to_vec()))
            .collect();
        let new: Vec<usize> = (0..texts.len())
            .filter(|&place| vectors[place].is_none())
            .collect();
        if !new.is_empty() {
            let asked: Vec<&str> = new.iter().map(|&place| texts[place]).collect();
            for (&place, vector) in new.iter().zip(self.inner.embed(&asked)?) {
                self.vectors.insert(hashes[place], Arc::from(&*vector));
                vectors[place] = Some(vector);
            }
        }
        let all: Option<Vec<_>> = vectors.into_iter().collect();
        all.ok_or_else(|| Error::Panicked {
            part: "embedder",
            message: "fewer vectors than texts".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Remembers what it was asked.
    #[derive(Default)]
    struct Asked(Mutex<Vec<String>>);

    impl Embedder for Asked {
        fn dimensions(&self) -> usize {
            1
        }
        fn identity(&self) -> &str {
            "asked"
        }
        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
            let mut asked = self.0.lock().unwrap();
            asked.extend(texts.iter().map(|text| (*text).to_owned()));
            if texts.contains(&"fail") {
                return Err(Error::ShutDown);
            }
            Ok(texts.iter().map(|text| vec![text.len() as f32]).collect())
        }
    }

    #[test]
    fn each_text_is_embedded_once_and_in_its_place() {
        let asked = Arc::new(Asked::default());
        let memory = Remembering::new(asked.clone(), 1 << 20);
        let embed = |texts: &[&str]| memory.embed(texts).map(|vectors| vectors.concat());
        assert_eq!(embed(&["a", "bb"]), Ok(vec![1.0, 2.0]));
        assert_eq!(
            embed(&["ccc", "bb", "a", "dddd"]),
            Ok(vec![3.0, 2.0, 1.0, 4.0])
        );
        assert_eq!(embed(&["a", "fail"]), Err(Error::ShutDown));
        assert_eq!(embed(&["a"]), Ok(vec![1.0]));
        assert_eq!(*asked.0.lock().unwrap(), ["a", "bb", "ccc", "dddd", "fail"]);
    }

    #[test]
    fn what_it_holds_is_bounded() {
        let memory = Remembering::new(Arc::new(Asked::default()), 10_000);
        for text in 0..1_000 {
            memory.embed(&[&text.to_string()]).unwrap();
        }
        memory.vectors.run_pending_tasks();
        assert!(memory.vectors.weighted_size() <= 10_000);
        assert!(memory.vectors.entry_count() > 10);
    }
}
