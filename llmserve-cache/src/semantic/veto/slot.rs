//! One word in another's place, all else as it was.

use super::Veto;
use super::account::same_thing;
use super::text::{Text, Word};

/// Words that stand for each other in a question without changing it, a group a line.
pub(super) const FREE: &[&str] = &[
    // The first group only where it is asked how or where: see `interchangeable`.
    "do does can could should would shall may might will",
    "can could may",
    "do does",
    "will shall",
    "was were did",
    "has have",
    "i you we one someone people anyone they",
    "my our",
    "its their",
    "this that these those",
    "some any",
    "in during within",
    "in at",
    "in on",
    "on about",
    "of for",
    "of in",
    "to into onto",
    "for to",
    "with using by via through",
    "what which",
    "get obtain",
    "need want",
    "good best right proper recommended",
    "way ways step steps process",
    "what explain describe define tell name",
    "know tell see",
    "what calculate compute",
    "what summarize summarise",
    "list show name give tell",
    "if whether",
    "like as",
];

/// The places of the words that a question hangs on: not articles, nor "is", which contracts.
pub(super) fn bare<'t>(text: &'t Text<'_>) -> impl Iterator<Item = usize> + 't {
    let counts = |at: &usize| !is_bare(text, &text.words[*at]);
    (0..text.words.len()).filter(counts)
}

/// Whether a word comes and goes without a difference.
pub(super) fn is_bare(text: &Text<'_>, word: &Word) -> bool {
    word.role.article || matches!(text.form(word), "is" | "are")
}

/// Whether one word is in another's place, and the two do not stand for each other.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let (mut in_a, mut in_b) = (bare(a), bare(b));
    let mut replaced = false;
    loop {
        match (in_a.next(), in_b.next()) {
            (None, None) => return replaced.then_some(Veto::Wording),
            (Some(x), Some(y)) => {
                let differ = !interchangeable(a, x, b, y) && !same_thing(a, x, b, y);
                if differ && replaced {
                    return None;
                }
                replaced |= differ;
            }
            _ => return None,
        }
    }
}

/// Whether two texts ask in the same way and hang together in the same way, whatever they are about.
pub(super) fn same_frame(a: &Text<'_>, b: &Text<'_>) -> bool {
    let frame = |text: &'_ Text<'_>, at: &usize| text.words[*at].role.function;
    let mut in_a = bare(a).filter(|at| frame(a, at));
    let mut in_b = bare(b).filter(|at| frame(b, at));
    loop {
        match (in_a.next(), in_b.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if interchangeable(a, x, b, y) => {}
            _ => return false,
        }
    }
}

/// Whether one word may stand in the other's place. "How do I" and "how can I" ask the same, but not
/// "what can I" and "what should I", nor "may I" and "must I".
fn interchangeable(a: &Text<'_>, x: usize, b: &Text<'_>, y: usize) -> bool {
    let (one, other) = (&a.words[x], &b.words[y]);
    let by_itself = |text: &Text<'_>, at: usize| {
        let before = at
            .checked_sub(1)
            .map_or("", |at| text.form(&text.words[at]));
        !matches!(before, "how" | "where")
    };
    let mut free = one.role.free & other.role.free;
    if by_itself(a, x) || by_itself(b, y) {
        free &= !1;
    }
    one.key == other.key || one.number && other.number || free != 0
}
