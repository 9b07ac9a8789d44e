//! Words that tell.

use std::collections::BTreeMap;

use llmserve_core::Request;

use super::{ComplexityError, Estimator, asked, check};

/// By the words in what is asked: the hardest of those that occur; none where none does.
///
/// Whole words, whatever their case; a phrase is found where its words follow each other. Of a
/// conversation, what the user said last; the first 8 KiB.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::tiers::{ByKeywords, Estimator};
/// let words = ByKeywords::new([("translate", 0.2), ("step by step", 0.8)])?;
/// assert_eq!(words.estimate(&Request::text("Translate, step-by-step!")), Some(0.8));
/// assert_eq!(words.estimate(&Request::text("a translated word")), None);
/// # Ok::<(), llmserve_route::tiers::ComplexityError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByKeywords {
    /// Words between spaces, and what they tell.
    words: BTreeMap<String, f32>,
}

impl ByKeywords {
    /// Words or phrases, each with the complexity it tells of.
    ///
    /// # Errors
    /// No words, one without a letter or digit, or a complexity that is none.
    pub fn new<'a>(
        words: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<Self, ComplexityError> {
        let mut of = BTreeMap::new();
        for (word, complexity) in words {
            check(&format!("keyword {word:?}"), complexity)?;
            let plain = plain(word);
            if plain.trim().is_empty() {
                return Err(ComplexityError::BadValue {
                    what: "a keyword".to_owned(),
                    value: format!("{word:?}"),
                    reason: "it needs a letter or a digit",
                });
            }
            of.insert(plain, complexity);
        }
        if of.is_empty() {
            return Err(ComplexityError::Nothing { what: "keywords" });
        }
        Ok(Self { words: of })
    }
}

/// Words in lower case, each between spaces.
fn plain(text: &str) -> String {
    let mut plain = String::from(" ");
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            plain.extend(word.chars().flat_map(char::to_lowercase));
            plain.push(' ');
        }
    }
    plain
}

impl Estimator for ByKeywords {
    fn estimate(&self, request: &Request) -> Option<f32> {
        let text = plain(asked(request)?);
        let found = self.words.iter().filter(|(word, _)| text.contains(*word));
        found.map(|(_, complexity)| *complexity).reduce(f32::max)
    }
}
