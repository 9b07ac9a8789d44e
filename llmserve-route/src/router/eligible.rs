//! Who may answer a request: every limit, as a set.

use std::fmt::Write;
use std::time::Duration;

use llmserve_core::{Error, Request};

use crate::ask::Ask;
use crate::availability::Availability;
use crate::fleet::{Fleet, Slot};
use crate::set::ReplicaSet;

/// What rules a replica out, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Region,
    Capability,
    Tier,
    Context,
    Cost,
    Quality,
    Draining,
    Capacity,
    Tried,
    Identity,
    Unavailable,
}

impl Limit {
    /// What is wrong with those it rules out.
    fn told(self) -> &'static str {
        match self {
            Limit::Region => "outside the request's regions",
            Limit::Capability => "without a capability it needs",
            Limit::Tier => "not of its tier",
            Limit::Context => "with too short a context",
            Limit::Cost => "above its maximum cost",
            Limit::Quality => "below its minimum quality",
            Limit::Draining => "draining",
            Limit::Capacity => "at capacity",
            Limit::Tried => "tried already",
            Limit::Identity => "of other weights than those that began the answer",
            Limit::Unavailable => "unavailable",
        }
    }
}

/// What eligibility is decided from.
pub(super) struct Scene<'a> {
    pub(super) fleet: &'a Fleet,
    /// Those that have as many requests as they may.
    pub(super) full: &'a ReplicaSet,
    pub(super) availability: &'a dyn Availability,
    pub(super) tried: &'a [Slot],
    /// The weights that must answer, where an answer is to go on. None: any.
    pub(super) identity: Option<&'a str>,
}

impl Scene<'_> {
    /// Those that may answer `ask`. Empty: nobody.
    pub(super) fn eligible(&self, ask: &Ask<'_>) -> ReplicaSet {
        let mut set = self.serving(ask);
        if !set.is_empty() {
            self.narrow(ask, &mut set, |_, _| ());
        }
        set
    }

    /// Those that serve the model.
    pub(super) fn serving(&self, ask: &Ask<'_>) -> ReplicaSet {
        let masks = &self.fleet.masks;
        ask.model
            .map_or_else(|| masks.members.clone(), |model| masks.serving(model))
    }

    /// Why nobody may answer, where somebody serves the model.
    pub(super) fn refusal(&self, ask: &Ask<'_>) -> Error {
        let mut set = self.serving(ask);
        let of = set.len();
        let mut reason = match ask.model {
            Some(model) => format!("of {of} that serve {model:?}"),
            None => format!("of {of}"),
        };
        let mut colon = ":";
        let mut soonest: Option<Duration> = None;
        let mut before = set.clone();
        self.narrow(ask, &mut set, |limit, left| {
            let ruled_out = before.len() - left.len();
            if ruled_out > 0 {
                let _ = write!(reason, "{colon} {ruled_out} {}", limit.told());
                colon = ",";
            }
            if limit == Limit::Unavailable {
                let mut out = before.clone();
                out.subtract(left);
                let times = out
                    .iter()
                    .filter_map(|index| self.availability.retry_at(self.fleet.slot(index)));
                soonest = times.min().map(|at| at.saturating_sub(ask.now));
            }
            before.clone_from(left);
        });
        Error::NoReplica {
            reason,
            retry_after: soonest,
        }
    }

    /// Applies each limit to `set`, and tells `after` what each left.
    fn narrow(
        &self,
        ask: &Ask<'_>,
        set: &mut ReplicaSet,
        mut after: impl FnMut(Limit, &ReplicaSet),
    ) {
        let masks = &self.fleet.masks;
        let Request { routing, .. } = ask.request;
        let keep = |set: &mut ReplicaSet, those: Option<&ReplicaSet>| match those {
            Some(those) => set.intersect(those),
            None => *set = ReplicaSet::new(),
        };
        if !routing.regions.is_empty() {
            set.intersect(&masks.in_regions(&routing.regions));
            after(Limit::Region, set);
        }
        for need in &routing.needs {
            keep(set, masks.capable(need));
            after(Limit::Capability, set);
        }
        if let Some(tier) = &routing.tier
            && masks.has_tiers()
        {
            keep(set, masks.in_tier(tier));
            after(Limit::Tier, set);
        }
        // Room for one token after the prompt.
        let context = usize::try_from(ask.prompt_tokens).map_or(usize::MAX, |tokens| tokens + 1);
        keep(set, masks.holding(context));
        after(Limit::Context, set);
        if let Some(cost) = routing.max_cost {
            keep(set, masks.within_cost(cost));
            after(Limit::Cost, set);
        }
        if let Some(quality) = routing.min_quality {
            keep(set, masks.of_quality(quality));
            after(Limit::Quality, set);
        }
        set.subtract(&masks.draining);
        after(Limit::Draining, set);
        set.subtract(self.full);
        after(Limit::Capacity, set);
        if !self.tried.is_empty() {
            set.subtract(&self.fleet.present(self.tried));
            after(Limit::Tried, set);
        }
        if let Some(identity) = self.identity {
            for index in set.clone().iter() {
                let info = self.fleet.info(index);
                if info.and_then(|info| info.identity.as_deref()) != Some(identity) {
                    set.remove(index);
                }
            }
            after(Limit::Identity, set);
        }
        // Last, so that it is asked about those only that would be asked.
        self.availability.retain(ask.now, set);
        after(Limit::Unavailable, set);
    }
}
