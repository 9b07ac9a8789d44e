//! Who does what the state says: one thread that keeps, and one for each load and unload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use llmserve_core::error;
use llmserve_core::{Clock, Error, EventStream, Generate, LoadProgress, Loader, Request};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::instruments::Instruments;
use super::state::{Act, Asked, Limits, Name, Seen, State, Waiting};
use super::stats::ModelCacheStats;
use super::ticket::{Ticket, Use, Waits, start};

/// A clock that is set by hand does not wake anybody: it is looked at so often.
const LEAST_NAP: Duration = Duration::from_millis(1);

pub(super) type Models = State<Arc<dyn Generate>, Arc<Ticket>>;

/// What the handles, the streams and the threads of one cache share.
pub(super) struct Shared {
    pub(super) loader: Box<dyn Loader>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) instruments: Instruments,
    state: Mutex<Models>,
    /// The keeper has something to look at.
    changed: Condvar,
    /// The keeper has ended.
    ended: Mutex<bool>,
    has_ended: Condvar,
    next_id: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        loader: Box<dyn Loader>,
        clock: Arc<dyn Clock>,
        instruments: Instruments,
        limits: Limits,
    ) -> Self {
        Self {
            loader,
            clock,
            instruments,
            state: Mutex::new(State::new(limits)),
            changed: Condvar::new(),
            ended: Mutex::new(false),
            has_ended: Condvar::new(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Answers a request for the model called `name`.
    pub(super) fn generate(self: &Arc<Self>, name: &str, request: Request) -> EventStream {
        let now = self.clock.now();
        let hit = self.state.lock().hit(now, name);
        if let Some(service) = hit {
            self.instruments.hits.add(1);
            let used = Use::new(self.clone(), name.into());
            return start(service, used, request, Duration::ZERO);
        }
        self.known(name)
            .and_then(|name| self.wait(name, request))
            .unwrap_or_else(|error| {
                self.instruments.refused.add(1);
                EventStream::failed(error)
            })
    }

    /// The name, if the loader has such a model.
    ///
    /// # Errors
    /// [`Error::UnknownModel`]; [`Error::Panicked`] for the loader.
    pub(super) fn known(&self, name: &str) -> Result<Name, Error> {
        let known = guarded(|| match self.loader.knows(name) {
            true => Ok(Name::from(name)),
            false => Err(Error::UnknownModel {
                name: name.to_owned(),
                known: self.names(),
            }),
        });
        known.and_then(|known| known)
    }

    /// The models there are, in one text. May panic as the loader may.
    fn names(&self) -> String {
        let names = self.loader.names();
        match names.is_empty() {
            true => "those that the loader finds by name".to_owned(),
            false => names.join(", "),
        }
    }

    /// What to say to who names no model.
    pub(super) fn nameless(&self) -> Error {
        self.instruments.refused.add(1);
        match guarded(|| self.names()) {
            Ok(names) => Error::invalid_request(
                "model",
                format!("none is named and there is no default; known: {names}"),
            ),
            Err(error) => error,
        }
    }

    fn wait(self: &Arc<Self>, name: Name, request: Request) -> Result<EventStream, Error> {
        let now = self.clock.now();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let deadline = request.deadline;
        let ticket = Arc::new(Ticket::new(request, now));
        let mut state = self.state.lock();
        let waits = [deadline, state.limits.max_wait];
        let limit = waits.into_iter().flatten().min();
        let waiting = Waiting {
            id,
            until: limit.map(|limit| (now.saturating_add(limit), limit)),
            ticket: ticket.clone(),
        };
        let asked = state.ask(now, &name, waiting);
        drop(state);
        match asked {
            Asked::Waits => {
                self.instruments.waits.add(1);
                self.changed.notify_one();
                let waits = Waits::new(self.clone(), name, id, ticket);
                Ok(EventStream::new(waits))
            }
            // It was loaded this very moment.
            Asked::Hit(service) => {
                self.instruments.hits.add(1);
                let used = Use::new(self.clone(), name);
                match ticket.take() {
                    Some(request) => Ok(start(service, used, *request, Duration::ZERO)),
                    None => Err(Error::Cancelled),
                }
            }
            Asked::Refused(error) => Err(error),
        }
    }

    /// Changes the state, and has the keeper look at it.
    pub(super) fn tell<R>(&self, change: impl FnOnce(&mut Models) -> R) -> R {
        let told = change(&mut self.state.lock());
        self.changed.notify_one();
        told
    }

    pub(super) fn gave_up(&self, name: &Name, id: u64) {
        // The ticket is dropped outside the lock.
        let _ticket = self.tell(|state| state.gave_up(name, id));
    }

    pub(super) fn ended(&self, name: &Name) {
        let matters = self.state.lock().ended(name);
        if matters {
            self.changed.notify_one();
        }
    }

    pub(super) fn stats(&self) -> ModelCacheStats {
        let now = self.clock.now();
        self.state.lock().stats(now)
    }

    /// Waits until the keeper has ended.
    pub(super) fn wait_for_end(&self) {
        let mut ended = self.ended.lock();
        while !*ended {
            self.has_ended.wait(&mut ended);
        }
    }

    /// The keeper's life.
    pub(super) fn keep(self: &Arc<Self>) {
        let mut told = None;
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            match state.next(now) {
                Some(Act::Done) => break,
                Some(act) => MutexGuard::unlocked(&mut state, || {
                    // Hosts' own code: services, wakers, what requests carry.
                    let _ = error::guarded(|| self.act(act));
                }),
                None => {
                    let seen = state.seen();
                    if told != Some(seen) {
                        let before = told.replace(seen).unwrap_or_default();
                        // A recorder may ask the cache something. What changes meanwhile is seen
                        // by going round once more.
                        MutexGuard::unlocked(&mut state, || self.instruments.tell(before, seen));
                        continue;
                    }
                    match state.due(now) {
                        None => self.changed.wait(&mut state),
                        Some(at) => {
                            let nap = at.saturating_sub(now).max(LEAST_NAP);
                            self.changed.wait_for(&mut state, nap);
                        }
                    }
                }
            }
        }
        let seen = state.seen();
        drop(state);
        let over = Seen { bytes: 0, ..seen };
        self.instruments.tell(told.unwrap_or_default(), over);
        *self.ended.lock() = true;
        self.has_ended.notify_all();
    }

    fn act(self: &Arc<Self>, act: Act<Arc<dyn Generate>, Arc<Ticket>>) {
        match act {
            Act::Size(name) => self.size(name),
            Act::Load(name, progress) => self.load(name, progress),
            Act::Unload(name, service) => self.unload(name, service),
            Act::Start(name, service, requests) => self.start(&name, &service, requests),
            Act::Fail(failed) => {
                for (ticket, error) in failed {
                    let _ = error::guarded(|| ticket.fail(error));
                }
            }
            Act::Done => {}
        }
    }

    fn start(
        self: &Arc<Self>,
        name: &Name,
        service: &Arc<dyn Generate>,
        requests: Vec<Waiting<Arc<Ticket>>>,
    ) {
        let now = self.clock.now();
        // All uses were counted at once: each is ended once, whatever becomes of the others.
        let requests: Vec<_> = requests
            .into_iter()
            .map(|request| (request.ticket, Use::new(self.clone(), name.clone())))
            .collect();
        for (ticket, used) in requests {
            let Some(request) = ticket.take() else {
                continue;
            };
            let waited = now.saturating_sub(ticket.arrival);
            let answer = start(service.clone(), used, *request, waited);
            let _ = error::guarded(|| ticket.hand(answer));
        }
    }

    fn size(self: &Arc<Self>, name: Name) {
        let (shared, sized) = (self.clone(), name.clone());
        let spawned = spawn("llmserve-models-size", move || {
            let size = guarded(|| shared.loader.estimate(&sized)).and_then(|size| size);
            let now = shared.clock.now();
            shared.tell(|state| state.sized(now, &sized, size));
        });
        if let Err(reason) = spawned {
            let now = self.clock.now();
            let error = no_thread(&name, &reason);
            self.tell(|state| state.sized(now, &name, Err(error)));
        }
    }

    fn load(self: &Arc<Self>, name: Name, progress: Arc<LoadProgress>) {
        let (shared, loading) = (self.clone(), name.clone());
        let began = self.clock.now();
        let spawned = spawn("llmserve-models-load", move || {
            let loaded = guarded(|| shared.loader.load(&loading, &progress));
            let loaded = loaded
                .and_then(|loaded| loaded)
                .map(|loaded| (Arc::from(loaded.service), loaded.bytes));
            let now = shared.clock.now();
            if loaded.is_ok() {
                shared.instruments.took(now.saturating_sub(began));
            }
            shared.tell(|state| state.loaded(now, &loading, loaded));
        });
        if let Err(reason) = spawned {
            let now = self.clock.now();
            let error = no_thread(&name, &reason);
            self.tell(|state| state.loaded(now, &name, Err(error)));
        }
    }

    fn unload(self: &Arc<Self>, name: Name, service: Arc<dyn Generate>) {
        let (shared, unloading) = (self.clone(), name.clone());
        // Without a thread for it, the service is dropped here and now.
        let spawned = spawn("llmserve-models-unload", move || {
            let _ = error::guarded(|| drop(service));
            shared.tell(|state| state.unloaded(&unloading));
        });
        if spawned.is_err() {
            self.tell(|state| state.unloaded(&name));
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(work).map(|_| ())
}

fn no_thread(model: &str, reason: &std::io::Error) -> Error {
    Error::LoadFailed {
        model: model.to_owned(),
        reason: format!("no thread to load it on: {reason}"),
        retry_after: None,
    }
}

/// Asks the loader: its panics become errors.
fn guarded<R>(ask: impl FnOnce() -> R) -> Result<R, Error> {
    error::guarded(ask).map_err(|message| Error::Panicked {
        part: "loader",
        message,
    })
}
