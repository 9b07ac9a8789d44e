//! Prompt lookup: what followed the last few tokens when they came before.
//!
//! ```text
//!  1 3 6 2 3 4 1 2 3│          the longest suffix seen before: 2 3
//!        ▲▲▲                   its first occurrence
//!            4 1 2             what followed it
//! ```
//!
//! The idea is Saxena's prompt lookup decoding (2023) and vLLM's n-gram proposer. Here every
//! sequence keeps an index from n-grams to their first occurrence: a token costs a few insertions
//! when it comes and a few lookups when drafts are wanted, however long the context is.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use llmserve_core::{DraftAsk, Error, Proposer, SequenceId, TokenId};

/// An [`NGram`] that could never draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "n-grams of {shortest} to {longest} tokens: the shortest must be at least 1 and the longest no shorter and at most {}",
    NGram::LONGEST
)]
pub struct NGramError {
    /// The least tokens of an n-gram.
    pub shortest: usize,
    /// The most.
    pub longest: usize,
}

/// Drafts what followed the sequence's last tokens the first time they came.
///
/// ```
/// use llmserve_core::{DraftAsk, Proposer, Sampling, SequenceId};
/// use llmserve_core::sampling::Sampler;
/// use llmserve_sched::speculation::NGram;
///
/// let mut tokens = vec![1, 3, 6, 2, 3, 4, 1, 2, 3];
/// let mut sampler = Sampler::new(&Sampling::default(), 0, 0);
/// let mut ask = DraftAsk::new(SequenceId::new(0, 0), &mut tokens, 9, 3, &mut sampler);
/// NGram::new(2, 2)?.propose(std::slice::from_mut(&mut ask))?;
/// assert_eq!(ask.drafted(), [4, 1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NGram {
    shortest: usize,
    longest: usize,
    /// By slot.
    indexes: Vec<Option<(SequenceId, Index)>>,
}

impl NGram {
    /// Longest n-gram there can be.
    pub const LONGEST: usize = 16;

    /// Looks for n-grams of `longest` tokens first, of `shortest` last.
    ///
    /// # Errors
    /// [`NGramError`].
    pub fn new(shortest: usize, longest: usize) -> Result<Self, NGramError> {
        if shortest == 0 || longest < shortest || longest > Self::LONGEST {
            return Err(NGramError { shortest, longest });
        }
        Ok(Self {
            shortest,
            longest,
            indexes: Vec::new(),
        })
    }

    fn index(&mut self, id: SequenceId) -> &mut Index {
        let slot = id.slot();
        if slot >= self.indexes.len() {
            self.indexes.resize_with(slot + 1, || None);
        }
        let place = &mut self.indexes[slot];
        if place.as_ref().is_none_or(|(owner, _)| *owner != id) {
            *place = None;
        }
        &mut place.get_or_insert_with(|| (id, Index::default())).1
    }
}

/// Two to four tokens: a single one that recurs says little of what follows.
impl Default for NGram {
    fn default() -> Self {
        Self {
            shortest: 2,
            longest: 4,
            indexes: Vec::new(),
        }
    }
}

impl Proposer for NGram {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        let (shortest, longest) = (self.shortest, self.longest);
        for ask in asks {
            let index = self.index(ask.sequence());
            index.catch_up(ask.known(), shortest, longest);
            let Some(next) = index.find(ask.known(), shortest, longest) else {
                continue;
            };
            let end = ask.known().len().min(next + ask.wanted());
            for at in next..end {
                let token = ask.known()[at];
                ask.push(token);
            }
        }
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) {
        if let Some(place) = self.indexes.get_mut(sequence.slot())
            && place.as_ref().is_some_and(|(owner, _)| *owner == sequence)
        {
            *place = None;
        }
    }
}

/// The n-grams of one sequence.
#[derive(Debug, Default)]
struct Index {
    /// Where what follows an n-gram began the first time, by the n-gram's hash.
    follows: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    /// Tokens whose n-grams are in: all but the last, which nothing follows yet.
    indexed: usize,
}

impl Index {
    /// Adds the n-grams that end before the last of `tokens`.
    fn catch_up(&mut self, tokens: &[TokenId], shortest: usize, longest: usize) {
        let end = tokens.len().saturating_sub(1);
        for last in self.indexed..end {
            each_suffix(&tokens[..=last], longest, |n, hash| {
                if n >= shortest {
                    self.follows.entry(hash).or_insert(last as u32 + 1);
                }
            });
        }
        self.indexed = self.indexed.max(end);
    }

