//! Single flight: equal requests that arrive together cost one run.
//!
//! Nobody owns the run. It lies in the middle with a log of what it has said, everybody who takes
//! part reads the log at a pace of their own, and whoever has read all of it drives the run on:
//!
//! ```text
//!   a ──┐ read at 5                                ┌── the run: a stream of the inner service
//!   b ──┼─────────►  log: 0 1 2 3 4 5 6  ◄── drive ┤
//!   c ──┘ read at 7: takes the run, polls it once, └── its waker wakes everybody
//!         appends what comes, puts it back
//! ```
//!
//! So there is no leader whose slowness, cancellation or panic could hurt the others: a reader that
//! stops reading is overtaken, one that leaves is missed by nobody, and the run is dropped, and so
//! cancelled, with the last of them.
//!
//! One is told apart, the *starter*, whose request it is that runs. What befalls the run because of
//! that request (its deadline, an overload it met, a panic) is the starter's; the others leave, and
//! the first of them starts a run of their own.

mod seats;
mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use llmserve_core::error::guarded;
use llmserve_core::{Error, Event, FinishReason};

pub(crate) use table::{Boarded, Flights, Terms};

use crate::answer::{Answer, Cursor, Log, Summary};
use crate::recorder::Recorder;
use crate::sync::Mutex;
use crate::trace::Found;
use seats::Seats;

/// What is driven.
pub(crate) trait Work: Send + 'static {
    /// The next thing, with `cx` woken when there may be one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress>;
}

/// What driving comes to.
pub(crate) enum Progress {
    /// The run said something.
    Event(Event),
    /// No run is needed.
    Found(Found),
    Failed(Error),
    Ended,
}

/// One run, and everybody who listens to it.
pub(crate) struct Flight<W> {
    pub(crate) terms: Terms,
    state: Mutex<State<W>>,
}

struct State<W> {
    phase: Phase<W>,
    log: Log,
    recorder: Recorder,
    /// From this event on the log is the starter's alone.
    cut: Option<usize>,
    seats: Seats,
    landing: Option<Landing>,
}

enum Phase<W> {
    /// For the next who wants something new.
    Idle(W),
    /// In somebody's hands. Poked: its waker was woken meanwhile.
    Driven {
        poked: bool,
    },
    Over(Over),
}

#[derive(Clone)]
enum Over {
    Ended,
    Found(Found),
    Failed(Error),
    /// Everybody left.
    Abandoned,
}

/// Called once, when the run is over or everybody has left, with the answer if it may be kept.
pub(crate) type Landing = Box<dyn FnOnce(Option<Answer>) + Send>;

/// What a listener gets.
pub(crate) enum Turn {
    Event(Event),
    Found(Found),
    Failed(Error),
    Ended,
    /// What there is, is not for this listener; they look for another run.
    Leave,
}

/// A listener's place.
pub(crate) struct Seat<W: Work> {
    flight: Arc<Flight<W>>,
    number: usize,
    cursor: Cursor,
    starter: bool,
}

impl<W: Work> Flight<W> {
    /// A flight whose work is still being made, with its starter's seat: see
    /// [`Seat::launch`].
    pub(crate) fn prepare(terms: Terms, recorder: Recorder, landing: Landing) -> Seat<W> {
        let mut seats = Seats::default();
        let number = seats.take();
        let flight = Arc::new(Self {
            terms,
            state: Mutex::new(State {
                phase: Phase::Driven { poked: false },
                log: Log::default(),
                recorder,
                cut: None,
                seats,
                landing: Some(landing),
            }),
        });
        Seat {
            flight,
            number,
            cursor: Cursor::default(),
            starter: true,
        }
    }

