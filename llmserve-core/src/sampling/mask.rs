//! Which tokens may follow, as bits: what a grammar allows.

use super::select::{BLOCK, Candidate};
use super::survey::Survey;
use crate::ids::TokenId;

/// A set of tokens: one bit for each of a vocabulary. A word holds those of one block of a
/// [`Survey`], so whole blocks are passed over.
///
/// ```
/// use llmserve_core::sampling::TokenMask;
/// let mut mask = TokenMask::none(100);
/// mask.allow(3);
/// mask.allow(99);
/// mask.allow(100); // beyond the vocabulary: nothing
/// assert_eq!(mask.iter().collect::<Vec<_>>(), [3, 99]);
/// mask.forbid(3);
/// assert!(mask.allows(99) && !mask.allows(3));
/// assert_eq!(mask.count(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u64>,
    len: usize,
}

// A word of bits is a block of logits.
const _: () = assert!(BLOCK == u64::BITS as usize);

impl TokenMask {
    /// No token of a vocabulary of `len`.
    pub fn none(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(BLOCK)],
            len,
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.len
    }

    /// Empties the set, and makes it one of a vocabulary of `len`; keeps its memory.
    pub fn reset(&mut self, len: usize) {
        self.words.clear();
        self.words.resize(len.div_ceil(BLOCK), 0);
        self.len = len;
    }

    /// Adds a token; one outside of the vocabulary is nothing.
    pub fn allow(&mut self, token: TokenId) {
        if (token as usize) < self.len {
            self.words[token as usize / BLOCK] |= 1 << (token as usize % BLOCK);
        }
    }

    /// Removes a token.
    pub fn forbid(&mut self, token: TokenId) {
        if (token as usize) < self.len {
            self.words[token as usize / BLOCK] &= !(1 << (token as usize % BLOCK));
        }
    }

    /// Whether the token is in the set.
    pub fn allows(&self, token: TokenId) -> bool {
        let word = self.words.get(token as usize / BLOCK);
        word.is_some_and(|word| word >> (token as usize % BLOCK) & 1 == 1)
    }

    /// Replaces the set by bits of 32 tokens a word, the lowest first; those beyond the vocabulary
    /// are left out.
    pub fn fill_from_u32(&mut self, bits: &[u32]) {
        for (index, word) in self.words.iter_mut().enumerate() {
            let half = |at: usize| u64::from(bits.get(at).copied().unwrap_or(0));
            *word = half(2 * index) | half(2 * index + 1) << 32;
        }
        let beyond = self.words.len() * BLOCK - self.len;
        if let Some(last) = self.words.last_mut() {
            *last &= u64::MAX >> beyond;
        }
    }

    /// How many tokens are in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The tokens, ascending.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> {
        let words = self.words.iter().enumerate();
        words.flat_map(|(index, word)| {
            bits(*word).map(move |bit| (index * BLOCK) as TokenId + bit as TokenId)
        })
    }

    /// The best token of the set, lowest id among equals; none if all of the set are ruled out.
    /// `survey` is that of `row`.
    pub(super) fn peak(&self, row: &[f32], survey: &Survey) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        for ((first, most, block), word) in survey.blocks(row).zip(&self.words) {
            let bar = best.map_or(f32::NEG_INFINITY, |best| best.logit);
            if *word == 0 || most <= bar {
                continue;
            }
            for bit in bits(*word) {
                let Some(&logit) = block.get(bit) else { break };
                if logit > best.map_or(f32::NEG_INFINITY, |best| best.logit) {
                    let id = first + bit as TokenId;
                    best = Some(Candidate { logit, id });
                }
            }
        }
        best
    }

    /// Rules out what is not in the set.
    pub(super) fn apply(&self, row: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (block, word) in row.chunks_mut(BLOCK).zip(words) {
            match word {
                u64::MAX => {}
                0 => block.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in block.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    /// Whether [`apply`](Self::apply) leaves block `number` as it is.
    pub(super) fn spares(&self, number: usize) -> bool {
        self.words.get(number) == Some(&u64::MAX)
    }
}

/// The places of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        (word != 0).then(|| {
            word &= word - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::surveyed;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(
            len in 1usize..300,
            changes in prop::collection::vec((0u32..320, any::<bool>()), 0..200),
        ) {
            let (mut mask, mut set) = (TokenMask::none(len), BTreeSet::new());
            for (token, allow) in changes {
                match allow {
                    true => {
                        mask.allow(token);
                        set.extend(Some(token).filter(|t| (*t as usize) < len));
                    }
                    false => {
                        mask.forbid(token);
                        set.remove(&token);
                    }
                }
            }
            prop_assert!(mask.iter().eq(set.iter().copied()));
            prop_assert_eq!(mask.count(), set.len());
            prop_assert_eq!(mask.is_empty(), set.is_empty());
            prop_assert!((0..400).all(|t| mask.allows(t) == set.contains(&t)));
            // Through words of 32, with rubbish beyond the vocabulary.
            let mut words = vec![0u32; len.div_ceil(32)];
            for token in &set {
                words[*token as usize / 32] |= 1 << (token % 32);
            }
            if len % 32 != 0 {
                *words.last_mut().unwrap() |= u32::MAX << (len % 32);
            }
            let mut other = TokenMask::none(len);
            other.fill_from_u32(&words);
            prop_assert_eq!(&other, &mask);
            mask.reset(len + 1);
            prop_assert_eq!(mask, TokenMask::none(len + 1));
        }

        #[test]
        fn the_best_of_a_set_is_the_best_of_a_masked_row(
            logits in prop::collection::vec(prop_oneof![
                6 => -9.0f32..9.0, 2 => (-2i8..3).prop_map(f32::from),
                1 => Just(f32::NEG_INFINITY),
            ], 1..400),
            allowed in prop::collection::vec(any::<bool>(), 400),
            whole in any::<u8>(),
        ) {
            let mut mask = TokenMask::none(logits.len());
            for (token, allowed) in allowed.iter().enumerate().take(logits.len()) {
                // Some blocks as a whole.
                if whole >> (token / BLOCK) & 1 == 1 || *allowed {
                    mask.allow(token as TokenId);
                }
            }
            let survey = surveyed(&logits);
            let mut row = logits.clone();
            mask.apply(&mut row);
            for (token, logit) in row.iter().enumerate() {
                let left = if mask.allows(token as TokenId) { logits[token] } else { f32::NEG_INFINITY };
                prop_assert_eq!(*logit, left);
            }
            let masked = surveyed(&row);
            prop_assert_eq!(mask.peak(&logits, &survey), masked.peak(&row).unwrap());
            let mut followed = survey.clone();
            followed.mask(&row, &mask);
            prop_assert_eq!(followed, masked);
        }
    }
}
