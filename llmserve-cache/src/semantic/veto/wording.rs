//! The words in which two texts differ.

use super::Focus;
use super::extra::apart;
use super::text::{Text, Word};

/// What each text says and the other does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wording {
    pub(crate) a: String,
    pub(crate) b: String,
    /// Nothing but these words is different: one was put in the other's place.
    pub(crate) replaced: bool,
}

/// The words of their own that two texts have each.
pub(crate) fn wording(focus: &Focus<'_>) -> Wording {
    let (a, b) = (Text::new(focus.a), Text::new(focus.b));
    let own = |a: &Text<'_>, b: &Text<'_>| {
        let own: Vec<&str> = a
            .content()
            .filter(|(_, word)| !word.number && !b.has(word.key))
            .map(|(_, word)| a.form(word))
            .collect();
        own.join(" ")
    };
    let content = |words: &[Word]| {
        let content = |word: &&Word| !word.role.function && !word.number;
        words.iter().filter(content).count()
    };
    let (of_a, of_b) = apart(&a, &b);
    // A word for a word: "a tip" and "a discount", though "tip" alone often asks for no more than
    // "idea" does.
    if let ([in_a], [in_b]) = (of_a, of_b)
        && content(of_a) + content(of_b) > 0
    {
        return Wording {
            a: a.form(in_a).to_owned(),
            b: b.form(in_b).to_owned(),
            replaced: true,
        };
    }
    let replaced = (1..=2).contains(&content(of_a)) && (1..=2).contains(&content(of_b));
    Wording {
        a: own(&a, &b),
        b: own(&b, &a),
        replaced,
    }
}