    /// A seat for one more; none if there is nothing to listen to any more.
    fn join(self: &Arc<Self>) -> Option<Seat<W>> {
        let mut state = self.state.lock();
        // What has ended well can be heard from its beginning until its answer is in the store.
        let lost = matches!(state.phase, Phase::Over(Over::Failed(_) | Over::Abandoned));
        if lost || state.cut.is_some() {
            return None;
        }
        let number = state.seats.take();
        Some(Seat {
            flight: self.clone(),
            number,
            cursor: Cursor::default(),
            starter: false,
        })
    }

    /// Its answer is not to be kept, whatever it will be.
    fn disown(&self) {
        self.state.lock().recorder.give_up();
    }

    /// Whether nothing more comes of it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Over(_))
    }
}

impl<W: Work> Wake for Flight<W> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if let Phase::Driven { poked } = &mut state.phase {
            *poked = true;
            return;
        }
        let wakers = state.seats.wakers();
        drop(state);
        wakers.wake();
    }
}

impl<W: Work> Seat<W> {
    pub(crate) fn flight(&self) -> &Arc<Flight<W>> {
        &self.flight
    }

    pub(crate) fn is_starter(&self) -> bool {
        self.starter
    }

    /// What the run has cost so far.
    pub(crate) fn cost(&self) -> Summary {
        self.flight.state.lock().log.summary
    }

    /// The events heard so far.
    pub(crate) fn heard(&self) -> Vec<Event> {
        let state = self.flight.state.lock();
        let mut cursor = Cursor::default();
        let next = || state.log.read(&mut cursor);
        std::iter::from_fn(next).take(self.cursor.events).collect()
    }

    /// Gives the flight its work, which was made without a lock held.
    pub(crate) fn launch(&self, work: W) {
        let mut state = self.flight.state.lock();
        state.phase = Phase::Idle(work);
        let wakers = state.seats.wakers();
        drop(state);
        wakers.wake();
    }

    /// What comes next for this listener.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        // Declared first, so dropped last, without the lock.
        let _before;
        let mut state = self.flight.state.lock();
        if !self.starter && state.cut.is_some_and(|cut| self.cursor.events >= cut) {
            return Poll::Ready(Turn::Leave);
        }
        if let Some(event) = state.log.read(&mut self.cursor) {
            return Poll::Ready(Turn::Event(event));
        }
        _before = state.seats.set(self.number, cx.waker());
        let driven = Phase::Driven { poked: false };
        let mut work = match std::mem::replace(&mut state.phase, driven) {
            Phase::Idle(work) => work,
            Phase::Driven { poked } => {
                state.phase = Phase::Driven { poked };
                return Poll::Pending;
            }
            Phase::Over(over) => {
                state.phase = Phase::Over(over.clone());
                return Poll::Ready(self.landed(over));
            }
        };
        drop(state);
        let waker = Waker::from(self.flight.clone());
        let mut inner = Context::from_waker(&waker);
        let progress = guarded(|| work.poll(&mut inner))
            .unwrap_or_else(|message| Poll::Ready(Progress::Failed(panicked(message))));
        let mut state = self.flight.state.lock();
        let poked = matches!(state.phase, Phase::Driven { poked: true });
        match progress {
            // Woken while it was polled, and that waker has been used up: everybody's, the
            // driver's among them, is woken instead. Not polled again here, as some work means
            // by it that its executor shall go on first.
            Poll::Pending if poked => {
                state.phase = Phase::Idle(work);
                let wakers = state.seats.wakers();
                drop(state);
                wakers.wake();
                Poll::Pending
            }
            Poll::Pending => {
                state.phase = Phase::Idle(work);
                Poll::Pending
            }
            Poll::Ready(Progress::Event(event)) => {
                let turn = match state.note(event, self.starter, &mut self.cursor) {
                    Ok(turn) => turn,
                    Err(over) => return Poll::Ready(self.land(state, over, work)),
                };
                state.phase = Phase::Idle(work);
                let wakers = state.seats.wakers();
                drop(state);
                wakers.wake();
                Poll::Ready(turn)
            }
            Poll::Ready(Progress::Found(found)) => {
                Poll::Ready(self.land(state, Over::Found(found), work))
            }
            Poll::Ready(Progress::Failed(error)) => {
                Poll::Ready(self.land(state, Over::Failed(error), work))
            }
            Poll::Ready(Progress::Ended) => Poll::Ready(self.land(state, Over::Ended, work)),
        }
    }

    /// The run is over: the answer is kept, and everybody is told.
    fn land(&self, mut state: Guard<'_, W>, over: Over, work: W) -> Turn {
        state.phase = Phase::Over(over.clone());
        let keep = matches!(over, Over::Ended) && state.recorder.complete();
        let answer = keep.then(|| Answer::from(&state.log));
        let landing = state.landing.take();
        let wakers = state.seats.wakers();
        drop(state);
        // Kept before it is told that it ended, and before the work, which is the inner service's
        // code, is dropped.
        if let Some(landing) = landing {
            let _ = guarded(|| landing(answer));
        }
        wakers.wake();
        let _ = guarded(|| drop(work));
        self.landed(over)
    }

    /// How the end looks from this seat.
    fn landed(&self, over: Over) -> Turn {
        match over {
            Over::Ended => Turn::Ended,
            Over::Found(found) => Turn::Found(found),
            Over::Failed(error) => {
                let mine = self.starter || self.cursor.events > 0 || is_anybodys(&error);
                if mine {
                    Turn::Failed(error)
                } else {
                    Turn::Leave
                }
            }
            Over::Abandoned => Turn::Leave,
        }
    }
}

