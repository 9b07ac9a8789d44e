//! What the hash of epochs has been, and whether what it is now comes after it.
//!
//! A replica that takes over may not have heard of the last commands, and others may have come since:
//! the hash is then neither what it was nor older as a whole. So the revision moves by steps that
//! nobody else takes, and epochs that are over are remembered: one that is there again says that
//! whatever put an end to it is lost.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::epoch::ALL;

/// Epochs remembered that are over: what was lost are the latest, of a few seconds. 1 MiB.
const MOST_OVER: usize = 1 << 14;

/// The hash as it was last.
#[derive(Default)]
pub(super) struct Seen {
    revision: Option<u64>,
    /// The last revision that is known to have been.
    highest: u64,
    scopes: HashMap<u64, u64>,
    over: Over,
}

impl Seen {
    /// Whether a hash with this revision and epoch of everything is the one that was read last.
    pub(super) fn is_same(&self, revision: Option<u64>, all: Option<u64>) -> bool {
        self.revision.is_some() && self.revision == revision && self.all() == all
    }

    /// The hash is being told of an epoch, and may have it from now on.
    pub(super) fn tell(&mut self, scope: u64, epoch: u64) {
        if scope == ALL {
            self.all_is_old();
        }
        let before = self.scopes.insert(scope, epoch);
        if let Some(before) = before.filter(|before| *before != epoch) {
            self.over.add(scope, before);
        }
    }

    /// What was told has arrived, with this revision.
    pub(super) fn arrived(&mut self, revision: u64) {
        self.highest = self.highest.max(revision);
    }

    /// Whether something that was made old is not any more, by a hash that was just read. `told`
    /// says which scopes it is yet to hear of.
    pub(super) fn went_back(
        &self,
        revision: u64,
        hash: &HashMap<u64, u64>,
        told: impl Fn(u64) -> bool,
    ) -> bool {
        let all = hash.get(&ALL).copied();
        if revision < self.highest || all.is_some_and(|all| self.over.has(ALL, all)) {
            return true;
        }
        // By another epoch of everything all else is old as well.
        if self.all() != all {
            return false;
        }
        let mut known = self.scopes.keys().filter(|scope| !told(**scope));
        let mut there = hash.iter().filter(|(scope, _)| !told(**scope));
        known.any(|scope| !hash.contains_key(scope))
            || there.any(|(&scope, &epoch)| self.over.has(scope, epoch))
    }

    /// The hash goes on from here, whatever it was before.
    pub(super) fn start_over(&mut self, revision: u64) {
        self.highest = revision;
    }

    /// The hash is this.
    pub(super) fn read(&mut self, revision: u64, hash: &HashMap<u64, u64>) {
        if self.all() != hash.get(&ALL).copied() {
            self.all_is_old();
        }
        let before = std::mem::replace(&mut self.scopes, hash.clone());
        for (scope, epoch) in before {
            if hash.get(&scope).is_some_and(|now| *now != epoch) {
                self.over.add(scope, epoch);
            }
        }
        self.revision = Some(revision);
        self.highest = revision;
    }

    /// What the epochs of single scopes were does not matter any more.
    fn all_is_old(&mut self) {
        self.scopes.retain(|scope, _| *scope == ALL);
        self.over.forget_all_but(ALL);
    }

    fn all(&self) -> Option<u64> {
        self.scopes.get(&ALL).copied()
    }
}

/// Epochs that others have taken the place of, by scope; the latest.
#[derive(Default)]
struct Over {
    epochs: HashSet<(u64, u64)>,
    order: VecDeque<(u64, u64)>,
}

impl Over {
    fn add(&mut self, scope: u64, epoch: u64) {
        if !self.epochs.insert((scope, epoch)) {
            return;
        }
        self.order.push_back((scope, epoch));
        if self.order.len() > MOST_OVER
            && let Some(oldest) = self.order.pop_front()
        {
            self.epochs.remove(&oldest);
        }
    }

    fn has(&self, scope: u64, epoch: u64) -> bool {
        self.epochs.contains(&(scope, epoch))
    }

    fn forget_all_but(&mut self, scope: u64) {
        self.epochs.retain(|(other, _)| *other == scope);
        self.order.retain(|(other, _)| *other == scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(scopes: &[(u64, u64)]) -> HashMap<u64, u64> {
        scopes.iter().copied().collect()
    }

    fn went_back(seen: &Seen, revision: u64, scopes: &[(u64, u64)]) -> bool {
        seen.went_back(revision, &hash(scopes), |_| false)
    }

    #[test]
    fn what_is_over_does_not_come_back() {
        let mut seen = Seen::default();
        seen.read(10, &hash(&[(ALL, 1), (5, 50)]));
        seen.read(20, &hash(&[(ALL, 1), (5, 51)]));
        assert!(seen.is_same(Some(20), Some(1)));
        assert!(!seen.is_same(Some(20), Some(2)) && !seen.is_same(None, Some(1)));
        // Further on, however far, and with more in it.
        assert!(!went_back(&seen, 30, &[(ALL, 1), (5, 52), (6, 1)]));
        assert!(went_back(&seen, 30, &[(ALL, 1), (5, 50), (6, 1)]));
        assert!(went_back(&seen, 30, &[(ALL, 1), (6, 1)]), "gone");
        assert!(went_back(&seen, 19, &[(ALL, 1), (5, 51)]), "older");
        // With everything old, what a scope's epoch was does not matter, but for the epoch of
        // everything itself.
        assert!(!went_back(&seen, 30, &[(ALL, 2), (5, 50)]));
        seen.read(30, &hash(&[(ALL, 2), (5, 50)]));
        assert!(!went_back(&seen, 40, &[(ALL, 2), (5, 50)]));
        assert!(went_back(&seen, 40, &[(ALL, 1), (5, 50)]));
    }

    #[test]
    fn what_was_told_may_have_arrived_or_not() {
        let mut seen = Seen::default();
        seen.read(10, &hash(&[(ALL, 1), (5, 50)]));
        // Sent twice, as the first time nothing was heard of it.
        seen.tell(5, 51);
        seen.tell(6, 60);
        let before = hash(&[(ALL, 1), (5, 50)]);
        assert!(
            !seen.went_back(10, &before, |scope| scope > 4),
            "still to come"
        );
        seen.tell(5, 52);
        seen.arrived(30);
        // The first arrives after all, after the second.
        assert!(went_back(&seen, 40, &[(ALL, 1), (5, 51), (6, 60)]));
        assert!(!went_back(&seen, 40, &[(ALL, 1), (5, 52), (6, 60)]));
        assert!(went_back(&seen, 29, &[(ALL, 1), (5, 52), (6, 60)]));
        // It is all made old, once, whatever is still in it.
        seen.start_over(29);
        seen.tell(ALL, 2);
        seen.arrived(31);
        assert!(!went_back(&seen, 31, &[(ALL, 2), (5, 51)]));
        assert!(went_back(&seen, 32, &[(ALL, 1), (5, 51)]));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut over = Over::default();
        for epoch in 0..2 * MOST_OVER as u64 {
            over.add(1, epoch);
            over.add(1, epoch);
        }
        assert_eq!(
            (over.epochs.len(), over.order.len()),
            (MOST_OVER, MOST_OVER)
        );
        assert!(over.has(1, MOST_OVER as u64) && !over.has(1, MOST_OVER as u64 - 1));
    }
}
