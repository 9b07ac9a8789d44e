//! One word in another's place, all else as it was.

use super::Veto;
use super::account::same_thing;
use super::scope::is_auxiliary;
use super::text::{Text, Word};

/// Words that stand for each other in a question without changing it, a group a line.
pub(super) const FREE: &[&str] = &[
    "do does can could should would shall may might will",
    "was were did",
    "has have",
    "i you we one someone people anyone they",
    "my our",
    "its their",
    "this that these those",
    "some any",
    "in on at during within of for about",
    "to into onto",
    "with using by via through",
    "what which",
    "for to",
    "get obtain have",
    "need want have like",
    "good best right proper recommended better",
    "way ways step steps process",
    "what explain describe tell show give list name define calculate compute summarize summarise",
    "and or",
    "if whether",
    "when if",
    "much many",
    "like as",
    "am be been being",
    "please kindly",
    "really actually very so",
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

/// Whether one word may stand in the other's place. Not where it asks for yes or no: "may I" and
/// "must I" want different answers, "how do I" and "how can I" one.
fn interchangeable(a: &Text<'_>, x: usize, b: &Text<'_>, y: usize) -> bool {
    let (one, other) = (&a.words[x], &b.words[y]);
    let asks = x == 0 && is_auxiliary(one) || y == 0 && is_auxiliary(other);
    one.key == other.key
        || one.number && other.number
        || one.role.free & other.role.free != 0 && !asks
}
