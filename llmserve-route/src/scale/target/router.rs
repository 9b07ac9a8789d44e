//! Replicas of a router, in this process.

use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};

use llmserve_core::error::panic_message;
use parking_lot::Mutex;

use super::{ScaleError, ScaleTarget};
use crate::replica::Replica;
use crate::router::Router;

type Spawn = dyn Fn(&str) -> Result<Replica, Box<dyn StdError + Send + Sync>> + Send + Sync;

/// Starts replicas of a router and stops them again. Those it did not start it leaves alone and
/// does not count.
///
/// A replica to be stopped is the one of its own with the fewest outstanding requests. It is
/// drained, and removed once its last request has ended, at the next call of
/// [`current`](ScaleTarget::current) or [`scale_to`](ScaleTarget::scale_to); where more are wanted
/// meanwhile, it is taken back before anything new is started. A router that has no other replicas
/// is built with [`allow_empty`](crate::RouterBuilder::allow_empty).
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::scale::{RouterTarget, ScaleTarget};
/// use llmserve_route::{Replica, Router};
/// let router = Router::builder().allow_empty(true).build()?;
/// let start = |name: &str| Ok(Replica::new(name, Engine).capacity(64));
/// let target = RouterTarget::new(router.clone(), "engine", start);
/// target.scale_to(2)?;
/// assert_eq!((target.current(), router.fleet().len()), (2, 2));
/// target.scale_to(1)?;
/// assert_eq!(router.fleet().len(), 1); // it had nothing to do
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RouterTarget {
    router: Router,
    prefix: String,
    spawn: Box<Spawn>,
    /// Held while it scales: one at a time.
    scaling: Mutex<()>,
    state: Mutex<State>,
}

/// Names of replicas it started.
#[derive(Debug, Default)]
struct State {
    /// Those that answer, in the order in which they began.
    running: Vec<String>,
    /// Those that end what they have begun.
    draining: Vec<String>,
    /// How many it ever started.
    started: u64,
}

impl RouterTarget {
    /// Replicas named `prefix` and a number, each as `spawn` makes it; that may take its time, on
    /// the thread that scales.
    pub fn new(
        router: Router,
        prefix: impl Into<String>,
        spawn: impl Fn(&str) -> Result<Replica, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            router,
            prefix: prefix.into(),
            spawn: Box::new(spawn),
            scaling: Mutex::new(()),
            state: Mutex::default(),
        }
    }

    /// Requests outstanding at a replica; none where somebody else removed it.
    fn outstanding(&self, name: &str) -> Option<usize> {
        let replicas = self.router.stats().replicas;
        let replica = replicas.into_iter().find(|replica| replica.name == name);
        replica.map(|replica| replica.outstanding)
    }

    /// Removes those that have nothing left to do, and forgets those that others removed.
    fn reap(&self) {
        let mut state = self.state.lock();
        state
            .running
            .retain(|name| self.outstanding(name).is_some());
        state.draining.retain(|name| match self.outstanding(name) {
            Some(0) => self.router.remove(name).is_err(),
            Some(_) => true,
            None => false,
        });
    }

    /// One more: taken back, or started.
    fn more(&self) -> Result<(), String> {
        let mut state = self.state.lock();
        while let Some(name) = state.draining.pop() {
            if self.router.undrain(&name).is_ok() {
                state.running.push(name);
                return Ok(());
            }
        }
        state.started += 1;
        let name = format!("{}-{}", self.prefix, state.started);
        drop(state);
        // It takes its time: others may ask meanwhile how many there are.
        let spawned = catch_unwind(AssertUnwindSafe(|| (self.spawn)(&name)));
        let mut replica = spawned
            .map_err(|panic| format!("starting {name:?} panicked: {}", panic_message(&*panic)))?
            .map_err(|error| format!("{name:?} did not start: {error}"))?;
        replica.info.name.clone_from(&name);
        self.router
            .add(replica)
            .map_err(|error| error.to_string())?;
        self.state.lock().running.push(name);
        Ok(())
    }

    /// One fewer.
    fn fewer(&self) {
        let mut state = self.state.lock();
        let names = state.running.iter().enumerate();
        // Of equals the youngest.
        let least = names
            .rev()
            .min_by_key(|(_, name)| self.outstanding(name))
            .map(|(at, _)| at);
        if let Some(at) = least {
            let name = state.running.remove(at);
            if self.router.drain(&name).is_ok() {
                state.draining.push(name);
            }
        }
    }
}

impl ScaleTarget for RouterTarget {
    fn current(&self) -> usize {
        self.reap();
        self.state.lock().running.len()
    }

    fn scale_to(&self, replicas: usize) -> Result<(), ScaleError> {
        let _one_at_a_time = self.scaling.lock();
        loop {
            let current = self.current();
            if current < replicas {
                self.more()
                    .map_err(|message| ScaleError::new(replicas, current, message))?;
            } else if current > replicas {
                self.fewer();
            } else {
                // Those that were drained and have nothing to do are gone by now.
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for RouterTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterTarget")
            .field("prefix", &self.prefix)
            .field("state", &*self.state.lock())
            .finish_non_exhaustive()
    }
}
