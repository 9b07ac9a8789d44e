//! "Not", and words that turn a question around.

use super::Veto;
use super::lexicon::Sense;
use super::text::Text;

/// Beginnings that turn a word around: "edible" and "inedible".
const PREFIXES: [&str; 15] = [
    "un", "in", "il", "im", "ir", "dis", "non", "de", "mis", "anti", "counter", "over", "under",
    "sub", "super",
];

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
        let free = form(at) == "free" && at > 0 && hyphen(text, at);
        (says && !idle) || fails || free || form(at) == "avoiding" || form(at) == "avoided"
    };
    text.words
        .iter()
        .enumerate()
        .filter(|word| counts(*word))
        .count()
}

/// Whether a word hangs on the one before it by a hyphen: "sugar-free".
fn hyphen(text: &Text<'_>, at: usize) -> bool {
    let (before, word) = (&text.words[at - 1], &text.words[at]);
    &text.source[before.span.end..word.span.start] == "-"
}

/// Whether `b` has a word of `a` with a beginning that turns it around.
fn prefixed(a: &Text<'_>, b: &Text<'_>) -> bool {
    a.content().any(|(_, word)| {
        let form = a.form(word);
        form.len() > 2
            && !b.has(word.key)
            && b.content().any(|(_, other)| {
                let turned = b.form(other);
                !a.has(other.key)
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
        !b.has(word.key)
            && word.senses.iter().any(|sense| match sense {
                Sense::Side { pair, second } => {
                    let (in_a, in_b) = (sides(a, *pair), sides(b, *pair));
                    in_a != in_b && in_a == (!second, *second) && in_b == (*second, !second)
                }
                _ => false,
            })
    })
}
