//! The waiting sequences of one tenant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::policy::Rank;

/// A place in a line. By rank; within a rank, those who ran before and were preempted come
/// first, then the order of submission decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::scheduler) struct Place {
    pub(in crate::scheduler) rank: Rank,
    pub(in crate::scheduler) newcomer: bool,
    pub(in crate::scheduler) order: u64,
    pub(in crate::scheduler) slot: usize,
}

/// Everything is O(log n).
#[derive(Debug)]
pub(super) struct Line {
    pub(super) tenant: Option<Arc<str>>,
    places: BTreeSet<Place>,
    /// Newcomers in the order they came, each with how many must have left before it is next
    /// whatever its rank. Empty where rank is all that counts.
    oldest: BTreeMap<u64, (u64, Place)>,
    /// Newcomers that ever came, and those of them that have left.
    came: u64,
    left: u64,
    /// Tokens of those that wait here.
    pub(super) tokens: usize,
    /// Seats that its running sequences take.
    pub(super) seats: usize,
    /// Somebody waits here, and it has fewer seats than its share.
    pub(super) claims: bool,
    /// It has more seats than its share.
    pub(super) exceeds: bool,
    /// Admissions of all lines when its head was found to lack blocks; none if it lacks none.
    pub(super) short_since: Option<u64>,
    /// The last step in which all of it was passed.
    pub(super) shut: u64,
    /// The last one passed in step `step`.
    passed: Option<Place>,
    passed_oldest: bool,
    step: u64,
    /// Sequences that belong here, waiting or running.
    pub(super) members: usize,
    /// What it may still be served, in thousandths of a token.
    pub(super) credit: i64,
    /// What a turn adds; at least 1.
    pub(super) turn: i64,
    /// Whether the turn at hand has been added.
    pub(super) credited: bool,
    pub(super) in_ring: bool,
}

impl Line {
    pub(super) fn new(tenant: Option<Arc<str>>, turn: i64) -> Self {
        Self {
            tenant,
            places: BTreeSet::new(),
            oldest: BTreeMap::new(),
            came: 0,
            left: 0,
            tokens: 0,
            seats: 0,
            claims: false,
            exceeds: false,
            short_since: None,
            shut: 0,
            passed: None,
            passed_oldest: false,
            step: 0,
            members: 0,
            credit: 0,
            turn,
            credited: false,
            in_ring: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    pub(super) fn insert(&mut self, place: Place, patience: Option<u64>) {
        self.places.insert(place);
        if let Some(patience) = patience.filter(|_| place.newcomer) {
            let due = self.came.saturating_add(patience);
            self.came += 1;
            self.oldest.insert(place.order, (due, place));
        }
    }

    /// False if it was not here.
    pub(super) fn remove(&mut self, place: &Place) -> bool {
        if self.oldest.remove(&place.order).is_some() {
            self.left += 1;
        }
        self.places.remove(place)
    }

    pub(super) fn rerank(&mut self, from: &Place, to: Place) {
        if self.places.remove(from) {
            self.places.insert(to);
            if let Some((_, place)) = self.oldest.get_mut(&to.order) {
                *place = to;
            }
        }
    }

    /// Who is next: one that has been overtaken often enough, else the first in rank.
    pub(super) fn next(&mut self, step: u64) -> Option<Place> {
        if self.step != step {
            self.step = step;
            self.passed = None;
            self.passed_oldest = false;
        }
        if self.shut == step {
            return None;
        }
        if !self.passed_oldest
            && let Some((_, (due, place))) = self.oldest.first_key_value()
            && self.left >= *due
        {
            return Some(*place);
        }
        match &self.passed {
            None => self.places.first().copied(),
            Some(place) => {
                let behind = self.places.range((Excluded(place), Unbounded));
                behind.copied().next()
            }
        }
    }

    /// Goes on behind `place`, which [`next`](Self::next) told in this step.
    pub(super) fn pass(&mut self, place: Place, step: u64) {
        debug_assert_eq!(self.step, step);
        let oldest = self.oldest.first_key_value();
        if !self.passed_oldest
            && oldest.is_some_and(|(_, (due, oldest))| *oldest == place && self.left >= *due)
        {
            self.passed_oldest = true;
            return;
        }
        self.passed = Some(place);
    }
}
