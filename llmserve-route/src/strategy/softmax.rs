//! Drawing by cost.

use crate::fleet::Slot;
use crate::random::Rng;

/// Draws one with a chance proportional to `exp(−cost / temperature)`, the costs being scaled to
/// 0 for the least and 1 for the highest: so a temperature means the same for all kinds of costs.
/// A cost that is no number is the highest.
pub(crate) fn draw(costs: &[(Slot, f64)], temperature: f64, rng: &Rng) -> Option<Slot> {
    let number = |cost: f64| {
        if cost.is_finite() {
            cost
        } else {
            f64::MAX / 4.0
        }
    };
    let least = costs
        .iter()
        .map(|(_, cost)| number(*cost))
        .fold(f64::INFINITY, f64::min);
    let most = costs
        .iter()
        .map(|(_, cost)| number(*cost))
        .fold(f64::NEG_INFINITY, f64::max);
    let range = if most > least { most - least } else { 1.0 };
    let chance = |cost: f64| (-(number(cost) - least) / range / temperature).exp();
    let total: f64 = costs.iter().map(|(_, cost)| chance(*cost)).sum();
    let mut drawn = rng.unit() * total;
    for (slot, cost) in costs {
        drawn -= chance(*cost);
        if drawn < 0.0 {
            return Some(*slot);
        }
    }
    // Rounding.
    costs.last().map(|(slot, _)| *slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_fall_with_costs_of_any_size() {
        let rng = Rng::seeded(3);
        let slot = |at| Slot::new(at, 0);
        for scale in [1e-9, 1.0, 1e12] {
            let costs = [
                (slot(0), 3.0 * scale),
                (slot(1), scale),
                (slot(2), 2.0 * scale),
            ];
            let mut of = [0.0; 3];
            for _ in 0..3_000 {
                of[draw(&costs, 0.5, &rng).unwrap().index()] += 1.0 / 3_000.0;
            }
            // exp(-2), 1 and exp(-1), over their sum.
            for (got, expected) in of.iter().zip([0.090, 0.665, 0.245]) {
                assert!(f64::abs(got - expected) < 0.04, "{of:?}");
            }
        }
        let odd = [
            (slot(0), f64::NAN),
            (slot(1), f64::INFINITY),
            (slot(2), 1.0),
        ];
        assert!((0..100).all(|_| draw(&odd, 0.01, &rng) == Some(slot(2))));
        assert_eq!(draw(&[], 1.0, &rng), None);
    }
}
