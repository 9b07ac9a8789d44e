//! Who asks replicas whether they are well: one thread for all of a router's.
//!
//! ```text
//!  router: joined, left ──┐                      ┌─► probe begun, polled, dropped when too late
//!  timer: it is time ─────┼─► notes ─► Checks ───┤
//!  probe: it has woken ───┘   (queue)            └─► verdict ─► router ─► Availability::checked
//! ```
//!
//! Nothing but the queue is shared, so that nobody who leaves a note, under whatever lock, ever
//! waits for a probe.

mod check;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::checks::HealthChecks;
use super::probe::Probe;
use crate::fleet::Slot;
use crate::random::Rng;
use crate::timer::Timer;
use check::Check;

/// The router's end. Dropped, it ends the thread, and with it every probe.
pub(crate) struct Prober {
    board: Arc<Board>,
}

/// What has happened since the thread last looked.
#[derive(Default)]
struct Board {
    notes: Mutex<Notes>,
    noted: Condvar,
}

#[derive(Default)]
struct Notes {
    waiting: VecDeque<Note>,
    ended: bool,
}

enum Note {
    Joined(Slot, Arc<dyn Probe>),
    Left(Slot),
    /// The check of this member may go on.
    Woken(Slot),
}

impl Board {
    fn note(&self, note: Note) {
        self.notes.lock().waiting.push_back(note);
        self.noted.notify_one();
    }
}

impl Prober {
    /// Somebody who asks, and what is to be [run](Checks::run) on a thread.
    pub(crate) fn new(config: HealthChecks, timer: Arc<dyn Timer>, random: Rng) -> (Self, Checks) {
        let board = Arc::<Board>::default();
        let checks = Checks {
            config,
            timer,
            random,
            board: board.clone(),
            members: HashMap::new(),
        };
        (Self { board }, checks)
    }

    pub(crate) fn joined(&self, slot: Slot, probe: Arc<dyn Probe>) {
        self.board.note(Note::Joined(slot, probe));
    }

    pub(crate) fn left(&self, slot: Slot) {
        self.board.note(Note::Left(slot));
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.board.notes.lock().ended = true;
        self.board.noted.notify_one();
    }
}

/// The thread's end.
pub(crate) struct Checks {
    config: HealthChecks,
    timer: Arc<dyn Timer>,
    random: Rng,
    board: Arc<Board>,
    members: HashMap<Slot, Check>,
}

impl Checks {
    /// Asks, and tells `verdict` who is well and who is not, until the router is gone.
    pub(crate) fn run(mut self, verdict: impl Fn(Slot, bool)) {
        loop {
            let mut notes = self.board.notes.lock();
            while notes.waiting.is_empty() && !notes.ended {
                self.board.noted.wait(&mut notes);
            }
            if notes.ended {
                return;
            }
            drop(notes);
            self.turn(&verdict);
        }
    }

    /// Does what there is to do now.
    fn turn(&mut self, verdict: &impl Fn(Slot, bool)) {
        // Not behind the lock: a probe may leave a note as it is polled.
        while let Some(note) = self.next() {
            let slot = match note {
                Note::Joined(slot, probe) => {
                    let check = Check::new(slot, probe, self.board.clone());
                    self.members.insert(slot, check);
                    slot
                }
                Note::Left(slot) => {
                    let gone = self.members.remove(&slot);
                    // What a probe does when it is dropped is the host's.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(gone)));
                    continue;
                }
                Note::Woken(slot) => slot,
            };
            let Some(check) = self.members.get_mut(&slot) else {
                continue;
            };
            if let Some(well) = check.advance(&self.config, &*self.timer, &self.random) {
                verdict(slot, well);
            }
        }
    }

    fn next(&self) -> Option<Note> {
        let mut notes = self.board.notes.lock();
        if notes.ended {
            return None;
        }
        notes.waiting.pop_front()
    }
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}
