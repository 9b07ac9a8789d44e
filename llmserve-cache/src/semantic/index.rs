//! Texts by meaning: the nearest in a namespace, unless a veto tells it apart.
//!
//! ```text
//!  namespaces   namespace ─► shelf (vectors) ─┐ place ─► entry
//!  by_id        id ─────────────────────────┐ │
//!  entries      [ text, id, namespace, place, older, newer ]     a slab; entries keep their number
//!  use          oldest ◄─► … ◄─► newest                          a list through the slab
//! ```
//!
//! Adding, removing and evicting touch one entry and its neighbours, whatever the size.

mod builder;
mod state;

use std::fmt;
use std::sync::Arc;

use llmserve_core::Embedder;
use parking_lot::RwLock;

pub use builder::SemanticIndexBuilder;

use super::error::IndexError;
use super::nearest::{Nearest, Verdict};
use super::quantised::{Quantised, Query, unit};
use super::threshold::{HOLDS_TOGETHER, Threshold};
use super::veto::{Reading, Veto, compare, focus};
use state::State;

/// Texts by meaning, in namespaces, bounded in bytes.
///
/// A namespace holds what may share answers at all: the same tenant, model, system prompt, tools,
/// earlier turns and parameters, as a number that the caller computes. Within it, the `candidates`
/// nearest texts are found, and the first that no [`Veto`] tells apart is the hit. Where there are
/// many, not all are read: see [`SemanticIndexBuilder::approximate_from`].
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::semantic::{SemanticIndex, Veto};
/// # use llmserve_core::{Embedder, Error};
/// # /// Counts letters.
/// # struct Letters;
/// # impl Embedder for Letters {
/// #     fn dimensions(&self) -> usize { 27 }
/// #     fn identity(&self) -> &str { "letters" }
/// #     fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
/// #         Ok(texts.iter().map(|text| {
/// #             let mut v = vec![0.001; 27];
/// #             for b in text.to_lowercase().bytes().filter(u8::is_ascii_lowercase) { v[usize::from(b - b'a')] += 1.0; }
/// #             let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
/// #             v.iter().map(|x| x / length).collect()
/// #         }).collect())
/// #     }
/// # }
/// # let embedder: Arc<dyn Embedder> = Arc::new(Letters);
///
/// let index = SemanticIndex::builder(embedder.clone()).build()?;
/// let vector = |text: &str| embedder.embed(&[text]).map(|mut all| all.remove(0));
///
/// let (namespace, stored) = (7, "How tall is Mount Fuji?");
/// index.insert(namespace, stored, &vector(stored)?, 1)?;
///
/// let asked = "how tall is mount fuji";
/// let near = index.lookup(namespace, asked, &vector(asked)?)?.expect("there is one text");
/// assert!(near.is_hit() && near.id == 1);
///
/// let asked = "How tall is Mount Fuji not?";
/// let near = index.lookup(namespace, asked, &vector(asked)?)?.expect("there is one text");
/// assert_eq!(near.veto(), Some(Veto::Negation));
///
/// assert!(index.lookup(8, stored, &vector(stored)?)?.is_none(), "another namespace");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Lookups run beside each other; an insertion waits for those under way. What an entry's id stands
/// for is the caller's: an entry may be evicted while the answer lives, and the other way round.
pub struct SemanticIndex {
    embedder: Arc<dyn Embedder>,
    threshold: Threshold,
    candidates: usize,
    state: RwLock<State>,
}

/// What an index holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexStats {
    /// Texts held.
    pub entries: usize,
    /// Namespaces that hold them.
    pub namespaces: usize,
    /// Bytes held: vectors, texts and bookkeeping.
    pub bytes: usize,
    /// Texts given up to make room.
    pub evictions: u64,
}

impl SemanticIndex {
    /// Starts making one. The embedder says how long vectors are and how near is near enough, and
    /// compares the words in which two texts differ.
    pub fn builder(embedder: Arc<dyn Embedder>) -> SemanticIndexBuilder {
        SemanticIndexBuilder::new(embedder)
    }

    /// Adds a text under `id`, in place of what was under it before. `vector` is the text's, by the
    /// index's embedder. The least recently used entries of all namespaces make room.
    ///
    /// # Errors
    /// A vector of another length or without a direction; an entry larger than the index may be.
    pub fn insert(
        &self,
        namespace: u128,
        text: &str,
        vector: &[f32],
        id: u128,
    ) -> Result<(), IndexError> {
        let vector = Quantised::new(&self.unit(vector)?);
        let mut let_go = Vec::new();
        self.state
            .write()
            .insert(namespace, text, &vector, id, &mut let_go)
    }

