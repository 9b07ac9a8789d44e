//! The second half of a plan: rows for those who wait.

use llmserve_core::{Admission, KvError, KvManager, SequenceId, StepPlan, Time};

use super::ContinuousScheduler;
use super::displace::Lack;
use super::queue::{LineId, Place};
use super::running::Left;

/// Those that are passed in one plan before it leaves it at that: a walk along the queue must not
/// grow with the queue.
const MOST_PASSED: usize = 64;

/// What became of the one whose turn it was.
enum Turn {
    /// It runs, with a row of so many tokens.
    Admitted(usize),
    /// It cannot have a row in this step, and loses nothing if those behind it do.
    Passed,
    /// It could, with more budget; those behind it wait with it.
    Blocked,
    /// It could, with more seats and blocks than are free.
    Short(Lack),
}

/// What one lacked that found too few blocks. It is not looked up again before there is hope: a
/// lookup costs as much as its prompt is long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stuck {
    /// What it needed itself.
    needed: usize,
    /// How many more than there were.
    blocks: usize,
    /// Blocks there were. Those it was kept from are taken by those they are kept for.
    available: usize,
    /// Departures there had been: each may have freed blocks, or brought what it needs.
    departures: u64,
}

impl ContinuousScheduler {
    /// Admits from the front of the queue while there are tokens, seats and blocks. The first that
    /// does not fit holds up the rest, so that nobody is overtaken for ever; where tenants take
    /// turns it holds up its own tenant, and the others once enough of them have passed it.
    /// Returns what is left after them.
    pub(super) fn plan_waiting(
        &mut self,
        kv: &mut dyn KvManager,
        now: Time,
        plan: &mut StepPlan,
        mut left: Left,
    ) -> Left {
        let mut passed = 0;
        if left.budget > 0 && self.could_seat() {
            self.review_waiting(kv);
        }
        while left.budget > 0 && passed < MOST_PASSED && self.could_seat() {
            let Some((line, place)) = self.queue.next(self.step) else {
                break;
            };
            match self.admit(line, place, now, kv, plan, &mut left) {
                Turn::Admitted(tokens) => left.budget -= tokens,
                Turn::Passed => {
                    self.queue.pass(line, place, self.step);
                    passed += 1;
                }
                Turn::Blocked => break,
                Turn::Short(lack) => {
                    if (self.policy.displacing() && self.displace(place, lack, kv, plan, &mut left))
                        || self.claim((line, place), lack, kv, plan, &mut left)
                    {
                        continue;
                    }
                    let holds_up = match self.seats < self.config.max_num_seqs {
                        true => !self.queue.has_shares() || self.queue.lacks(line, self.step),
                        // Another tenant may have a claim yet.
                        false if self.could_claim() => {
                            self.queue.shut(line, self.step);
                            false
                        }
                        false => true,
                    };
                    if holds_up {
                        break;
                    }
                    passed += 1;
                }
            }
        }
        left
    }

    /// Whether newcomers wait a little for others in this plan.
    pub(super) fn is_held_back(&mut self, now: Time, left: &Left) -> bool {
        let delay = self.config.admission_delay;
        if delay.is_zero() {
            return false;
        }
        let free = self.config.max_num_seqs.saturating_sub(self.seats);
        let full = self.queue.tokens() >= left.budget || self.queue.len() >= free;
        let only_newcomers = self.queue.len() > 0 && self.queue.resumed() == 0;
        self.delay.holds(delay, now, only_newcomers, full)
    }

    /// Whether there is a seat, or one could be made.
    pub(super) fn could_seat(&mut self) -> bool {
        self.seats < self.config.max_num_seqs || self.policy.displacing() || self.could_claim()
    }

