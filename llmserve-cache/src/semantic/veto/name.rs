//! Who and what a text is about: names, languages, things of one kind.

use super::Veto;
use super::account::joined;
use super::lexicon::{Sense, Sort, Weight, kind};
use super::text::{Text, Word};

/// Whether the texts name different things.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    // The same reason in both directions: the first in the order of reasons.
    let kinds = [kinds(a, b), kinds(b, a)].into_iter().flatten().min();
    kinds.or_else(|| (unnamed(a, b) && unnamed(b, a)).then_some(Veto::Name))
}

/// Whether one of the texts alone has a name. "Why do we have seasons" is about Earth, named or not.
pub(super) fn one_sided(a: &Text<'_>, b: &Text<'_>) -> bool {
    unnamed(a, b) || unnamed(b, a)
}

/// A member of a kind in `a` that `b` has not, where that tells them apart.
fn kinds(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let mut found: Option<Veto> = None;
    for at in a.meaningful() {
        for sense in a.senses(at) {
            let Sense::Kind {
                kind: of, member, ..
            } = sense
            else {
                continue;
            };
            if a.words[at].shared && a.words[at].phrase.is_none() || has_member(b, of, member) {
                continue;
            }
            let (sort, weight) = kind(of);
            let against = weight == Weight::Alone || instead(a, b, of);
            if against {
                let reason = match sort {
                    Sort::Name => Veto::Name,
                    Sort::Language => Veto::Language,
                    Sort::Date => Veto::Date,
                };
                found = Some(found.map_or(reason, |found| found.min(reason)));
            }
        }
    }
    found
}

fn has_member(text: &Text<'_>, of: u16, which: u16) -> bool {
    text.meaningful().any(|at| {
        text.senses(at)
            .any(|sense| matches!(sense, Sense::Kind { kind, member, .. } if kind == of && member == which))
    })
}

/// Whether `b` has a member of the kind that `a` has not.
fn instead(a: &Text<'_>, b: &Text<'_>, of: u16) -> bool {
    b.meaningful().any(|at| {
        b.senses(at).any(|sense| match sense {
            Sense::Kind { kind, member, .. } => kind == of && !has_member(a, of, member),
            _ => false,
        })
    })
}

/// Whether `a` has a name that `b` does not mention.
fn unnamed(a: &Text<'_>, b: &Text<'_>) -> bool {
    let unnamed = |(at, word): (usize, &Word)| {
        if word.shared || !is_name(a, at, word) {
            return false;
        }
        // A name that has another: "US" for "America".
        let another = a.senses(at).any(|sense| match sense {
            Sense::Kind { kind, member, .. } => has_member(b, kind, member),
            Sense::Unit { .. } => true,
            _ => false,
        });
        !another && !joined(a, at, b)
    };
    a.words
        .iter()
        .enumerate()
        .any(|(at, word)| unnamed((at, word)))
}

/// Whether a word is a name by how it is written: with a capital where none is due, or letters and
/// digits in one.
fn is_name(text: &Text<'_>, at: usize, word: &Word) -> bool {
    if word.mixed && !word.number && !word.digits {
        return true;
    }
    // The second word of "United States" is no name of its own.
    let second = at
        .checked_sub(1)
        .is_some_and(|i| text.words[i].phrase.is_some());
    let due = word.first || text.headline || second || word.phrase.is_some();
    let single = word.span.len() == 1 && !word.acronym;
    word.capital
        && !due
        && !single
        && !word.role.function
        && !word.number
        && !is_time(text.form(word))
}

fn is_time(form: &str) -> bool {
    matches!(form, "am" | "pm" | "i")
}
