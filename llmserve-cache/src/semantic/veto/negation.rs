//! "Not", and words that turn a question around.

use super::Veto;
use super::lexicon::Sense;
use super::text::Text;

/// Beginnings that turn a word around: "edible" and "inedible".
const PREFIXES: [&str; 15] = [
    "un", "in", "il", "im", "ir", "dis", "non", "de", "mis", "anti", "counter", "over", "under",
    "sub", "super",
];

/// Words beside those that say no by themselves that may do so where they stand.
pub(super) const DENIALS: &str = "fail fails failed failing refuses refused free avoiding avoided";

/// Whether one text denies what the other asks.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    if negations(a) != negations(b) || prefixed(a, b) || prefixed(b, a) {
        return Some(Veto::Negation);
    }
    turned(a, b).then_some(Veto::Opposite)
}

/// How often a text says no.
fn negations(text: &Text<'_>) -> usize {
    let form = |at: usize| text.words.get(at).map_or("", |word| text.form(word));
    let counts = |(at, word): (usize, &super::text::Word)| {
        if !word.role.denial {
            return false;
        }
        let before = at.checked_sub(1).map_or("", form);
        let says = word.role.negation;
        // "Whether or not", "not only", "no. 5", "why not", "no matter".
        let idle = before == "or"
            || form(at + 1) == "only" && form(at) == "not"
            || form(at + 1) == "matter"
            || form(at) == "no" && text.words.get(at + 1).is_some_and(|word| word.digits);
        let fails = matches!(
            form(at),
            "fail" | "fails" | "failed" | "failing" | "refuses" | "refused"
        ) && form(at + 1) == "to";
        let avoids = matches!(form(at), "avoiding" | "avoided");
        (says && !idle) || fails || avoids || denies(text, at)
    };
    text.words
        .iter()
        .enumerate()
        .filter(|word| counts(*word))
        .count()
}

/// Whether a word denies the one that it hangs on: "sugar-free".
pub(super) fn denies(text: &Text<'_>, at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| &text.words[before]);
    let word = &text.words[at];
    text.form(word) == "free"
        && before.is_some_and(|before| &text.source[before.span.end..word.span.start] == "-")
}

/// Whether `b` has a word of `a` with a beginning that turns it around.
fn prefixed(a: &Text<'_>, b: &Text<'_>) -> bool {
    a.content().any(|(_, word)| {
        let form = a.form(word);
        !word.shared
            && form.len() > 2
            && b.content().any(|(_, other)| {
                let turned = b.form(other);
                !other.shared
                    && turned
                        .strip_suffix(form)
                        .or_else(|| {
                            turned.strip_suffix(super::stem::stem(form)).or_else(|| {
                                super::stem::stem(turned).strip_suffix(super::stem::stem(form))
                            })
                        })
                        .is_some_and(|prefix| PREFIXES.contains(&prefix.trim_end_matches('-')))
            })
    })
}

/// Whether one text has only the one side of a pair of opposites and the other only the other.
fn turned(a: &Text<'_>, b: &Text<'_>) -> bool {
    let sides = |text: &Text<'_>, pair: u16| {
        let (mut first, mut second) = (false, false);
        for word in &text.words {
            for sense in word.senses {
                if let Sense::Side {
                    pair: other,
                    second: side,
                } = sense
                    && *other == pair
                {
                    first |= !side;
                    second |= side;
                }
            }
        }
        (first, second)
    };
    a.words.iter().any(|word| {
        // What both have turns nothing around.
        !word.shared
            && word.senses.iter().any(|sense| match sense {
                Sense::Side { pair, second } => {
                    let (in_a, in_b) = (sides(a, *pair), sides(b, *pair));
                    in_a != in_b && in_a == (!second, *second) && in_b == (*second, !second)
                }
                _ => false,
            })
    })
}