    /// The nearest text whose answer may be given; if there is none, the nearest, with the reason.
    /// `None` in an empty namespace. `vector` is the text's, by the index's embedder.
    ///
    /// A hit counts as a use. May embed the words in which two near texts differ, so it may take as
    /// long as the embedder does; the index is not locked meanwhile.
    ///
    /// # Errors
    /// A vector of another length or without a direction; the embedder's own.
    pub fn lookup(
        &self,
        namespace: u128,
        text: &str,
        vector: &[f32],
    ) -> Result<Option<Nearest>, IndexError> {
        let query = Query::new(self.unit(vector)?);
        let near = self
            .state
            .read()
            .nearest(namespace, &query, self.candidates);
        let mut nearest = None;
        for found in near {
            let is_near = found.similarity >= self.threshold.texts;
            let too_far = found.similarity < self.threshold.least();
            let verdict = if too_far {
                Verdict::Far
            } else {
                match self.weigh(text, &found.text, is_near)? {
                    None => Verdict::Hit,
                    Some(veto) if is_near => Verdict::Vetoed(veto),
                    Some(_) => Verdict::Far,
                }
            };
            let found = Nearest {
                id: found.id,
                similarity: found.similarity,
                text: found.text,
                verdict,
            };
            if verdict == Verdict::Hit {
                self.state.write().touch(found.id);
                return Ok(Some(found));
            }
            nearest.get_or_insert(found);
            // Of those below the threshold the nearest is weighed, as that means embedding.
            if !is_near {
                break;
            }
        }
        Ok(nearest)
    }

    /// The `k` nearest texts, best first: id and cosine. Nothing is read, judged or counted as used.
    ///
    /// # Errors
    /// A vector of another length or without a direction.
    pub fn neighbours(
        &self,
        namespace: u128,
        vector: &[f32],
        k: usize,
    ) -> Result<Vec<(u128, f32)>, IndexError> {
        let query = Query::new(self.unit(vector)?);
        let found = self.state.read().nearest(namespace, &query, k);
        Ok(found
            .iter()
            .map(|found| (found.id, found.similarity))
            .collect())
    }

    /// What tells two texts apart: by reading both, and by embedding what they differ in. Symmetric.
    /// Whether they are near at all, [`lookup`](Self::lookup) looks at before.
    ///
    /// # Errors
    /// The embedder's own.
    pub fn tell_apart(&self, a: &str, b: &str) -> Result<Option<Veto>, IndexError> {
        self.weigh(a, b, true)
    }

    /// What tells two texts apart, of which it is known whether they are near.
    fn weigh(&self, a: &str, b: &str, is_near: bool) -> Result<Option<Veto>, IndexError> {
        let focus = focus(a, b);
        let wording = match compare(&focus) {
            Ok(wording) => wording,
            Err(veto) => return Ok(Some(veto)),
        };
        // Sentences, where the texts share others.
        if focus.shared && focus.a != focus.b && !focus.a.is_empty() && !focus.b.is_empty() {
            let cosine = self.cosine(focus.a, focus.b)?;
            if cosine < self.threshold.texts || cosine.is_nan() {
                return Ok(Some(Veto::Wording));
            }
        }
        let [own_a, own_b] = &wording.own;
        let one_sided = own_a.is_empty() || own_b.is_empty();
        let reading = match wording.reading {
            Some(reading) => reading,
            None if is_near && one_sided => return Ok(None),
            None if is_near && self.cosine(own_a, own_b)? >= self.threshold.words => {
                return Ok(None);
            }
            None => Reading::Unknown(Veto::Wording),
        };
        let veto = reading.veto();
        let most = match (self.threshold.gain, reading) {
            (Some(most), Reading::Unknown(_)) if is_near => most,
            // Words that one text alone has hold nothing together.
            (Some(_), _) if one_sided => return Ok(Some(veto)),
            (Some(_), Reading::Unlikely(_)) if is_near => 0.0,
            (Some(_), _) => HOLDS_TOGETHER,
            (None, _) => return Ok(Some(veto)),
        };
        let [rest_a, rest_b] = &wording.rest;
        let distance = 1.0 - self.cosine(focus.a, focus.b)?;
        let left = 1.0 - self.cosine(rest_a, rest_b)?;
        // Not "more than": what is no number is no paraphrase either.
        let goes_on = distance - left <= most * distance;
        Ok((!goes_on).then_some(veto))
    }

    /// How alike two texts are, by the embedder.
    fn cosine(&self, a: &str, b: &str) -> Result<f32, IndexError> {
        let vectors = self.embedder.embed(&[a, b])?;
        Ok(match &vectors[..] {
            [a, b] => a.iter().zip(b).map(|(a, b)| a * b).sum(),
            _ => f32::NAN,
        })
    }

    /// Removes the entry of an id. Whether there was one.
    pub fn remove(&self, id: u128) -> bool {
        let let_go = self.state.write().remove(id);
        let_go.is_some()
    }

    /// Removes a namespace and all in it. How many entries that were.
    pub fn remove_namespace(&self, namespace: u128) -> usize {
        let let_go = self.state.write().remove_namespace(namespace);
        let_go.len()
    }

    /// Removes everything.
    pub fn clear(&self) {
        let let_go = self.state.write().clear();
        drop(let_go);
    }

    /// What it holds and did.
    pub fn stats(&self) -> IndexStats {
        self.state.read().stats()
    }

    /// What makes its vectors.
    pub fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.embedder
    }

    /// How near is near enough.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    fn unit(&self, vector: &[f32]) -> Result<Vec<f32>, IndexError> {
        let (given, wanted) = (vector.len(), self.embedder.dimensions());
        if given != wanted {
            return Err(IndexError::Dimensions { given, wanted });
        }
        unit(vector).ok_or(IndexError::NoDirection)
    }
}

impl fmt::Debug for SemanticIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemanticIndex")
            .field("embedder", &self.embedder.identity())
            .field("threshold", &self.threshold)
            .field("candidates", &self.candidates)
            .field("stats", &self.stats())
            .finish()
    }
}

#[cfg(test)]
mod tests;
