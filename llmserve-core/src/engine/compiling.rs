//! Requests whose constraint nobody knows yet, and the thread that compiles them.
//!
//! A constraint may take a while, so nothing else waits behind it: not prompts, not constraints
//! that are known. Those that are new take turns by tenant, one at a time, and one tenant's share
//! of what may wait is bounded, so that others find room in the intake.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::grammars::Grammars;
use super::intake::{Intake, Limits};
use crate::error::Error;
use crate::ids::TokenId;

/// A request, its prompt as tokens, that waits for its grammar.
pub(super) struct Waiting {
    pub(super) intake: Box<Intake>,
    pub(super) tokens: Vec<TokenId>,
}

impl Waiting {
    fn tenant(&self) -> &Option<String> {
        &self.intake.request.tenant
    }
}

/// What the thread is to do next.
pub(super) enum Turn {
    Compile(Waiting),
    /// All that came before a drain has had its turn.
    Drained,
}

/// Requests in line, one line a tenant.
pub(super) struct Queue {
    lines: Mutex<Lines>,
    news: Condvar,
    /// Most of one tenant.
    most: usize,
}

#[derive(Default)]
struct Lines {
    lines: HashMap<Option<String>, VecDeque<Waiting>>,
    /// Tenants with a line, the one whose turn it is first.
    turns: VecDeque<Option<String>>,
    draining: bool,
    /// Intake threads that may bring more.
    feeders: usize,
}

impl Queue {
    /// One that ends when `feeders` [`Feeder`]s are gone. A tenant may have half of `max_intake`
    /// requests in it.
    pub(super) fn new(feeders: usize, max_intake: usize) -> Self {
        let lines = Lines {
            feeders,
            ..Lines::default()
        };
        Self {
            lines: Mutex::new(lines),
            news: Condvar::new(),
            most: (max_intake / 2).max(1),
        }
    }

    /// Puts a request behind its tenant's others.
    ///
    /// # Errors
    /// The request and [`Error::Overloaded`], where too many of the tenant wait.
    pub(super) fn push(&self, waiting: Waiting) -> Result<(), (Waiting, Error)> {
        let mut guard = self.lines.lock();
        let Lines { lines, turns, .. } = &mut *guard;
        if !lines.contains_key(waiting.tenant()) {
            turns.push_back(waiting.tenant().clone());
        }
        let line = lines.entry(waiting.tenant().clone()).or_default();
        if line.len() >= self.most {
            let error = Error::Overloaded {
                waiting: line.len(),
                limit: self.most,
                unit: "requests of this tenant with new constraints",
                retry_after: None,
            };
            return Err((waiting, error));
        }
        line.push_back(waiting);
        self.news.notify_one();
        Ok(())
    }

    /// Has [`Turn::Drained`] said once all that is here has had its turn.
    pub(super) fn drain(&self) {
        self.lines.lock().draining = true;
        self.news.notify_one();
    }

    /// Waits for the next. None once nobody is left to bring more.
    pub(super) fn next(&self) -> Option<Turn> {
        let mut guard = self.lines.lock();
        loop {
            let Lines { lines, turns, .. } = &mut *guard;
            if let Some(tenant) = turns.pop_front() {
                let line = lines.get_mut(&tenant);
                let waiting = line.and_then(VecDeque::pop_front);
                match lines.get(&tenant) {
                    Some(line) if !line.is_empty() => turns.push_back(tenant),
                    _ => {
                        lines.remove(&tenant);
                    }
                }
                match waiting {
                    Some(waiting) => return Some(Turn::Compile(waiting)),
                    None => continue,
                }
            }
            if std::mem::take(&mut guard.draining) {
                return Some(Turn::Drained);
            }
            if guard.feeders == 0 {
                return None;
            }
            self.news.wait(&mut guard);
        }
    }
}

/// An intake thread's hold on the queue.
pub(super) struct Feeder(pub(super) Arc<Queue>);

impl Drop for Feeder {
    fn drop(&mut self) {
        self.0.lines.lock().feeders -= 1;
        self.0.news.notify_one();
    }
}

/// What the thread works with.
pub(super) struct Compiling {
    pub(super) queue: Arc<Queue>,
    pub(super) grammars: Arc<Grammars>,
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
}

impl Compiling {
    /// Runs until the intake threads have ended and nobody waits.
    pub(super) fn run(self) {
        while let Some(turn) = self.queue.next() {
            match turn {
                // As on the intake's lanes: what panics in here has lost its own request alone.
                Turn::Compile(waiting) => {
                    drop(catch_unwind(AssertUnwindSafe(|| self.compile(waiting))));
                }
                Turn::Drained => self.shared.drained(),
            }
        }
    }

    fn compile(&self, Waiting { intake, tokens }: Waiting) {
        let Some(intake) = intake.wanted(&self.shared) else {
            return;
        };
        let Some(constraint) = &intake.request.constraint else {
            return intake.submit(tokens, None, &self.shared, &self.limits);
        };
        let tenant = intake.request.tenant.as_deref();
        match self.grammars.compile(constraint, tenant) {
            Ok(grammar) => intake.submit(tokens, Some(grammar), &self.shared, &self.limits),
            Err(error) => intake.refuse(error),
        }
    }
}
