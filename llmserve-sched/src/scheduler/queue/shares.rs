//! What part of the seats, and of the blocks, is a tenant's own.
//!
//! A share is the tenant's part by weight among those who run or wait. Whoever has less while it
//! waits has a *claim*: it is served before those who have their share, and may take from those
//! who have more.

use std::sync::Arc;

use super::{COMMON, LineId, Queue};

/// Others that may pass one that lacks blocks before it holds them up.
pub(in crate::scheduler) const MOST_OVERTAKEN: u64 = 32;

impl Queue {
    /// What of a tenant's is waiting, requests and tokens, and the most of each that may wait where
    /// `room` is left of the queue's limits: four times as much, by its weight. So one that is
    /// alone has at most four fifths of the queue, and leaves room for who comes later. None for
    /// one that has nothing waiting, and where tenants have no shares.
    pub(in crate::scheduler) fn standing(
        &self,
        tenant: Option<&Arc<str>>,
        room: (usize, usize),
    ) -> Option<((usize, usize), (usize, usize))> {
        let fairness = self.fairness.as_ref()?;
        let at = match tenant {
            Some(tenant) => *self.names.get(tenant)?,
            None => COMMON,
        };
        let line = &self.lines[at];
        let times = 4.0 * line.turn as f64 / fairness.turn_of_others() as f64;
        let most = |room: usize| (room as f64 * times) as usize;
        let waiting = (line.len(), line.tokens);
        (!line.is_empty()).then_some((waiting, (most(room.0), most(room.1))))
    }

    /// Whether tenants have shares at all.
    pub(in crate::scheduler) fn has_shares(&self) -> bool {
        self.fairness.is_some()
    }

    /// A line's part of `total`; at least 1.
    pub(in crate::scheduler) fn share(&self, at: LineId, total: usize) -> usize {
        let all = self.weight.max(1) as f64;
        let share = self.lines[at].turn as f64 * total as f64 / all;
        (share as usize).clamp(1, total.max(1))
    }

    /// The seats of a line beyond its share.
    pub(in crate::scheduler) fn excess(&self, at: LineId) -> usize {
        let share = self.share(at, self.seats);
        self.lines[at].seats.saturating_sub(share)
    }

    /// Numbers of lines are below this.
    pub(in crate::scheduler) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Whether it waits and has fewer seats than its share.
    pub(in crate::scheduler) fn claims(&self, at: LineId) -> bool {
        self.lines[at].claims
    }

    /// Whether somebody has a claim and somebody else more than a share.
    pub(in crate::scheduler) fn is_unequal(&mut self) -> bool {
        self.weigh();
        self.claims > 0 && self.exceeding > 0
    }

    /// One of the line takes seats.
    pub(in crate::scheduler) fn sit(&mut self, at: LineId, seats: usize) {
        self.lines[at].seats += seats;
        self.note(at);
    }

    /// Seats of the line are free again.
    pub(in crate::scheduler) fn rise(&mut self, at: LineId, seats: usize) {
        self.lines[at].seats -= seats;
        self.note(at);
    }

    /// The head of a line lacks seats or blocks: whether it has been passed often enough, and holds
    /// up the others from now on. If not, its line is [shut](Self::shut).
    pub(in crate::scheduler) fn lacks(&mut self, at: LineId, step: u64) -> bool {
        let admissions = self.admissions;
        let line = &mut self.lines[at];
        let since = *line.short_since.get_or_insert(admissions);
        if admissions - since >= MOST_OVERTAKEN {
            self.holding = Some(at);
            return true;
        }
        self.shut(at, step);
        false
    }

    /// A whole line is passed in this step.
    pub(in crate::scheduler) fn shut(&mut self, at: LineId, step: u64) {
        self.lines[at].shut = step;
    }

    /// Somebody of the line runs.
    pub(in crate::scheduler) fn seated(&mut self, at: LineId) {
        self.admissions += 1;
        self.lacks_nothing(at);
    }

    pub(super) fn lacks_nothing(&mut self, at: LineId) {
        self.lines[at].short_since = None;
        if self.holding == Some(at) {
            self.holding = None;
        }
    }

    /// The first member of a line has come, or its last has left.
    pub(super) fn reweigh(&mut self, change: i64) {
        self.weight += i128::from(change);
        self.stale = true;
    }

    /// Brings claims up to date with the weights.
    pub(super) fn weigh(&mut self) {
        if std::mem::take(&mut self.stale) {
            (0..self.lines.len()).for_each(|at| self.note(at));
        }
    }

    /// Brings a line's claim up to date.
    pub(super) fn note(&mut self, at: LineId) {
        if self.fairness.is_none() {
            return;
        }
        let share = self.share(at, self.seats);
        let line = &mut self.lines[at];
        let claims = !line.is_empty() && line.seats < share;
        let exceeds = line.seats > share;
        self.claims += usize::from(claims);
        self.claims -= usize::from(std::mem::replace(&mut line.claims, claims));
        self.exceeding += usize::from(exceeds);
        self.exceeding -= usize::from(std::mem::replace(&mut line.exceeds, exceeds));
    }
}
