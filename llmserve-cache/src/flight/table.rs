//! The runs under way, by what they answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use llmserve_core::Time;

use super::{Flight, Seat, Work};
use crate::epoch::Stamp;
use crate::key::Key;
use crate::sync::Mutex;

/// For whom a run is good enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Of what its answer is true.
    pub(crate) stamp: Stamp,
    /// When its deadline ends it.
    pub(crate) ends: Option<Time>,
    /// Lower is sooner.
    pub(crate) priority: i32,
    /// Whether another run would say the same.
    pub(crate) repeats: bool,
}

impl Terms {
    /// Whether a request with these terms may listen to a run with those: one that is as urgent
    /// and does not go on beyond the request's own deadline. One that ends sooner will do:
    /// what it has not said by then, another run says.
    fn allow(&self, run: &Terms) -> bool {
        let within = match (self.ends, run.ends) {
            (None, None) => true,
            (None, Some(_)) => self.repeats,
            (Some(mine), Some(its)) => its == mine || (its < mine && self.repeats),
            (Some(_), None) => false,
        };
        within && run.priority <= self.priority
    }
}

/// The runs under way.
pub(crate) struct Flights<W: Work>(Mutex<HashMap<Arc<Key>, Arc<Flight<W>>>>);

/// How a request comes to its answer.
pub(crate) enum Boarded<W: Work> {
    /// Somebody else runs it.
    Joined(Seat<W>),
    /// It is a starter; the flight waits for its work.
    Started(Seat<W>),
}

impl<W: Work> Default for Flights<W> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<W: Work> Flights<W> {
    /// A seat in the run of `key`, or in a new one that `start` makes.
    pub(crate) fn board(
        &self,
        key: &Arc<Key>,
        terms: Terms,
        start: impl FnOnce() -> Seat<W>,
    ) -> Boarded<W> {
        let mut flights = self.0.lock();
        match flights.entry(key.clone()) {
            Entry::Occupied(mut there) => {
                let run = there.get();
                if run.terms.stamp == terms.stamp {
                    if !terms.allow(&run.terms) {
                        // A run of one's own, with nobody else in it.
                        drop(flights);
                        return Boarded::Started(start());
                    }
                    if let Some(seat) = run.join() {
                        return Boarded::Joined(seat);
                    }
                }
                // It is over, or old by now: whoever comes next has no use for it.
                let seat = start();
                there.insert(seat.flight().clone());
                Boarded::Started(seat)
            }
            Entry::Vacant(free) => {
                let seat = start();
                free.insert(seat.flight().clone());
                Boarded::Started(seat)
            }
        }
    }

    /// Forgets the run of `key` if it is over.
    pub(crate) fn sweep(&self, key: &Arc<Key>) {
        let mut flights = self.0.lock();
        if let Entry::Occupied(there) = flights.entry(key.clone())
            && there.get().is_over()
        {
            let removed = there.remove();
            drop(flights);
            drop(removed);
        }
    }

    /// Has nobody join the run of `key` any more, and its answer not be kept.
    pub(crate) fn disown(&self, key: &Key) {
        let run = self.0.lock().remove(key);
        if let Some(run) = run {
            run.disown();
        }
    }

    /// Runs under way that can be joined.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