    fn admit(
        &mut self,
        line: LineId,
        place: Place,
        now: Time,
        kv: &mut dyn KvManager,
        plan: &mut StepPlan,
        left: &mut Left,
    ) -> Turn {
        let (slot, running) = (place.slot, !self.ring.is_empty());
        let Some(sequence) = self.table.at(slot) else {
            return Turn::Passed;
        };
        // A result in flight from before a preemption comes first: then all tokens are known.
        if !sequence.is_ready() || !sequence.flight.is_empty() || sequence.preempted == self.step {
            return Turn::Passed;
        }
        // The host ends it; until then it takes nothing from those who are still waited for.
        if sequence.deadline.is_some_and(|deadline| deadline <= now) {
            return Turn::Passed;
        }
        // Its twin is not there yet: no need to look either of them up again.
        if let Some((twin, shared)) = sequence.twin
            && let Some(twin) = self.table.get(twin)
            && twin.running
            && twin.computed < shared
        {
            return Turn::Passed;
        }
        let available = kv.available();
        if let Some(stuck) = sequence.stuck
            && running
            && stuck.departures == self.departures
            && available <= stuck.available
            && self.seats + sequence.seats <= self.config.max_num_seqs
        {
            return Turn::Short(Lack {
                seats: 0,
                blocks: stuck.blocks,
                needed: stuck.needed,
            });
        }
        // Alone it has the cache to itself.
        let kept = left.owed + if running { self.kept(place, kv) } else { 0 };
        let Some(sequence) = self.table.at(slot) else {
            return Turn::Passed;
        };
        let seats = self.seats + sequence.seats;
        if seats > self.config.max_num_seqs {
            let seats = seats - self.config.max_num_seqs;
            // So that nobody loses a seat to one that then finds no blocks.
            let needed = match self.policy.displacing() || self.reclaims {
                true => {
                    let demand = kv.demand(sequence.id, sequence.known);
                    demand.unwrap_or_default().blocks
                }
                false => 0,
            };
            return Turn::Short(Lack {
                seats,
                blocks: (needed + kept).saturating_sub(available),
                needed,
            });
        }
        let (id, known, max_chunk) = (sequence.id, sequence.known, sequence.max_chunk);
        let demand = kv.demand(id, known);
        let hit = demand.as_ref().map_or(0, |demand| demand.cached);
        let hit = hit.min(known - 1);
        let len = self.config.row_len(known - hit, max_chunk, left.budget);
        if len == 0 {
            return Turn::Blocked;
        }
        let twin = self.twin(slot, hit, left, kv);
        if let Some(sequence) = self.table.at_mut(slot) {
            sequence.twin = twin;
        }
        if twin.is_some() {
            return Turn::Passed;
        }
        // All its tokens must fit, whatever the chunk, beside what others have yet to take.
        let allocated = match demand {
            Ok(demand) if demand.blocks + kept > available => {
                let needed = demand.blocks;
                let (departures, blocks) = (self.departures, needed + kept - available);
                if let Some(sequence) = self.table.at_mut(slot) {
                    sequence.stuck = Some(Stuck {
                        needed,
                        blocks,
                        available,
                        departures,
                    });
                }
                return Turn::Short(Lack {
                    seats: 0,
                    blocks,
                    needed,
                });
            }
            Ok(_) => kv.allocate(id, hit + len),
            Err(error) => Err(error),
        };
        let cached = match allocated {
            Ok(cached) => cached.min(known - 1),
            Err(KvError::OutOfBlocks(_)) => return Turn::Blocked,
            Err(error) => {
                // It must not stop the others.
                self.lose(id, error);
                self.forget(slot);
                kv.close(id);
                return Turn::Passed;
            }
        };
        self.dequeue(slot);
        let Some(sequence) = self.table.at_mut(slot) else {
            return Turn::Passed;
        };
        let len = len.min(known - cached);
        let resumed = sequence.resumed;
        let rank = sequence.submitted_rank();
        sequence.rerank(rank);
        sequence.running = true;
        sequence.resumed = true;
        sequence.computed = cached;
        sequence.sealed = cached;
        sequence.cached = cached;
        let expected = self.reserve.expected(sequence);
        self.reserve.add(expected);
        sequence.plan_row(len, self.step, plan);
        left.note(sequence, kv.layout().block_size.max(1));
        self.join_ring(slot);
        self.queue.seated(line);
        if !resumed {
            self.queue.admitted(line, known - cached, cached);
            self.service.admitted(known);
        }
        plan.admitted.push(Admission {
            id,
            cached_tokens: cached,
            resumed,
        });
        Turn::Admitted(len)
    }

    /// Blocks that are kept from one that waits, for what the running and it may generate.
    pub(super) fn kept(&mut self, place: Place, kv: &dyn KvManager) -> usize {
        if self.reserve.begin(self.step, self.departures) {
            for slot in self.ring.iter() {
                if let Some(sequence) = self.table.at_mut(slot) {
                    let expected = self.reserve.expected(sequence);
                    self.reserve.add(expected);
                }
            }
        }
        let least = self.watermark(place, kv);
        let Some(sequence) = self.table.at_mut(place.slot) else {
            return least;
        };
        let expected = self.reserve.expected(sequence);
        let layout = kv.layout();
        let total = layout.blocks.iter().min().copied().unwrap_or(0);
        let blocks = self.reserve.blocks(expected, layout.block_size, total);
        blocks.max(least)
    }

    /// Blocks that a newcomer leaves free at least.
    pub(super) fn watermark(&self, place: Place, kv: &dyn KvManager) -> usize {
        let total = kv.layout().blocks.iter().min().copied().unwrap_or(0);
        match place.newcomer {
            true => (self.config.watermark * total as f64) as usize,
            false => 0,
        }
    }

    /// Who is at work on a prefix that the waiting one lacks, at least as fast as it could be
    /// itself, and up to where they share it. Of what a row computes its twins in the same step make use already; this
    /// is about prompts that take several steps.
    fn twin(
        &self,
        slot: usize,
        hit: usize,
        left: &Left,
        kv: &dyn KvManager,
    ) -> Option<(SequenceId, usize)> {
        let waiting = self.table.at(slot)?;
        let prefilling = left.prefilling.iter().flatten();
        prefilling
            .filter_map(|slot| self.table.at(*slot))
            .filter(|other| other.running && other.max_chunk >= waiting.max_chunk)
            .map(|other| {
                let shared = kv.common_prefix(waiting.id, other.id);
                (other, shared.min(other.known))
            })
            // Up to where it is computed the waiting one has hit it, or cannot.
            .find(|(other, shared)| *shared > hit.max(other.computed))
            .map(|(other, shared)| (other.id, shared))
    }
}
