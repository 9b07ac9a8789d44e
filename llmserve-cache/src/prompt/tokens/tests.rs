use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve_core::MemoryRecorder;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::BuildError;

/// One token a part, which begins at a `|` or at the beginning: so only before a `|` is a seam.
#[derive(Default)]
struct Parts {
    bytes: AtomicUsize,
    /// Added around a text, where that is to be known.
    frame: Option<(Vec<TokenId>, Vec<TokenId>)>,
    /// What `seam` says whatever the text is.
    seam: Option<usize>,
}

impl Parts {
    fn new() -> Self {
        Self {
            frame: Some((vec![1, 2], vec![3])),
            ..Self::default()
        }
    }
}

impl Tokenizer for Parts {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.bytes.fetch_add(text.len(), Ordering::Relaxed);
        if text.contains('!') {
            return Err(TokenizerError::Codec(format!("{} bytes", text.len())));
        }
        assert!(!text.contains('?'), "asked");
        let starts = (0..text.len()).filter(|&at| at == 0 || text.as_bytes()[at] == b'|');
        let starts: Vec<_> = starts.chain([text.len()]).collect();
        let parts = starts.windows(2).map(|ends| &text[ends[0]..ends[1]]);
        let ids = parts.map(|part| xxh3_64(part.as_bytes()) as TokenId);
        Ok(match add_special {
            true => [1, 2].into_iter().chain(ids).chain([3]).collect(),
            false => ids.collect(),
        })
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        Ok(format!("{ids:?} {skip_special}"))
    }

    fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TokenizerError> {
        Ok(format!("{} {options:?}", messages.len()))
    }

    fn seam(&self, text: &str, from: usize) -> Option<usize> {
        if self.seam.is_some() {
            return self.seam;
        }
        (from.max(1)..text.len()).find(|&at| text.as_bytes()[at] == b'|')
    }

    fn frame(&self) -> Option<(&[TokenId], &[TokenId])> {
        self.frame
            .as_ref()
            .map(|(before, behind)| (&**before, &**behind))
    }
}

fn around(inner: Parts, chunk: usize) -> (CachingTokenizer, Arc<Parts>) {
    let inner = Arc::new(inner);
    let tokenizer = CachingTokenizer::builder(inner.clone()).chunk_bytes(chunk);
    (tokenizer.build().unwrap(), inner)
}

/// Parts of ten bytes, no two alike.
fn parts(count: usize) -> String {
    (0..count)
        .map(|number| format!("|part {number:04}"))
        .collect()
}

fn encoded(inner: &Parts, work: impl FnOnce()) -> usize {
    let before = inner.bytes.load(Ordering::Relaxed);
    work();
    inner.bytes.load(Ordering::Relaxed) - before
}

#[test]
fn what_texts_begin_with_is_encoded_once() {
    let (tokenizer, inner) = around(Parts::new(), 10);
    let system = parts(60);
    let first = format!("{system}|who is there");
    let second = format!("{system}|nay answer me");
    let whole = encoded(&inner, || drop(tokenizer.encode(&first, false).unwrap()));
    assert_eq!(whole, first.len());
    let stats = tokenizer.stats();
    assert_eq!((stats.hits, stats.bytes_saved), (0, 0));
    assert_eq!(stats.entries as u64, stats.misses);

    let again = encoded(&inner, || {
        assert_eq!(
            tokenizer.encode(&second, false).unwrap(),
            Parts::new().encode(&second, false).unwrap()
        );
    });
    let now = tokenizer.stats();
    assert_eq!(again as u64 + now.bytes_saved, second.len() as u64);
    assert!(again < 40, "{again}");
    assert_eq!(now.hits, stats.misses, "all but the rest");
    assert!(now.bytes > now.entries * pieces::OVERHEAD + system.len());
}

#[test]
fn short_texts_and_those_without_seams_go_straight_through() {
    let (tokenizer, inner) = around(Parts::new(), 8);
    for text in [
        "",
        "a|b",
        "|2345678",
        "a text without any seam at all",
        "|and one at 0",
    ] {
        for add_special in [false, true] {
            let bytes = encoded(&inner, || {
                assert_eq!(
                    tokenizer.encode(text, add_special),
                    Parts::new().encode(text, add_special)
                );
            });
            assert_eq!(bytes, text.len());
        }
    }
    assert_eq!(tokenizer.stats(), TokenCacheStats::default());
}

#[test]
fn a_frame_that_is_not_known_has_the_whole_encoded() {
    let text = parts(9);
    let (known, _) = around(Parts::new(), 8);
    let (unknown, inner) = around(Parts::default(), 8);
    for tokenizer in [&known, &unknown] {
        for _ in 0..2 {
            assert_eq!(
                tokenizer.encode(&text, true),
                Parts::new().encode(&text, true)
            );
        }
    }
    assert_eq!(known.stats().hits, known.stats().misses);
    assert_eq!(unknown.stats(), TokenCacheStats::default());
    assert_eq!(inner.bytes.load(Ordering::Relaxed), 2 * text.len());
}

#[test]
fn errors_are_passed_on_and_not_kept() {
    let (tokenizer, inner) = around(Parts::new(), 8);
    let text = "|some words".repeat(3) + "|and an!error" + &"|some words".repeat(3);
    for _ in 0..2 {
        assert!(matches!(
            tokenizer.encode(&text, true),
            Err(TokenizerError::Codec(_))
        ));
    }
    let stats = tokenizer.stats();
    assert_eq!((stats.entries, stats.hits), (1, 5), "the piece before it");
    let rest = encoded(&inner, || {
        drop(tokenizer.encode(&text.replace('!', "-"), true))
    });
    assert!(rest < text.len());
}