#[cfg(not(all(test, loom)))]
type Guard<'a, W> = parking_lot::MutexGuard<'a, State<W>>;
#[cfg(all(test, loom))]
type Guard<'a, W> = loom::sync::MutexGuard<'a, State<W>>;

impl<W: Work> State<W> {
    /// Writes down what the run said, and tells the one who drove it.
    fn note(&mut self, event: Event, starter: bool, cursor: &mut Cursor) -> Result<Turn, Over> {
        if !self.log.push(&event) {
            let message = "an event of a kind the cache does not know".to_owned();
            return Err(Over::Failed(Error::Panicked {
                part: "cache",
                message,
            }));
        }
        let size = self.log.size();
        self.recorder.note(&event, size);
        if let Event::Finished(finished) = &event
            && finished.reason == FinishReason::Deadline
        {
            let before = self.log.end().events - 1;
            self.cut.get_or_insert(before);
        }
        if !starter && self.cut.is_some_and(|cut| cursor.events >= cut) {
            return Ok(Turn::Leave);
        }
        // The driver had read everything, so this is what comes next for it.
        *cursor = self.log.end();
        Ok(Turn::Event(event))
    }
}

impl<W: Work> Drop for Seat<W> {
    fn drop(&mut self) {
        // Declared first, so dropped last, without the lock.
        let _waker;
        let mut state = self.flight.state.lock();
        _waker = state.seats.leave(self.number);
        if !state.seats.is_empty() {
            return;
        }
        // Nobody listens and nobody drives: it is over.
        let over = Phase::Over(Over::Abandoned);
        let abandoned = match std::mem::replace(&mut state.phase, over) {
            Phase::Over(over) => {
                state.phase = Phase::Over(over);
                None
            }
            Phase::Idle(work) => Some(work),
            Phase::Driven { .. } => None,
        };
        let landing = state.landing.take();
        drop(state);
        if let Some(landing) = landing {
            let _ = guarded(|| landing(None));
        }
        let _ = guarded(|| drop(abandoned));
    }
}

/// Whether anybody with an equal request would get this error.
fn is_anybodys(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidRequest { .. }
            | Error::PromptTooLong { .. }
            | Error::Tokenizer(_)
            | Error::Grammar(_)
            | Error::UnknownModel { .. }
            | Error::ShutDown
    )
}

pub(crate) fn panicked(message: String) -> Error {
    Error::Panicked {
        part: "inner service",
        message,
    }
}
