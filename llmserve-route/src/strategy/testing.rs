//! Candidates without a router.

use llmserve_core::{Error, EventStream, Generate, Request};

use super::Strategy;
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::{Fleet, Slot};
use crate::load::Load;
use crate::replica::Replica;
use crate::set::ReplicaSet;

/// Somebody to name.
pub(crate) struct Nobody;

impl Generate for Nobody {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::failed(Error::ShutDown)
    }
}

/// A fleet whose loads the test sets.
pub(crate) struct Bench {
    pub(crate) fleet: Fleet,
    pub(crate) loads: Vec<Load>,
}

impl Bench {
    /// `size` idle replicas, `r0` and on, in slots 0 and on.
    pub(crate) fn of(size: usize) -> Self {
        Self::with((0..size).map(|_| |replica| replica))
    }

    /// A replica for each `change`.
    pub(crate) fn with<F: FnOnce(Replica) -> Replica>(
        changes: impl IntoIterator<Item = F>,
    ) -> Self {
        let replicas = changes.into_iter().enumerate();
        let replicas: Vec<_> = replicas
            .map(|(index, change)| change(Replica::new(format!("r{index}"), Nobody)))
            .collect();
        let loads = replicas
            .iter()
            .map(|replica| Load::of(&replica.info))
            .collect();
        let (fleet, _) = Fleet::default().with_all(replicas);
        Self { fleet, loads }
    }

    /// Tells `strategy` of everybody.
    pub(crate) fn join(self, strategy: &(impl Strategy + ?Sized)) -> Self {
        for (slot, replica) in self.fleet.members() {
            strategy.joined(slot, &replica.info);
        }
        self
    }

    /// Requests outstanding, by slot.
    pub(crate) fn outstanding(mut self, outstanding: &[u32]) -> Self {
        for (load, outstanding) in self.loads.iter_mut().zip(outstanding) {
            load.outstanding = *outstanding;
        }
        self
    }

    /// Tokens outstanding, by slot.
    pub(crate) fn tokens(mut self, tokens: &[u64]) -> Self {
        for (load, tokens) in self.loads.iter_mut().zip(tokens) {
            load.tokens = *tokens;
        }
        self
    }

    /// What `strategy` picks of everybody for an empty request.
    pub(crate) fn pick(&self, strategy: &(impl Strategy + ?Sized)) -> Option<usize> {
        self.pick_for(strategy, &Request::text(""))
    }

    /// What `strategy` picks of everybody.
    pub(crate) fn pick_for(
        &self,
        strategy: &(impl Strategy + ?Sized),
        request: &Request,
    ) -> Option<usize> {
        let all: ReplicaSet = (0..self.loads.len()).collect();
        self.pick_of(strategy, request, &all)
    }

    /// What `strategy` picks of `set`.
    pub(crate) fn pick_of(
        &self,
        strategy: &(impl Strategy + ?Sized),
        request: &Request,
        set: &ReplicaSet,
    ) -> Option<usize> {
        let prepared = strategy.prepare(request);
        self.pick_prepared(strategy, request, &prepared, set)
    }

    /// What `strategy` picks of `set`, having `prepared`.
    pub(crate) fn pick_prepared(
        &self,
        strategy: &(impl Strategy + ?Sized),
        request: &Request,
        prepared: &Prepared,
        set: &ReplicaSet,
    ) -> Option<usize> {
        let ask = Ask::new(request, prepared);
        let candidates = Candidates::new(&self.fleet, &self.loads, set);
        strategy.pick(&ask, &candidates).map(Slot::index)
    }
}