#[test]
fn a_panic_passes_through_and_breaks_nothing() {
    let (tokenizer, _) = around(Parts::new(), 8);
    let text = "|some words".repeat(3) + "|and a question? no" + &"|some words".repeat(3);
    for _ in 0..2 {
        let result = catch_unwind(AssertUnwindSafe(|| tokenizer.encode(&text, false)));
        assert!(result.is_err());
    }
    assert_eq!(tokenizer.stats().hits, 5);
    let text = text.replace('?', ".");
    assert_eq!(
        tokenizer.encode(&text, false),
        Parts::new().encode(&text, false)
    );
}

#[test]
fn places_against_the_contract_are_none() {
    let text = "ää|some words|and others";
    for seam in [0, 1, text.len(), text.len() + 1, usize::MAX] {
        let inner = Parts {
            seam: Some(seam),
            ..Parts::new()
        };
        let (tokenizer, _) = around(inner, 1);
        assert_eq!(
            tokenizer.encode(text, true),
            Parts::new().encode(text, true)
        );
    }
}

#[test]
fn all_else_is_the_inner_tokenizers() {
    let (tokenizer, inner) = around(Parts::new(), 8);
    assert_eq!(tokenizer.decode(&[1], true), inner.decode(&[1], true));
    let messages = [Message::user("Hi")];
    let options = RenderOptions::default();
    assert_eq!(
        tokenizer.render(&messages, &options),
        inner.render(&messages, &options)
    );
    assert_eq!(tokenizer.seam("a|b|c", 2), Some(3));
    assert_eq!(tokenizer.frame(), inner.frame());
    assert_eq!(around(Parts::default(), 8).0.frame(), None);
}

#[test]
fn limits_that_hold_nothing_are_refused() {
    let builder = || CachingTokenizer::builder(Arc::new(Parts::new()));
    assert_eq!(
        builder().chunk_bytes(0).build().err(),
        Some(BuildError::ChunkBytes)
    );
    let least = 100 + pieces::OVERHEAD;
    let refused = builder().chunk_bytes(100).max_bytes(least).build().err();
    let expected = BuildError::TokenBytes {
        given: least,
        least,
    };
    assert_eq!(refused, Some(expected));
    assert!(builder().chunk_bytes(usize::MAX).build().is_err());
    assert!(
        builder()
            .chunk_bytes(100)
            .max_bytes(least + 1)
            .build()
            .is_ok()
    );
}

#[test]
fn threads_agree() {
    let (tokenizer, _) = around(Parts::new(), 16);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tokenizer = &tokenizer;
            scope.spawn(move || {
                for round in 0..200 {
                    let text = parts(20) + &format!("|{thread} {round}");
                    let expected = Parts::new().encode(&text, true);
                    assert_eq!(tokenizer.encode(&text, true), expected);
                }
            });
        }
    });
    let stats = tokenizer.stats();
    assert_eq!(stats.hits + stats.misses, 4 * 200 * 10);
    assert!(stats.misses >= 10 && stats.hits > 7_000, "{stats:?}");
}

#[test]
fn metrics_say_what_the_stats_say() {
    let told = Arc::new(MemoryRecorder::default());
    let tokenizer = CachingTokenizer::builder(Arc::new(Parts::new()))
        .chunk_bytes(8)
        .recorder(told.clone())
        .build()
        .unwrap();
    for round in 0..4 {
        let text = "|some words".repeat(5) + &format!("|{round} others|and more");
        tokenizer.encode(&text, true).unwrap();
        tokenizer.stats();
    }
    let stats = tokenizer.stats();
    let value = |name: &str| {
        let name = format!("llmserve_cache_{name}");
        let labelled = format!("{name}{{level=\"tokens\"}} ");
        assert!(told.render().contains(&labelled), "{name}");
        told.value(&name).unwrap()
    };
    assert!(stats.hits > 0 && stats.misses > 0);
    assert_eq!(value("hits_total"), stats.hits as f64);
    assert_eq!(value("misses_total"), stats.misses as f64);
    assert_eq!(value("saved_bytes_total"), stats.bytes_saved as f64);
    let ratio = stats.hits as f64 / (stats.hits + stats.misses) as f64;
    assert_eq!(value("hit_ratio"), ratio);
    // Told as of lately.
    assert!(value("entries") <= stats.entries as f64);
    assert!(value("bytes") <= stats.bytes as f64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_are_those_of_the_inner_tokenizer(
        texts in prop::collection::vec("[ab|ä🙂 ]{0,60}", 1..30),
        starts in prop::collection::vec(0usize..30, 1..60),
        chunk in 1usize..40,
        small in any::<bool>(),
        add_special in any::<bool>(),
    ) {
        let max_bytes = if small { 2_000 } else { 1 << 20 };
        let tokenizer = CachingTokenizer::builder(Arc::new(Parts::new()))
            .chunk_bytes(chunk)
            .max_bytes(max_bytes)
            .build()
            .unwrap();
        let inner = Parts::new();
        for start in starts {
            // Texts that begin alike, and then part.
            let text: String = texts.iter().cycle().skip(start / 7).take(start).map(String::as_str).collect();
            prop_assert_eq!(tokenizer.encode(&text, add_special), inner.encode(&text, add_special));
        }
        prop_assert!(tokenizer.stats().bytes <= max_bytes);
    }
}
