//! What is asked of every replica at every decision, answered for all of them when the fleet
//! changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// Sets of slots by what their members have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masks {
    pub(crate) members: ReplicaSet,
    pub(crate) draining: ReplicaSet,
    /// Those with a list of models, by model and alias.
    models: HashMap<String, ReplicaSet>,
    /// Those without.
    any_model: ReplicaSet,
    /// Requests at these slots for these names are sent on as requests for these models.
    aliases: HashMap<String, Vec<(usize, Arc<str>)>>,
    regions: HashMap<String, ReplicaSet>,
    /// Those that heed regions by themselves.
    heed_regions: ReplicaSet,
    capabilities: HashMap<String, ReplicaSet>,
    tiers: HashMap<String, ReplicaSet>,
    /// Those whose context holds more tokens than asked for; the unlimited at `usize::MAX`.
    contexts: AtLeast<usize>,
    /// By cost, negated.
    costs: AtLeast<f64>,
    qualities: AtLeast<f32>,
    /// Names of models and aliases somebody lists, sorted.
    pub(crate) known: Vec<String>,
}

impl Masks {
    pub(super) fn of<'a>(
        members: impl Iterator<Item = (usize, &'a ReplicaInfo, bool)> + Clone,
    ) -> Self {
        let mut masks = Self::default();
        for (index, info, draining) in members.clone() {
            masks.members.insert(index);
            if draining {
                masks.draining.insert(index);
            }
            for model in info.models.iter().flatten().chain(info.aliases.keys()) {
                put(&mut masks.models, model, index);
            }
            if info.models.is_none() {
                masks.any_model.insert(index);
            }
            for (alias, model) in &info.aliases {
                let at = masks.aliases.entry(alias.clone()).or_default();
                at.push((index, model.as_str().into()));
            }
            for capability in &info.capabilities {
                put(&mut masks.capabilities, capability, index);
            }
            if info.heeds_regions {
                masks.heed_regions.insert(index);
            }
            if let Some(region) = &info.region {
                put(&mut masks.regions, region, index);
            }
            if let Some(tier) = &info.tier {
                put(&mut masks.tiers, tier, index);
            }
        }
        let infos = || members.clone().map(|(index, info, _)| (index, info));
        masks.contexts =
            AtLeast::of(infos().map(|(index, info)| (info.context.unwrap_or(usize::MAX), index)));
        masks.costs = AtLeast::of(infos().filter_map(|(index, info)| Some((-(info.cost?), index))));
        masks.qualities =
            AtLeast::of(infos().filter_map(|(index, info)| Some((info.quality?, index))));
        masks.known = masks.models.keys().cloned().collect();
        masks.known.sort_unstable();
        masks
    }

    /// Those that serve `model`, by its name or an alias.
    pub(crate) fn serving(&self, model: &str) -> ReplicaSet {
        let mut set = self.any_model.clone();
        if let Some(listed) = self.models.get(model) {
            set.unite(listed);
        }
        set
    }

    /// What the member at `index` calls the model that is asked for as `name`; none if the same.
    pub(crate) fn renamed(&self, index: usize, name: &str) -> Option<Arc<str>> {
        if self.aliases.is_empty() {
            return None;
        }
        let at = self.aliases.get(name)?;
        let (_, model) = at.iter().find(|(slot, _)| *slot == index)?;
        Some(model.clone())
    }

    /// Those in one of `regions`, and those that see to it themselves.
    pub(crate) fn in_regions(&self, regions: &[String]) -> ReplicaSet {
        let mut set = self.heed_regions.clone();
        for region in regions {
            if let Some(there) = self.regions.get(region) {
                set.unite(there);
            }
        }
        set
    }

    /// Those that can do `capability`.
    pub(crate) fn capable(&self, capability: &str) -> Option<&ReplicaSet> {
        self.capabilities.get(capability)
    }

    /// Whether anybody is in a tier.
    pub(crate) fn has_tiers(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// Those in `tier`.
    pub(crate) fn in_tier(&self, tier: &str) -> Option<&ReplicaSet> {
        self.tiers.get(tier)
    }

    /// Those whose context holds `tokens`.
    pub(crate) fn holding(&self, tokens: usize) -> Option<&ReplicaSet> {
        self.contexts.at_least(tokens)
    }

    /// Those that cost at most `cost`.
    pub(crate) fn within_cost(&self, cost: f64) -> Option<&ReplicaSet> {
        self.costs.at_least(-cost)
    }

    /// Those of at least `quality`.
    pub(crate) fn of_quality(&self, quality: f32) -> Option<&ReplicaSet> {
        self.qualities.at_least(quality)
    }
}

fn put(sets: &mut HashMap<String, ReplicaSet>, name: &str, index: usize) {
    match sets.get_mut(name) {
        Some(set) => set.insert(index),
        None => drop(sets.insert(name.to_owned(), [index].into_iter().collect())),
    }
}

/// Slots by a number: for each number that occurs, ascending, the slots with it or more.
#[derive(Clone, Debug)]
struct AtLeast<T>(Vec<(T, ReplicaSet)>);

impl<T> Default for AtLeast<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialOrd + Copy> AtLeast<T> {
    fn of(numbers: impl Iterator<Item = (T, usize)>) -> Self {
        let mut numbers: Vec<_> = numbers.collect();
        // Numbers are checked to be comparable when a replica is added.
        numbers.sort_by(|(a, _), (b, _)| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
        let mut steps: Vec<(T, ReplicaSet)> = Vec::new();
        for (number, index) in numbers {
            match steps.last_mut() {
                Some((last, set)) if *last == number => set.insert(index),
                last => {
                    let mut set = last.map_or_else(ReplicaSet::new, |(_, set)| set.clone());
                    set.insert(index);
                    steps.push((number, set));
                }
            }
        }
        steps.reverse();
        Self(steps)
    }

    /// None: nobody.
    fn at_least(&self, number: T) -> Option<&ReplicaSet> {
        // A limit that is no number is met by nobody.
        let at = self.0.partition_point(|(has, _)| {
            !matches!(
                has.partial_cmp(&number),
                Some(std::cmp::Ordering::Greater | std::cmp::Ordering::Equal)
            )
        });
        self.0.get(at).map(|(_, set)| set)
    }
}
