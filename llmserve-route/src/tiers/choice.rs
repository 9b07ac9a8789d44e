//! Which tier answers.

use std::time::Duration;

use llmserve_core::Request;

use super::complexity::{Complexity, Estimator};
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::strategy::Strategy;

/// What is known of a tier besides its replica.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) latency: Option<Duration>,
    pub(super) handles: Complexity,
}

/// The cheapest candidate that is quick and good enough.
pub(super) struct TierChoice {
    /// In the order in which they were added.
    pub(super) tiers: Vec<Known>,
    pub(super) estimator: Box<dyn Estimator>,
    pub(super) unknown: Complexity,
}

impl TierChoice {
    fn known(&self, name: &str) -> Option<(usize, &Known)> {
        let mut tiers = self.tiers.iter().enumerate();
        tiers.find(|(_, tier)| tier.name == name)
    }
}

/// What a tier is chosen by; the least wins.
///
/// A client's own wish comes before a guess, and within both what is cheapest.
#[derive(PartialEq, PartialOrd)]
struct Rank {
    /// By how many seconds it misses the latency budget.
    late: f64,
    /// How much harder the request is than what it handles.
    short: f32,
    cost: f64,
    /// Its place among the tiers.
    place: usize,
}

impl Strategy for TierChoice {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let complexity = ask.prepared.complexity.unwrap_or(self.unknown);
        let budget = ask.request.routing.latency_budget;
        let rank = |slot: &Slot| {
            let info = candidates.info(*slot)?;
            let (place, tier) = self.known(&info.name)?;
            let late = tier.latency.zip(budget).map_or(0.0, |(takes, budget)| {
                takes.saturating_sub(budget).as_secs_f64()
            });
            Some(Rank {
                late,
                short: (complexity.get() - tier.handles.get()).max(0.0),
                cost: info.cost.unwrap_or(f64::INFINITY),
                place,
            })
        };
        let ranked = candidates
            .iter()
            .filter_map(|slot| Some((rank(&slot)?, slot)));
        ranked
            .reduce(|least, next| if next.0 < least.0 { next } else { least })
            .map(|(_, slot)| slot)
    }

    fn prepare(&self, request: &Request) -> Prepared {
        Prepared {
            complexity: self.estimator.estimate(request).map(Complexity::new),
            ..Prepared::default()
        }
    }
}
