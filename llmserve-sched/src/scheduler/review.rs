//! Ranks that change while one waits.

use llmserve_core::KvManager;

use super::ContinuousScheduler;
use super::queue::{LineId, Place};
use crate::policy::Rank;

impl ContinuousScheduler {
    /// Asks a policy that reviews for the ranks of those that wait, if they are few enough; in a
    /// longer queue the ranks of the submission hold.
    ///
    /// Called where somebody could be admitted. What was reviewed since somebody came to run or
    /// ceased to is not reviewed again: only that changes much of what is cached.
    pub(super) fn review_waiting(&mut self, kv: &dyn KvManager) {
        let (window, waiting) = (self.policy.window(), self.queue.len());
        if window == 0 || (waiting < 2 && !self.has_reviews) {
            return;
        }
        if waiting > window {
            if std::mem::take(&mut self.has_reviews) {
                self.rerank_waiting(|scheduler, slot| {
                    let sequence = scheduler.table.at_mut(slot)?;
                    sequence.reviewed = 0;
                    Some(sequence.submitted_rank())
                });
            }
            return;
        }
        self.has_reviews = true;
        let now = self.changes;
        self.rerank_waiting(|scheduler, slot| {
            let sequence = scheduler.table.at_mut(slot)?;
            if sequence.reviewed == now {
                return None;
            }
            sequence.reviewed = now;
            let waiting = sequence.waiting(kv.prefix(sequence.id));
            Some(scheduler.policy.review(&waiting))
        });
    }

    fn rerank_waiting(&mut self, mut rank: impl FnMut(&mut Self, usize) -> Option<Rank>) {
        let mut places: Vec<(LineId, Place)> = std::mem::take(&mut self.places);
        places.extend(self.queue.iter());
        for (line, place) in places.drain(..) {
            let new = rank(self, place.slot).filter(|rank| *rank != place.rank);
            if let Some((rank, sequence)) = new.zip(self.table.at_mut(place.slot)) {
                self.queue.rerank(line, &place, sequence.rerank(rank));
            }
        }
        self.places = places;
    }
}
