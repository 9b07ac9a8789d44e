//! What the handles and the streams of one router share, and how it decides.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::error::panic_message;
use llmserve_core::{Error, Request};
use parking_lot::Mutex;

use super::assigned::Assigned;
use super::eligible::Scene;
use super::silence::Silence;
use crate::ask::{Ask, Prepared};
use crate::availability::Availability;
use crate::candidates::Candidates;
use crate::fleet::{Fleet, Slot};
use crate::health::Prober;
use crate::load::Load;
use crate::outcome::{Answering, End, Outcome};
use crate::random::Rng;
use crate::reliability::{Backoff, Budget, Hedging, Timeouts};
use crate::replica::Replica;
use crate::set::ReplicaSet;
use crate::strategy::Strategy;
use crate::timer::Timer;

/// A router without its handles.
pub(crate) struct Shared {
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) availability: Box<dyn Availability>,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) max_attempts: usize,
    pub(crate) timeouts: Timeouts,
    pub(crate) backoff: Backoff,
    pub(crate) budget: Budget,
    pub(crate) hedging: Option<Hedging>,
    /// Whether an answer may go on at another replica.
    pub(crate) replay: bool,
    pub(crate) random: Rng,
    /// Who asks replicas whether they are well.
    pub(crate) prober: Option<Prober>,
    /// By a model's name, those that stand in for it, in order.
    pub(crate) fallbacks: HashMap<String, Vec<String>>,
    pub(crate) state: Mutex<State>,
}

/// What a decision reads and changes: under one lock, so that a limit holds exactly however many
/// decide at once.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) fleet: Arc<Fleet>,
    /// By slot index; as long as the fleet has places.
    pub(crate) loads: Vec<Load>,
    full: ReplicaSet,
    /// None where silence is nothing to go by.
    silence: Option<Silence>,
}

impl State {
    /// Nobody is there. Who is silent for so long is avoided.
    pub(crate) fn new(avoid_after: Option<Duration>) -> Self {
        Self {
            silence: avoid_after.map(Silence::new),
            ..Self::default()
        }
    }

    fn release(&mut self, slot: Slot, tokens: u64) {
        if self.fleet.replica(slot).is_none() {
            return;
        }
        let load = &mut self.loads[slot.index()];
        load.outstanding = load.outstanding.saturating_sub(1);
        load.tokens = load.tokens.saturating_sub(tokens);
        if load.outstanding < load.capacity {
            self.full.remove(slot.index());
        }
    }
}

/// Why nobody was found.
pub(crate) enum Refusal {
    /// Nobody may answer. The error says why.
    Nobody(Error),
    /// The strategy wants none of those that may.
    Declined(Error),
    /// The strategy panicked.
    Panicked(Error),
}

impl Refusal {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Refusal::Nobody(error) | Refusal::Declined(error) | Refusal::Panicked(error) => error,
        }
    }
}

impl Shared {
    /// What the strategy wants to know about `request`.
    ///
    /// # Errors
    /// A panic of the strategy.
    pub(crate) fn prepare(&self, request: &Request) -> Result<Prepared, Error> {
        guarded(|| self.strategy.prepare(request))
    }

    /// Chooses who of those not `tried` answers, and counts the request there.
    pub(crate) fn assign(
        self: &Arc<Self>,
        request: &Request,
        prepared: &Prepared,
        tried: &[Slot],
        identity: Option<&str>,
    ) -> Result<Assigned, Refusal> {
        let mut ask = Ask::new(request, prepared);
        ask.now = self.timer.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let scene = Scene {
            fleet: &state.fleet,
            full: &state.full,
            availability: &*self.availability,
            tried,
            identity,
        };
        let decision = guarded(|| {
            let mut set = scene.eligible(&ask);
            if set.is_empty() {
                set = self.fall_back(&scene, &mut ask)?;
            }
            // Who is better not asked first is asked next.
            let others = set.len() > 1;
            if let Some(silence) = &mut state.silence {
                silence.narrow(&mut set, ask.now);
            }
            let candidates = Candidates::new(&state.fleet, &state.loads, &set);
            let Some(slot) = self.strategy.pick(&ask, &candidates) else {
                return Err(Refusal::Declined(declined(&candidates)));
            };
            if !candidates.contains(slot) {
                return Err(Refusal::Panicked(panicked(format!(
                    "picked {slot:?}, which is none of the {} candidates",
                    candidates.len()
                ))));
            }
            // Told before it is counted, so that a panic leaves no count behind.
            let credit = self.strategy.dispatched(&ask, slot);
            let permit = self.availability.dispatched(slot, ask.now);
            Ok((slot, (permit, credit), others))
        });
        let (slot, memory, others) = decision.map_err(Refusal::Panicked)??;
        let Some(replica) = state.fleet.replica(slot).cloned() else {
            return Err(Refusal::Panicked(panicked(format!("{slot:?} is gone"))));
        };
        let load = &mut state.loads[slot.index()];
        load.outstanding = load.outstanding.saturating_add(1);
        load.tokens += ask.tokens;
        load.dispatched += 1;
        if load.outstanding >= load.capacity {
            state.full.insert(slot.index());
        }
        let silence = state.silence.as_mut();
        let sign = silence.and_then(|silence| silence.dispatched(slot, ask.now));
        // What the replica shall be asked for, where that is not what the router was.
        let renamed = ask.model.and_then(|model| {
            let alias = state.fleet.masks.renamed(slot.index(), model);
            alias.or_else(|| (request.model.as_deref() != Some(model)).then(|| model.into()))
        });
        // What follows is nobody else's business.
        drop(guard);
        Ok(Assigned::new(
            self.clone(),
            slot,
            replica,
            renamed,
            ask.tokens,
            ask.now,
            memory,
            others,
        )
        .heard_by(sign))
    }

