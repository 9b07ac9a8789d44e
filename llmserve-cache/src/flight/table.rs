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

/// The runs under way. One a key, as a rule: more where somebody's terms allowed none of those there.
pub(crate) struct Flights<W: Work>(Mutex<Runs<W>>);

type Runs<W> = HashMap<Arc<Key>, Vec<Arc<Flight<W>>>>;

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
        let runs = flights.entry(key.clone()).or_default();
        let mut seat = None;
        // What nobody joins any more, as it is over or of old, goes. A host's own code may run when
        // it is dropped, so not here.
        let of_no_use = |run: &mut Arc<Flight<W>>| {
            if run.terms.stamp != terms.stamp {
                return true;
            }
            if seat.is_some() || !terms.allow(&run.terms) {
                return false;
            }
            seat = run.join();
            seat.is_none()
        };
        let dropped: Vec<_> = runs.extract_if(.., of_no_use).collect();
        let boarded = match seat {
            Some(seat) => Boarded::Joined(seat),
            None => {
                let seat = start();
                runs.push(seat.flight().clone());
                Boarded::Started(seat)
            }
        };
        drop(flights);
        drop(dropped);
        boarded
    }

    /// Forgets the runs of `key` that are over.
    pub(crate) fn sweep(&self, key: &Arc<Key>) {
        let mut flights = self.0.lock();
        if let Entry::Occupied(mut there) = flights.entry(key.clone()) {
            let over: Vec<_> = there
                .get_mut()
                .extract_if(.., |run| run.is_over())
                .collect();
            if there.get().is_empty() {
                there.remove();
            }
            drop(flights);
            drop(over);
        }
    }

    /// Has nobody join the runs of `key` any more, and their answers not be kept.
    pub(crate) fn disown(&self, key: &Key) {
        let runs = self.0.lock().remove(key);
        for run in runs.into_iter().flatten() {
            run.disown();
        }
    }

    /// Runs under way that can be joined.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().values().map(Vec::len).sum()
    }
}
