//! What tells two texts apart although their vectors are near.
//!
//! A vector is a mean over many words, and one word moves it little: "without" for "with", "2022"
//! for "2021", "Java" for "Python". Yet that one word is what was asked. So before an answer is
//! shared, both texts are read, and a difference that matters is a veto:
//!
//! ```text
//!  a ──┐                                             ┌─ language   English, German; Python, Java
//!      ├─► the sentences in which they differ ─►     ├─ code       `==`, --flags, paths, "quotations"
//!  b ──┘   (what templates share is left out)        ├─ number     digits, words, ranges, versions
//!                     │                              ├─ unit       miles, GB, €
//!                     ▼                              ├─ date       days, months, tomorrow
//!         words ─► stems ─► senses ────────────────► ├─ negation   not, without, un-
//!                                                    ├─ opposite   enable and disable
//!                                                    ├─ name       France and Spain; dogs and cats
//!                                                    ├─ order      from A to B, from B to A
//!                                                    ├─ question   who founded it, when
//!                                                    ├─ wording    knit a scarf, crochet a scarf
//!                                                    └─ extra      a recipe, a vegan recipe
//! ```
//!
//! Case, plural, contractions, synonyms and word order as such are no difference. Beyond that the
//! tables need not know what sets two texts apart, but what does not: a word in another's place, all
//! else as it was, is another question unless the two are known to mean the same. So is a word on one side
//! that nothing on the other accounts for, unless it is known to say little, or an embedder that knows
//! meanings finds that it is not what sets the two apart, or is even what holds them together. Every
//! rule is symmetric, and none looks at anything but the two texts.

mod account;
mod code;
mod extra;
mod focus;
mod language;
mod lexicon;
mod name;
mod negation;
mod number;
mod order;
mod question;
mod scope;
mod slot;
mod stem;
mod text;
mod unit;
mod wording;

#[cfg(test)]
mod tests;

use std::fmt;

pub(super) use focus::{Focus, focus};
use text::Text;
pub(super) use wording::{Reading, Wording};

/// Why two texts must not share an answer, however near their vectors are.
///
/// ```
/// use llmserve_cache::semantic::{Veto, veto};
///
/// assert_eq!(veto("Name five rivers.", "Name 5 rivers."), None);
/// assert_eq!(veto("Name five rivers.", "Name six rivers."), Some(Veto::Number));
/// assert_eq!(veto("Sort it in Python", "Sort it in Java"), Some(Veto::Language));
/// assert_eq!(Veto::Language.to_string(), "language");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Veto {
    /// Written in different languages, or about different ones: natural or of programming.
    Language,
    /// Code, a path, a flag or a quotation that only one of them has.
    Code,
    /// Different numbers, in digits or in words; all and some; better and best.
    Number,
    /// Different units or currencies.
    Unit,
    /// Different days, months, years or times.
    Date,
    /// One denies what the other does not.
    Negation,
    /// A word of one stands against a word of the other: "import" and "export".
    Opposite,
    /// Different names, or different things of one kind.
    Name,
    /// The same things in exchanged parts: "from A to B" and "from B to A".
    Order,
    /// Asked for different things: who and when, how many and how long.
    Question,
    /// One says something more: in a sentence of its own, or by a word put in.
    Extra,
    /// A word stands in another's place, all else as it was, and the two are not known to mean the
    /// same; or the words in which they differ are not alike, by the embedder.
    Wording,
}

impl fmt::Display for Veto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Language => "language",
            Self::Code => "code",
            Self::Number => "number",
            Self::Unit => "unit",
            Self::Date => "date",
            Self::Negation => "negation",
            Self::Opposite => "opposite",
            Self::Name => "name",
            Self::Order => "order",
            Self::Question => "question",
            Self::Extra => "extra",
            Self::Wording => "wording",
        })
    }
}

/// What tells two texts apart, if anything does that can be read off them.
///
/// Symmetric, and `None` for a text and itself. Takes microseconds: see [`Veto`] for what it looks
/// at. What is left to compare by an embedder is not compared here.
pub fn veto(a: &str, b: &str) -> Option<Veto> {
    match compare(&focus(a, b)) {
        Ok(wording) => wording.reading.map(Reading::veto),
        Err(veto) => Some(veto),
    }
}

/// What tells the parts apart in which two texts differ, or else what an embedder must compare.
pub(super) fn compare(focus: &Focus<'_>) -> Result<Wording, Veto> {
    let mut a = Text::new(focus.a, None);
    let mut b = Text::new(focus.b, Some(&a));
    text::meet(&mut a, &mut b);
    if let Some(veto) = extra::sentence(&a, &b) {
        return Err(veto);
    }
    let rules = [
        language::veto,
        code::veto,
        name::veto,
        unit::veto,
        number::veto,
        negation::veto,
        order::veto,
        scope::veto,
        question::veto,
    ];
    if let Some(veto) = rules.iter().find_map(|rule| rule(&a, &b)) {
        return Err(veto);
    }
    // Of a name that comes in another word's place or is put in, that it is a name says more.
    match slot::veto(&a, &b).or_else(|| extra::veto(&a, &b)) {
        Some(_) if name::one_sided(&a, &b) => Err(Veto::Name),
        Some(veto) => Err(veto),
        None => Ok(wording::wording(&a, &b)),
    }
}
