//! Vectors of texts without a model: hashed words, pairs of words and trigrams of characters.

use std::num::NonZeroU16;

use llmserve_core::{Embedder, Error};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// As many as small sentence encoders have.
const DIMENSIONS: NonZeroU16 = NonZeroU16::new(384).unwrap();

/// Tells likeness by words and spelling, without weights: microseconds a text, and nothing to load.
///
/// A text is lower-cased and cut into words. Each word, each pair of neighbouring words, each three
/// neighbouring characters of a word and each sign between words is a feature; a feature adds to one
/// dimension or takes away from it, as its hash says (Weinberger et al., 2009), by the root of how
/// often it occurs. So texts of the same words are alike, a slip of the pen costs little, and order
/// counts a little. What is *meant* does not show: a paraphrase in other words is no more alike than
/// any other text. For that there are sentence encoders.
///
/// * Chinese, Japanese and other ideographs are words of one character, since nothing separates them.
/// * Upper and lower case, and any amount of white space, make no difference; every other character
///   does. A text of white space alone has a vector of its own.
/// * The arithmetic is exact until the last step: vectors are the same, bit for bit, on every machine.
///   Only characters that a later Unicode than the compiler's gives a meaning may be read differently
///   later on.
///
/// ```
/// use llmserve_cache::HashedNgrams;
/// use llmserve_core::Embedder;
///
/// let embedder = HashedNgrams::default();
/// let vectors = embedder.embed(&[
///     "How do I reset my password?",
///     "how do I reset my pasword",
///     "Convert 15 miles to kilometres.",
/// ])?;
/// let cosine = |a: usize, b: usize| -> f32 {
///     vectors[a].iter().zip(&vectors[b]).map(|(a, b)| a * b).sum()
/// };
/// assert!(cosine(0, 1) > 0.7);
/// assert!(cosine(0, 2) < 0.3);
/// # Ok::<(), llmserve_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedNgrams {
    dimensions: usize,
    identity: String,
}

impl Default for HashedNgrams {
    /// Vectors of 384 numbers.
    fn default() -> Self {
        Self::with_dimensions(DIMENSIONS)
    }
}

impl HashedNgrams {
    /// Vectors of `dimensions` numbers. Fewer make different features meet more often, and texts seem
    /// alike that are not; more cost memory and time in whatever compares them.
    pub fn with_dimensions(dimensions: NonZeroU16) -> Self {
        Self {
            dimensions: usize::from(dimensions.get()),
            identity: format!("hashed-ngram-v1-{dimensions}"),
        }
    }

    fn vector(&self, text: &str) -> Vec<f32> {
        let mut sums = vec![0i64; self.dimensions];
        let mut features = Features::of(text);
        for (kind, hashes) in KINDS.into_iter().zip(&mut features.0) {
            hashes.sort_unstable();
            for equal in hashes.chunk_by(|a, b| a == b) {
                // A root is exact to the last bit on every machine, which a logarithm is not.
                let weight = (equal.len() as f64).sqrt() * kind.weight();
                self.add(&mut sums, equal[0], weight as i64);
            }
        }
        if sums.iter().all(|&sum| sum == 0) {
            // Nothing to see, or features that cancel out.
            let hash = xxh3_64_with_seed(text.trim().as_bytes(), WHOLE);
            self.add(&mut sums, hash, 1);
        }
        // Whole numbers far below 2⁵³, so nothing is rounded before their squares are.
        let squares: f64 = sums.iter().map(|&sum| sum as f64 * sum as f64).sum();
        let length = squares.sqrt();
        sums.iter()
            .map(|&sum| (sum as f64 / length) as f32)
            .collect()
    }

    /// Adds `weight` to the dimension of a feature, or takes it away.
    fn add(&self, sums: &mut [i64], hash: u64, weight: i64) {
        let place = u128::from(hash >> 1) * self.dimensions as u128;
        // Below `dimensions`, since the hash is below 2⁶³.
        let sum = &mut sums[(place >> 63) as usize];
        *sum += if hash & 1 == 0 { weight } else { -weight };
    }
}

impl Embedder for HashedNgrams {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

/// Seed of the feature of a whole text.
const WHOLE: u64 = 0;

/// What a feature is. The number is its hash's seed.
#[derive(Clone, Copy)]
enum Kind {
    Word = 1,
    Pair = 2,
    Trigram = 3,
    Sign = 4,
}

const KINDS: [Kind; 4] = [Kind::Word, Kind::Pair, Kind::Trigram, Kind::Sign];

impl Kind {
    /// How much one occurrence counts: whole numbers, large enough that roots of counts keep a few
    /// digits. A word has as many trigrams as letters, and they repeat what it says.
    fn weight(self) -> f64 {
        match self {
            Kind::Word => 65536.0,
            Kind::Pair => 32768.0,
            Kind::Trigram => 24576.0,
            Kind::Sign => 16384.0,
        }
    }
}

/// Around a word, where trigrams are concerned.
const BEGIN: char = '\u{2}';
const END: char = '\u{3}';

/// The hashes of a text's features, by kind; a feature that occurs twice is there twice.
#[derive(Default)]
struct Features([Vec<u64>; 4]);

impl Features {
    fn of(text: &str) -> Self {
        let mut features = Self::default();
        // The word that is being read, between `BEGIN` and what comes.
        let mut word = vec![BEGIN];
        let mut before = None;
        for c in text.chars().flat_map(char::to_lowercase) {
            // At the end of a word a sigma looks different.
            let c = if c == 'ς' { 'σ' } else { c };
            let joins = is_letter(c) && !stands_alone(c);
            if !joins {
                features.end_word(&mut word, &mut before);
            }
            if is_letter(c) {
                word.push(c);
                if stands_alone(c) {
                    features.end_word(&mut word, &mut before);
                }
            } else if !c.is_whitespace() {
                features.push(Kind::Sign, &u32::from(c).to_le_bytes());
            }
        }
        features.end_word(&mut word, &mut before);
        features
    }

    /// Takes in the word that was read, if there is one. `before` is the hash of the one before it.
    fn end_word(&mut self, word: &mut Vec<char>, before: &mut Option<u64>) {
        let Some(letters) = word.get(1..).filter(|letters| !letters.is_empty()) else {
            return;
        };
        let text: String = letters.iter().collect();
        let hash = self.push(Kind::Word, text.as_bytes());
        if let Some(before) = before.replace(hash) {
            let mut pair = [0; 16];
            pair[..8].copy_from_slice(&before.to_le_bytes());
            pair[8..].copy_from_slice(&hash.to_le_bytes());
            self.push(Kind::Pair, &pair);
        }
        word.push(END);
        for three in word.array_windows::<3>() {
            let mut bytes = [0; 12];
            for (bytes, c) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(three) {
                *bytes = u32::from(*c).to_le_bytes();
            }
            self.push(Kind::Trigram, &bytes);
        }
        word.truncate(1);
    }

    fn push(&mut self, kind: Kind, bytes: &[u8]) -> u64 {
        let hash = xxh3_64_with_seed(bytes, kind as u64);
        self.0[kind as usize - 1].push(hash);
        hash
    }
}

/// What words are made of: letters, digits, and accents that stand behind their letter.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&c)
}

/// Kana and ideographs.
fn stands_alone(c: char) -> bool {
    matches!(
        c,
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    )
}

#[cfg(test)]
mod tests;