    /// Those that may answer as the first model that stands in and has any; `ask` then asks for
    /// that.
    fn fall_back<'a>(
        &'a self,
        scene: &Scene<'_>,
        ask: &mut Ask<'a>,
    ) -> Result<ReplicaSet, Refusal> {
        let fallbacks = ask.model.and_then(|model| self.fallbacks.get(model));
        // The error is about the first model that somebody serves.
        let mut told = None;
        for model in [None]
            .into_iter()
            .chain(fallbacks.into_iter().flatten().map(Some))
        {
            let mut other = *ask;
            if let Some(model) = model {
                other.model = Some(model);
                let set = scene.eligible(&other);
                if !set.is_empty() {
                    *ask = other;
                    return Ok(set);
                }
            }
            if told.is_none() && !scene.serving(&other).is_empty() {
                told = Some(other);
            }
        }
        Err(Refusal::Nobody(match told {
            Some(ask) => scene.refusal(&ask),
            None if scene.fleet.is_empty() => Error::NoReplica {
                reason: "there are no replicas".to_owned(),
                retry_after: None,
            },
            None => Error::UnknownModel {
                name: ask.model.unwrap_or_default().to_owned(),
                known: scene.fleet.masks.known.join(", "),
            },
        }))
    }

    /// The first event of a request came.
    pub(crate) fn answering(&self, slot: Slot, answering: &Answering) {
        let state = self.state.lock();
        if state.fleet.replica(slot).is_some() {
            quietly(|| self.strategy.answering(slot, answering));
        }
    }

    /// A request that counted for `tokens` counts no longer.
    pub(crate) fn released(&self, slot: Slot, tokens: u64) {
        self.state.lock().release(slot, tokens);
    }

    /// A request ended; it counted for `tokens` until now, or no longer. Nothing is known any more
    /// of a replica that was removed.
    pub(crate) fn ended(&self, slot: Slot, tokens: Option<u64>, outcome: &Outcome<'_>) {
        let mut state = self.state.lock();
        if let Some(tokens) = tokens {
            state.release(slot, tokens);
        }
        if state.fleet.replica(slot).is_none() {
            return;
        }
        state.loads[slot.index()].failed += u64::from(matches!(outcome.end, End::Failed(_)));
        quietly(|| self.availability.ended(slot, outcome));
        quietly(|| self.strategy.ended(slot, outcome));
    }

    /// A health check held a replica to be well, or not.
    pub(crate) fn checked(&self, slot: Slot, well: bool) {
        let state = self.state.lock();
        if state.fleet.replica(slot).is_some() {
            quietly(|| self.availability.checked(slot, well));
        }
    }

    /// A replica whose request had ended well misbehaved after all.
    pub(crate) fn count_failure(&self, slot: Slot) {
        let mut state = self.state.lock();
        if state.fleet.replica(slot).is_some() {
            state.loads[slot.index()].failed += 1;
        }
    }

    /// Adds checked replicas with names of their own.
    pub(crate) fn join(&self, state: &mut State, replicas: Vec<Replica>) -> Slot {
        let (fleet, last) = state.fleet.with_all(replicas);
        let before = std::mem::replace(&mut state.fleet, Arc::new(fleet));
        for (slot, replica) in state.fleet.members() {
            if before.replica(slot).is_some() {
                continue;
            }
            if slot.index() >= state.loads.len() {
                state.loads.resize(slot.index() + 1, Load::default());
            }
            state.loads[slot.index()] = Load::of(&replica.info);
            if let Some(silence) = &mut state.silence {
                silence.joined(slot);
            }
            quietly(|| self.availability.joined(slot, &replica.info));
            quietly(|| self.strategy.joined(slot, &replica.info));
            if let Some((prober, probe)) = self.prober.as_ref().zip(replica.probe.clone()) {
                prober.joined(slot, probe);
            }
        }
        last
    }

    /// Forgets the member in `slot`. What is given back may take its time to drop: not under the
    /// lock.
    #[must_use = "dropping it may take time"]
    pub(crate) fn leave(&self, state: &mut State, slot: Slot) -> Arc<Fleet> {
        let fleet = Arc::new(state.fleet.without(slot));
        let before = std::mem::replace(&mut state.fleet, fleet);
        state.loads[slot.index()] = Load::default();
        state.full.remove(slot.index());
        if let Some(prober) = &self.prober {
            prober.left(slot);
        }
        quietly(|| self.availability.left(slot));
        quietly(|| self.strategy.left(slot));
        before
    }
}

/// The error where a strategy wants nobody.
fn declined(candidates: &Candidates<'_>) -> Error {
    let outstanding = candidates.iter().map(|slot| candidates.outstanding(slot));
    let outstanding = outstanding.sum();
    Error::Overloaded {
        waiting: outstanding,
        limit: outstanding,
        unit: "requests",
        retry_after: None,
    }
}

fn panicked(message: String) -> Error {
    Error::Panicked {
        part: "routing strategy",
        message,
    }
}

/// What `run` gives, its panic being an error.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panicked(panic_message(&*panic)))
}

/// Tells a part something. Nobody waits for an answer, so a panic has nobody to go to: it has been
/// printed by the panic hook, and what is counted here must not suffer.
fn quietly(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}
