//! What quantities are measured in.

use super::Veto;
use super::lexicon::Sense;
use super::text::Text;

/// Whether the texts measure in different units.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let (in_a, in_b) = (missing(a, b), missing(b, a));
    // Another unit in its stead, or a quantity in a unit that the other has not.
    let differ = match (in_a, in_b) {
        (Some(_), Some(_)) => true,
        (Some(counted), None) | (None, Some(counted)) => counted,
        (None, None) => false,
    };
    differ.then_some(Veto::Unit)
}

/// Whether `a` has a unit that `b` has not, and whether one such stands with a number.
fn missing(a: &Text<'_>, b: &Text<'_>) -> Option<bool> {
    let mut found = None;
    for at in a.meaningful() {
        let unit = a.senses(at).find_map(unit);
        let Some(unit) = unit else { continue };
        let there = b
            .meaningful()
            .any(|at| b.senses(at).any(|other| self::unit(other) == Some(unit)))
            || a.words[at].shared;
        if !there {
            let counted = a.numbers.iter().any(|number| {
                number.words.end == at
                    || number.words.start == at + 1 && a.form(&a.words[at]).len() <= 3
            });
            found = Some(found.unwrap_or(false) || counted);
        }
    }
    found
}

fn unit(sense: Sense) -> Option<u16> {
    match sense {
        Sense::Unit { unit, .. } => Some(unit),
        _ => None,
    }
}
