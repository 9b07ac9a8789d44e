//! Time that wakes.
//!
//! A stream that waits for a time must be polled when it has come, and no async runtime is forced
//! on the host: so whoever needs it has a thread of its own that sleeps until the earliest time
//! anybody waits for. The thread begins with the first wait and ends with its timer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use llmserve_core::{Clock, ManualClock, SystemClock, Time};
use parking_lot::{Condvar, Mutex};

/// A clock that can be waited for.
///
/// ```
/// use std::task::Waker;
/// use std::time::Duration;
/// use llmserve_core::Clock;
/// use llmserve_route::{SystemTimer, Timer};
/// let timer = SystemTimer::new();
/// let alarm = timer.wake_at(timer.now() + Duration::from_secs(1), Waker::noop().clone());
/// drop(alarm); // Nobody will be woken.
/// ```
pub trait Timer: Clock {
    /// Wakes `waker` when the clock has reached `at`, unless the alarm has been dropped. At once
    /// where it has already.
    fn wake_at(&self, at: Time, waker: Waker) -> Alarm;
}

/// A wait for a time, given up when it is dropped.
#[must_use = "nobody is woken once it is dropped"]
pub struct Alarm(Option<(Arc<Alarms>, Key)>);

impl Alarm {
    /// One that has gone off.
    pub fn past() -> Self {
        Self(None)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some((alarms, key)) = self.0.take() {
            // The waker is dropped outside the lock: it may be a host's own.
            let waker = alarms.state.lock().waiting.remove(&key);
            drop(waker);
        }
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.0.as_ref().map(|(_, (at, _))| at);
        f.debug_tuple("Alarm").field(&at).finish()
    }
}

/// When, and a number that tells apart what is at the same time.
type Key = (Time, u64);

#[derive(Default)]
struct Alarms {
    state: Mutex<State>,
    /// The earliest time has changed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Key, Waker>,
    numbers: u64,
    /// Until when the thread sleeps: whoever waits for an earlier time must wake it, and nobody
    /// else needs to. [`Time::ZERO`] while it is awake, for it looks before it sleeps.
    asleep_until: Time,
    running: bool,
    ended: bool,
}

impl Alarms {
    fn add(self: &Arc<Self>, state: &mut State, at: Time, waker: Waker) -> Alarm {
        let key = (at, state.numbers);
        state.numbers += 1;
        state.waiting.insert(key, waker);
        Alarm(Some((self.clone(), key)))
    }

    /// Takes out one that is due.
    fn due(state: &mut State, now: Time) -> Option<Waker> {
        let first = state.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// The machine's time, and a thread that sleeps.
#[derive(Default)]
pub struct SystemTimer {
    clock: SystemClock,
    alarms: Arc<Alarms>,
}

impl SystemTimer {
    /// A timer whose time begins now. No thread is started before somebody waits.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Clock for SystemTimer {
    fn now(&self) -> Time {
        self.clock.now()
    }
}

impl Timer for SystemTimer {
    fn wake_at(&self, at: Time, waker: Waker) -> Alarm {
        let mut state = self.alarms.state.lock();
        if at <= self.clock.now() {
            drop(state);
            waker.wake();
            return Alarm::past();
        }
        if !state.running {
            let (clock, alarms) = (self.clock, self.alarms.clone());
            let thread = std::thread::Builder::new().name("llmserve-timer".into());
            state.running = thread.spawn(move || ring(clock, &alarms)).is_ok();
            if !state.running {
                // Without a thread, late is better than never: whoever waits looks again and again.
                drop(state);
                waker.wake();
                return Alarm::past();
            }
        }
        // A request that is answered in time drops its alarm and the next one's is later: the thread,
        // asleep until the first one's, is not woken for each of them.
        if at < state.asleep_until {
            self.alarms.changed.notify_one();
        }
        self.alarms.add(&mut state, at, waker)
    }
}

impl Drop for SystemTimer {
    fn drop(&mut self) {
        self.alarms.state.lock().ended = true;
        self.alarms.changed.notify_one();
    }
}

impl std::fmt::Debug for SystemTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemTimer")
            .field("waiting", &self.alarms.state.lock().waiting.len())
            .finish_non_exhaustive()
    }
}

/// Wakes who is due, until nobody can wait any more.
fn ring(clock: SystemClock, alarms: &Alarms) {
    let mut state = alarms.state.lock();
    while !state.ended {
        let now = clock.now();
        if let Some(waker) = Alarms::due(&mut state, now) {
            // What a waker does is the host's; it may wait for an alarm itself, or panic.
            parking_lot::MutexGuard::unlocked(&mut state, || {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
            });
            continue;
        }
        match state.waiting.first_key_value() {
            Some(((at, _), _)) => {
                let at = *at;
                state.asleep_until = at;
                let pause = at.saturating_sub(now);
                alarms.changed.wait_for(&mut state, pause);
            }
            None => {
                state.asleep_until = Time::MAX;
                alarms.changed.wait(&mut state);
            }
        }
        state.asleep_until = Time::ZERO;
    }
}

