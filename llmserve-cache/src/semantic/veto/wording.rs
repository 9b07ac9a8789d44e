//! The words in which two texts differ, as far as reading tells.

use super::Veto;
use super::account::unaccounted;
use super::lexicon::Sense;
use super::name;
use super::question::measures;
use super::slot::same_frame;
use super::text::Text;

/// What each text says and the other does not, and what is left of each without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wording {
    /// The words of their own. For an embedder to compare, unless one is empty.
    pub(crate) own: [String; 2],
    /// The texts without them.
    pub(crate) rest: [String; 2],
    /// What reading takes the difference for, if it is left to reading.
    pub(crate) reading: Option<Reading>,
}

/// A veto that an embedder may overrule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// More on one side than words that say little, or words that say little against words that do
    /// not: what differs may say the same.
    Unknown(Veto),
    /// A name on one side, a word in another's place, a word spelt almost alike: what differs is
    /// another thing, unless the words of their own hold the texts together.
    Unlikely(Veto),
}

impl Reading {
    pub(crate) fn veto(self) -> Veto {
        match self {
            Self::Unknown(veto) | Self::Unlikely(veto) => veto,
        }
    }
}

/// The words of both texts that nothing in the other accounts for. Where all else is as it was, a word
/// in another's place is how another question looks, and to an embedder Monday and Tuesday are nearer
/// than most synonyms: how alike the words are is not asked there.
pub(super) fn wording(a: &Text<'_>, b: &Text<'_>) -> Wording {
    let (mut in_a, mut in_b) = (unaccounted(a, b), unaccounted(b, a));
    let (measure_a, measure_b) = measures(a, b);
    in_a.retain(|at| !measure_a.contains(at));
    in_b.retain(|at| !measure_b.contains(at));
    let (light_a, light_b) = (light(a, &in_a), light(b, &in_b));
    let mut reading = name::one_sided(a, b).then_some(Reading::Unlikely(Veto::Name));
    if in_a.is_empty() || in_b.is_empty() {
        if !(light_a && light_b) {
            reading = reading.or(Some(Reading::Unknown(Veto::Extra)));
        }
    } else {
        let alike = |x: &usize| {
            let form = a.form(&a.words[*x]);
            in_b.iter().any(|y| alike(form, b.form(&b.words[*y])))
        };
        if same_frame(a, b) || in_a.iter().any(alike) {
            reading = reading.or(Some(Reading::Unlikely(Veto::Wording)));
        } else if light_a != light_b {
            reading = reading.or(Some(Reading::Unknown(Veto::Wording)));
        }
    }
    let own = |text: &Text<'_>, places: &[usize]| {
        let words = places.iter().map(|at| text.form(&text.words[*at]));
        words.collect::<Vec<_>>().join(" ")
    };
    Wording {
        own: [own(a, &in_a), own(b, &in_b)],
        rest: [without(a, &in_a), without(b, &in_b)],
        reading,
    }
}

/// The text as it is written, less the words at these places, which are in order.
fn without(text: &Text<'_>, places: &[usize]) -> String {
    let mut rest = String::with_capacity(text.source.len());
    let mut from = 0;
    for span in places.iter().map(|at| &text.words[*at].span) {
        rest.push_str(text.source[from..span.start].trim_end());
        from = span.end;
    }
    rest.push_str(&text.source[from..]);
    rest
}

/// Whether two words that are no forms of each other are spelt alike, as words are that are told apart
/// by that: "uppercase" and "lowercase", "hypertension" and "hypotension".
fn alike(a: &str, b: &str) -> bool {
    let same = |(a, b): &(u8, u8)| a == b;
    let start = a.bytes().zip(b.bytes()).take_while(same).count();
    let back = a.bytes().rev().zip(b.bytes().rev());
    let end = back.take_while(same).count();
    let most = a.len().max(b.len());
    start.max(end) >= 4 && 2 * (start + end) >= most
}

/// Whether words add little to a question: its absence is no difference.
fn light(text: &Text<'_>, places: &[usize]) -> bool {
    places.iter().all(|at| {
        // "Which artist painted it" asks for who did.
        let asked = at
            .checked_sub(1)
            .is_some_and(|before| matches!(text.form(&text.words[before]), "which" | "what"));
        asked || text.words[*at].senses.contains(&Sense::Light)
    })
}
