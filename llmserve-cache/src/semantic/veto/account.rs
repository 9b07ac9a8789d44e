//! Words of one text that nothing in the other accounts for.

use super::lexicon::Sense;
use super::negation::denies;
use super::text::{Text, Word};

/// Endings that make a noun of a verb or an adjective, and how long the part before it is at least:
/// "treat" and "treatment". None that makes another thing of a thing.
const ENDINGS: [(&str, usize); 9] = [
    ("", 4),
    ("ment", 5),
    ("ation", 4),
    ("ion", 6),
    ("er", 4),
    ("or", 6),
    ("ance", 5),
    ("ness", 4),
    ("al", 6),
];

/// The content words of `a`, by place, that `b` has in no form: not the word, a synonym, another name
/// of the same thing, or the same word as another part of speech.
pub(super) fn unaccounted(a: &Text<'_>, b: &Text<'_>) -> Vec<usize> {
    let own = |(at, word): &(usize, &Word)| {
        !word.number && !word.shared && !named(a, *at, b) && !denies(a, *at)
    };
    let own = a.content().filter(own);
    let own = own.filter(|(_, word)| {
        let related = |(_, other): (usize, &Word)| related(a.form(word), b.form(other));
        !b.content().any(related)
    });
    own.map(|(at, _)| at)
        .filter(|at| !joined(a, *at, b))
        .collect()
}

/// Whether `b` writes as two words what `a` writes as one, or the other way round: "user name".
pub(super) fn joined(a: &Text<'_>, at: usize, b: &Text<'_>) -> bool {
    fn pairs<'t>(text: &'t Text<'_>) -> impl Iterator<Item = (&'t str, &'t str)> {
        let pair = |pair: &'t [Word]| (text.form(&pair[0]), text.form(&pair[1]));
        text.words.windows(2).map(pair)
    }
    let joins = |whole: &str, (first, second): (&str, &str)| {
        whole.strip_prefix(first).is_some_and(|rest| rest == second)
    };
    let form = a.form(&a.words[at]);
    let around = at.saturating_sub(1)..(at + 2).min(a.words.len());
    pairs(b).any(|pair| joins(form, pair))
        || a.words[around].windows(2).any(|pair| {
            let pair = (a.form(&pair[0]), a.form(&pair[1]));
            b.content().any(|(_, word)| joins(b.form(word), pair))
        })
}

/// Whether `b` has what the word at `at` stands for: a thing of some kind or a unit.
fn named(a: &Text<'_>, at: usize, b: &Text<'_>) -> bool {
    let stands = |at: usize| b.meaningful().any(|there| same_thing(a, at, b, there));
    let second = at
        .checked_sub(1)
        .filter(|before| a.words[*before].phrase.is_some());
    stands(at) || second.is_some_and(stands)
}

/// Whether two words stand for the same thing of some kind, or for the same unit.
pub(super) fn same_thing(a: &Text<'_>, x: usize, b: &Text<'_>, y: usize) -> bool {
    a.senses(x)
        .any(|sense| b.senses(y).any(|other| same(sense, other)))
}

fn same(a: Sense, b: Sense) -> bool {
    match (a, b) {
        (
            Sense::Kind { kind, member, .. },
            Sense::Kind {
                kind: other,
                member: another,
                ..
            },
        ) => (kind, member) == (other, another),
        (Sense::Unit { unit, .. }, Sense::Unit { unit: other, .. }) => unit == other,
        _ => false,
    }
}

/// Whether two words are one as different parts of speech.
fn related(a: &str, b: &str) -> bool {
    let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    if common < 4 || !a.is_char_boundary(common) || !a.is_ascii() || !b.is_ascii() {
        return false;
    }
    let (a, b) = (super::stem::stem(a), super::stem::stem(b));
    let derived = |base: &str, other: &str| {
        let base = base.trim_end_matches(['e', 'y', 'i']);
        other.strip_prefix(base).is_some_and(|ending| {
            let ending = ending.trim_start_matches(['e', 'y', 'i']);
            ENDINGS
                .iter()
                .any(|(known, least)| ending == *known && base.len() >= *least)
        })
    };
    derived(a, b) || derived(b, a)
}