    /// Where what followed the longest known suffix of `tokens` begins.
    fn find(&self, tokens: &[TokenId], shortest: usize, longest: usize) -> Option<usize> {
        let mut found = None;
        each_suffix(tokens, longest, |n, hash| {
            if n < shortest {
                return;
            }
            let Some(&next) = self.follows.get(&hash) else {
                return;
            };
            let next = next as usize;
            // Hashes may collide.
            let same = next >= n && tokens[next - n..next] == tokens[tokens.len() - n..];
            if same {
                found = Some(next);
            }
        });
        found
    }
}

/// The hash of each suffix of up to `longest` tokens, the shortest first.
fn each_suffix(tokens: &[TokenId], longest: usize, mut each: impl FnMut(usize, u64)) {
    let mut hash = 0u64;
    for (n, &token) in tokens.iter().rev().take(longest).enumerate() {
        // SplitMix64's finaliser over the hash so far and the next token.
        let mut z = hash ^ (u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash = (z ^ (z >> 31)).wrapping_add(n as u64 + 1);
        each(n + 1, hash);
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::Sampling;
    use llmserve_core::sampling::Sampler;
    use proptest::prelude::*;

    fn drafts(ngram: &mut NGram, tokens: &[TokenId], depth: usize) -> Vec<TokenId> {
        let mut context = tokens.to_vec();
        let mut sampler = Sampler::new(&Sampling::default(), 0, 0);
        let id = SequenceId::new(3, 1);
        let mut ask = DraftAsk::new(id, &mut context, 1, depth, &mut sampler);
        ngram.propose(std::slice::from_mut(&mut ask)).unwrap();
        assert_eq!(ask.known(), tokens);
        ask.drafted().to_vec()
    }

    /// Behaviour: the longest suffix wins, its earliest occurrence is used.
    #[test]
    fn the_numbers_of_the_field() {
        let tokens = [1, 3, 6, 2, 3, 4, 1, 2, 3];
        assert_eq!(drafts(&mut NGram::new(1, 1).unwrap(), &tokens, 2), [6, 2]);
        assert_eq!(
            drafts(&mut NGram::new(2, 2).unwrap(), &tokens, 3),
            [4, 1, 2]
        );
        assert_eq!(
            drafts(&mut NGram::new(1, 2).unwrap(), &tokens, 3),
            [4, 1, 2]
        );
        assert!(drafts(&mut NGram::new(3, 3).unwrap(), &tokens, 3).is_empty());
        assert!(drafts(&mut NGram::new(1, 3).unwrap(), &[5], 3).is_empty());
    }

    #[test]
    fn a_slot_with_a_new_owner_starts_again() {
        let mut ngram = NGram::new(1, 1).unwrap();
        assert_eq!(drafts(&mut ngram, &[7, 8, 7], 1), [8]);
        let mut context = vec![9, 9, 7];
        let mut sampler = Sampler::new(&Sampling::default(), 0, 0);
        let id = SequenceId::new(3, 2);
        let mut ask = DraftAsk::new(id, &mut context, 1, 4, &mut sampler);
        ngram.propose(std::slice::from_mut(&mut ask)).unwrap();
        assert!(ask.drafted().is_empty());
        ngram.close(SequenceId::new(3, 1));
        assert!(ngram.indexes[3].is_some(), "closed by its owner alone");
        ngram.close(id);
        assert!(ngram.indexes[3].is_none());
    }

    #[test]
    fn what_cannot_draft_is_refused() {
        for (shortest, longest) in [(0, 2), (3, 2), (1, 17)] {
            assert!(NGram::new(shortest, longest).is_err());
        }
    }

    /// What the index stands for.
    fn rescan(tokens: &[TokenId], shortest: usize, longest: usize, depth: usize) -> Vec<TokenId> {
        for n in (shortest..=longest).rev().filter(|n| *n < tokens.len()) {
            let suffix = &tokens[tokens.len() - n..];
            let at = tokens[..tokens.len() - 1]
                .windows(n)
                .position(|w| w == suffix);
            if let Some(at) = at {
                let next = at + n;
                return tokens[next..tokens.len().min(next + depth)].to_vec();
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn agrees_with_a_rescan_however_it_grew(
            tokens in prop::collection::vec(0..4u32, 1..80),
            shortest in 1..4usize,
            more in 0..3usize,
            steps in prop::collection::vec(1..9usize, 0..20),
        ) {
            let longest = shortest + more;
            let mut ngram = NGram::new(shortest, longest).unwrap();
            let mut end = 1;
            for step in steps {
                let known = &tokens[..end];
                let expected = rescan(known, shortest, longest, step);
                prop_assert_eq!(drafts(&mut ngram, known, step), expected);
                end = (end + step).min(tokens.len());
            }
        }
    }
}
