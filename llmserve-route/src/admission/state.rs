//! Queues and places, and what happens when one becomes free.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use llmserve_core::error::panic_message;
use llmserve_core::{Counter, Error, EventStream, Gauge, Generate, Request, Time};
use parking_lot::Mutex;

use super::class::Class;
use super::layer::{AdmissionStats, ClassStats};
use super::rate::Rate;
use super::shares::Shares;
use super::ticket::{Place, Placed, Stage, Ticket};
use crate::timer::Timer;

pub(super) struct Shared {
    pub(super) inner: Arc<dyn Generate>,
    pub(super) places: usize,
    pub(super) classes: Vec<Class>,
    pub(super) promote_after: Duration,
    pub(super) timer: Arc<dyn Timer>,
    pub(super) instruments: Vec<Instruments>,
    pub(super) state: Mutex<State>,
}

/// A class's metrics.
pub(super) struct Instruments {
    pub(super) waiting: Arc<dyn Gauge>,
    pub(super) running: Arc<dyn Gauge>,
    pub(super) refused: Arc<dyn Counter>,
    pub(super) gave_up: Arc<dyn Counter>,
}

pub(super) struct State {
    queues: Vec<Queue>,
    running: usize,
    shares: Shares,
    rate: Rate,
    /// A thread is filling places. Others leave it to it.
    filling: bool,
    /// Something has changed since it looked.
    again: bool,
}

#[derive(Default)]
struct Queue {
    /// In the order of arrival; those that gave up stay until they come to the front, and are not
    /// counted.
    tickets: VecDeque<Arc<Ticket>>,
    waiting: usize,
    running: usize,
    admitted: u64,
    promoted: u64,
}

impl State {
    pub(super) fn new(classes: &[Class]) -> Self {
        Self {
            queues: classes.iter().map(|_| Queue::default()).collect(),
            running: 0,
            shares: Shares::new(classes.iter().map(|class| class.weight)),
            rate: Rate::default(),
            filling: false,
            again: false,
        }
    }
}

impl Queue {
    /// The first that still waits.
    fn head(&mut self) -> Option<&Arc<Ticket>> {
        while self
            .tickets
            .front()
            .is_some_and(|ticket| !ticket.is_waiting())
        {
            self.tickets.pop_front();
        }
        self.tickets.front()
    }

    /// Drops those that gave up, once they are more than those that wait.
    fn tidy(&mut self) {
        if self.tickets.len() > 2 * self.waiting + 16 {
            self.tickets.retain(|ticket| ticket.is_waiting());
        }
    }
}

impl Shared {
    /// Queues a request, and lets it begin if there is a place for it.
    pub(super) fn enter(
        self: &Arc<Self>,
        class: usize,
        tokens: u64,
        request: Request,
    ) -> Result<Arc<Ticket>, Error> {
        let now = self.timer.now();
        let waits = [request.deadline, self.classes[class].max_wait];
        let wait = waits.into_iter().flatten().min();
        let ticket = Arc::new(Ticket {
            class,
            tokens,
            arrival: now,
            until: wait.map(|wait| (now.saturating_add(wait), wait)),
            stage: Mutex::new(Stage::Waiting(Box::new(request), None)),
        });
        let mut state = self.state.lock();
        let queue = &mut state.queues[class];
        let limit = self.classes[class].queue;
        // One that need not wait is not refused for the queue's sake.
        if queue.waiting >= limit && !(queue.waiting == 0 && self.has_place(&state, class)) {
            let waiting = state.queues[class].waiting;
            let ahead: usize = state.queues.iter().map(|queue| queue.waiting).sum();
            let retry_after = state.rate.time_for(ahead.max(1));
            drop(state);
            self.instruments[class].refused.add(1);
            return Err(Error::Overloaded {
                waiting,
                limit,
                unit: "requests",
                retry_after,
            });
        }
        let queue = &mut state.queues[class];
        queue.tickets.push_back(ticket.clone());
        queue.waiting += 1;
        self.show(&state, class);
        drop(state);
        self.fill();
        Ok(ticket)
    }

    /// A place has become free.
    pub(super) fn ended(self: &Arc<Self>, class: usize) {
        let now = self.timer.now();
        let mut state = self.state.lock();
        state.running -= 1;
        state.queues[class].running -= 1;
        let busy = state.queues.iter().any(|queue| queue.waiting > 0);
        state.rate.ended(now, busy);
        self.show(&state, class);
        drop(state);
        self.fill();
    }

    /// A request left the queue without a place.
    pub(super) fn gave_up(self: &Arc<Self>, ticket: &Ticket) {
        let mut state = self.state.lock();
        let queue = &mut state.queues[ticket.class];
        queue.waiting -= 1;
        queue.tidy();
        if queue.waiting == 0 {
            state.shares.left(ticket.class);
        }
        self.show(&state, ticket.class);
        drop(state);
        self.instruments[ticket.class].gave_up.add(1);
    }