/// A timer whose time moves only when told to, for tests and simulations.
///
/// ```
/// use std::time::Duration;
/// use llmserve_core::Clock;
/// use llmserve_route::ManualTimer;
/// let timer = ManualTimer::default();
/// timer.advance(Duration::from_secs(5));
/// assert_eq!(timer.now(), Duration::from_secs(5));
/// ```
#[derive(Default)]
pub struct ManualTimer {
    clock: ManualClock,
    alarms: Arc<Alarms>,
}

impl ManualTimer {
    /// Moves time forward by `by` and wakes who waited for it, in the order of their times, each at
    /// the end of the whole move.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        let now = self.clock.now();
        loop {
            let Some(waker) = Alarms::due(&mut self.alarms.state.lock(), now) else {
                return;
            };
            waker.wake();
        }
    }

    /// The earliest time anybody waits for.
    pub fn next(&self) -> Option<Time> {
        let state = self.alarms.state.lock();
        state.waiting.first_key_value().map(|((at, _), _)| *at)
    }
}

impl Clock for ManualTimer {
    fn now(&self) -> Time {
        self.clock.now()
    }
}

impl Timer for ManualTimer {
    fn wake_at(&self, at: Time, waker: Waker) -> Alarm {
        let mut state = self.alarms.state.lock();
        if at <= self.clock.now() {
            drop(state);
            waker.wake();
            return Alarm::past();
        }
        self.alarms.add(&mut state, at, waker)
    }
}

impl std::fmt::Debug for ManualTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManualTimer")
            .field("now", &self.now())
            .field("next", &self.next())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::task::Wake;

    struct Tells(u32, mpsc::Sender<u32>);

    impl Wake for Tells {
        fn wake(self: Arc<Self>) {
            let _ = self.1.send(self.0);
        }
    }

    #[test]
    fn alarms_go_off_in_order_and_dropped_ones_not_at_all() {
        let timer = SystemTimer::new();
        let (tell, told) = mpsc::channel();
        let waker = |number| Waker::from(Arc::new(Tells(number, tell.clone())));
        let now = timer.now();
        let at = |ms| now + Duration::from_millis(ms);
        let late = timer.wake_at(at(60), waker(3));
        let dropped = timer.wake_at(at(20), waker(2));
        let soon = timer.wake_at(at(10), waker(1));
        drop(dropped);
        let past = timer.wake_at(Time::ZERO, waker(0));
        let all: Vec<_> = (0..3).map(|_| told.recv().unwrap()).collect();
        assert_eq!(all, [0, 1, 3]);
        assert!(timer.now() >= at(60));
        drop((late, soon, past));
        // The thread ends with its timer: the last sender is ours.
        drop(timer.wake_at(at(100_000), waker(4)));
        drop(timer);
        drop(tell);
        assert!(told.recv().is_err());
    }

    #[test]
    fn whatever_the_thread_sleeps_for_the_earliest_wakes_it() {
        let timer = SystemTimer::new();
        let (tell, told) = mpsc::channel();
        let waker = |number| Waker::from(Arc::new(Tells(number, tell.clone())));
        let after = |ms| timer.now() + Duration::from_millis(ms);
        // It sleeps for one that nobody waits for any more, and others are later.
        for number in 0..20 {
            drop(timer.wake_at(after(2), waker(100 + number)));
            let later = timer.wake_at(after(4), waker(number));
            assert_eq!(told.recv(), Ok(number));
            drop(later);
        }
        // It sleeps for long, and others are earlier.
        let _long = timer.wake_at(after(100_000), waker(50));
        for number in 0..20 {
            let sooner = timer.wake_at(after(50_000 - u64::from(number)), waker(60));
            let soon = timer.wake_at(after(1), waker(number));
            assert_eq!(told.recv(), Ok(number));
            drop((soon, sooner));
        }
    }

    #[test]
    fn a_waker_may_wait_again_or_panic() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("on purpose");
            }
        }
        let timer = Arc::new(SystemTimer::new());
        let (tell, told) = mpsc::channel();
        struct Again(Arc<SystemTimer>, mpsc::Sender<u32>);
        impl Wake for Again {
            fn wake(self: Arc<Self>) {
                let next = Waker::from(Arc::new(Tells(7, self.1.clone())));
                let at = self.0.now() + Duration::from_millis(1);
                std::mem::forget(self.0.wake_at(at, next));
            }
        }
        let soon = timer.now() + Duration::from_millis(5);
        let _panics = timer.wake_at(soon, Waker::from(Arc::new(Panics)));
        let again = Waker::from(Arc::new(Again(timer.clone(), tell)));
        let _again = timer.wake_at(soon, again);
        assert_eq!(told.recv(), Ok(7));
    }

    #[test]
    fn manual_time_wakes_only_when_told() {
        let timer = ManualTimer::default();
        let (tell, told) = mpsc::channel();
        let waker = |number| Waker::from(Arc::new(Tells(number, tell.clone())));
        let at = Duration::from_secs;
        let _b = timer.wake_at(at(2), waker(2));
        let _a = timer.wake_at(at(1), waker(1));
        let c = timer.wake_at(at(3), waker(3));
        assert_eq!(timer.next(), Some(at(1)));
        timer.advance(at(2));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2]);
        drop(c);
        assert_eq!(timer.next(), None);
        timer.advance(at(9));
        assert_eq!(told.try_iter().count(), 0);
    }
}