    /// Gives free places to those whose turn it is.
    ///
    /// An answer that ends at once frees its place inside this very call; that is told by a flag
    /// and not by another call, so that a thousand of them are a loop and not a tower.
    fn fill(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.again = true;
        if std::mem::replace(&mut state.filling, true) {
            return;
        }
        while std::mem::replace(&mut state.again, false) {
            while let Some((ticket, request)) = self.next(&mut state) {
                drop(state);
                self.start(&ticket, *request);
                state = self.state.lock();
            }
        }
        state.filling = false;
    }

    /// Who is next, its place taken.
    fn next(&self, state: &mut State) -> Option<(Arc<Ticket>, Box<Request>)> {
        loop {
            let now = self.timer.now();
            let (class, promoted) = self.turn(state, now)?;
            let queue = &mut state.queues[class];
            let ticket = queue.tickets.pop_front()?;
            let mut stage = ticket.stage.lock();
            if !matches!(*stage, Stage::Waiting(..)) {
                // It gave up this very moment, and says so itself.
                continue;
            }
            let Stage::Waiting(request, waker) =
                std::mem::replace(&mut *stage, Stage::Starting(None))
            else {
                continue;
            };
            *stage = Stage::Starting(waker);
            drop(stage);
            queue.waiting -= 1;
            queue.running += 1;
            queue.admitted += 1;
            queue.promoted += u64::from(promoted);
            if queue.waiting == 0 {
                state.shares.left(class);
            }
            state.running += 1;
            self.show(state, class);
            return Some((ticket, request));
        }
    }

    /// The class whose head is next, and whether for its long wait.
    fn turn(&self, state: &mut State, now: Time) -> Option<(usize, bool)> {
        let mut wanted = vec![None; self.classes.len()];
        let mut oldest: Option<(Time, usize)> = None;
        for (class, wanted) in wanted.iter_mut().enumerate() {
            if !self.has_place(state, class) {
                continue;
            }
            let Some(head) = state.queues[class].head() else {
                continue;
            };
            *wanted = Some(head.tokens);
            if oldest.is_none_or(|(arrival, _)| head.arrival < arrival) {
                oldest = Some((head.arrival, class));
            }
        }
        if let Some((arrival, class)) = oldest
            && now.saturating_sub(arrival) >= self.promote_after
        {
            let tokens = wanted[class].unwrap_or(0);
            state.shares.charge(class, tokens);
            return Some((class, true));
        }
        let class = state.shares.next(|class| wanted[class])?;
        Some((class, false))
    }

    /// Whether a place is free that is not kept for others.
    fn has_place(&self, state: &State, class: usize) -> bool {
        let kept: usize = (0..self.classes.len())
            .filter(|other| *other != class)
            .map(|other| {
                let running = state.queues[other].running;
                self.classes[other].reserved.saturating_sub(running)
            })
            .sum();
        state.running + kept < self.places
    }

    /// Calls the service for a request that has a place.
    fn start(self: &Arc<Self>, ticket: &Arc<Ticket>, mut request: Request) {
        let place = Arc::new(Place {
            shared: self.clone(),
            class: ticket.class,
            held: Mutex::new(true),
        });
        let waited = self.timer.now().saturating_sub(ticket.arrival);
        request.deadline = request.deadline.map(|left| left.saturating_sub(waited));
        let ended = Arc::downgrade(&place);
        request.on_end.push(Arc::new(move || {
            if let Some(place) = ended.upgrade() {
                place.give_back();
            }
        }));
        let unfinished = request.n;
        let stream = catch_unwind(AssertUnwindSafe(|| self.inner.generate(request)));
        let stream = stream.unwrap_or_else(|panic| {
            EventStream::failed(Error::Panicked {
                part: "service",
                message: panic_message(&*panic),
            })
        });
        let placed = EventStream::new(Placed {
            stream,
            place: Some(place),
            unfinished,
            waited,
        });
        let mut stage = ticket.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Gone) {
            Stage::Starting(waker) => {
                *stage = Stage::Started(placed);
                drop(stage);
                // A host's own code, and not the concern of whoever gave the place.
                let _ = catch_unwind(AssertUnwindSafe(|| waker.map(Waker::wake)));
            }
            // Its reader went away meanwhile. Dropped outside the lock: that cancels it.
            _ => {
                drop(stage);
                drop(placed);
            }
        }
    }

    fn show(&self, state: &State, class: usize) {
        let (queue, instruments) = (&state.queues[class], &self.instruments[class]);
        instruments.waiting.set(queue.waiting as f64);
        instruments.running.set(queue.running as f64);
    }

    pub(super) fn stats(&self) -> AdmissionStats {
        let state = self.state.lock();
        let classes = self.classes.iter().zip(&state.queues);
        AdmissionStats {
            running: state.running,
            classes: classes
                .map(|(class, queue)| ClassStats {
                    name: class.name.clone(),
                    waiting: queue.waiting,
                    running: queue.running,
                    admitted: queue.admitted,
                    promoted: queue.promoted,
                })
                .collect(),
        }
    }
}
