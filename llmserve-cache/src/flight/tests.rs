//! Every order in which listeners, the run and those who leave can meet:
//! `RUSTFLAGS="--cfg loom" cargo test -p llmserve-cache --lib interleavings`.

#[cfg(loom)]
mod interleavings {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    use llmserve_core::{Event, TextEvent};
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::super::*;
    use crate::epoch::Stamp;
    use crate::policy::Policy;

    /// Every order with at most three forced switches: more than that takes minutes, and a switch
    /// where a thread waits is free.
    fn explore(test: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(test);
    }

    /// A run of one event that another thread makes ready.
    struct Run {
        given: Arc<Given>,
        told: bool,
    }

    struct Given {
        state: Mutex<(bool, Option<Waker>)>,
    }

    impl Work for Run {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
            let mut state = self.given.state.lock();
            if !state.0 {
                state.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if std::mem::replace(&mut self.told, true) {
                return Poll::Ready(Progress::Ended);
            }
            let text = "a".to_owned();
            Poll::Ready(Progress::Event(Event::Text(TextEvent { index: 0, text })))
        }
    }

    impl Given {
        fn give(&self) {
            let mut state = self.state.lock();
            state.0 = true;
            let waker = state.1.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Wakes a loom thread that waits for it.
    struct Bell {
        rung: Mutex<bool>,
        notify: loom::sync::Notify,
    }

    impl Bell {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                rung: Mutex::new(false),
                notify: loom::sync::Notify::new(),
            })
        }
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *self.rung.lock() = true;
            self.notify.notify();
        }
    }

    fn terms() -> Terms {
        Terms {
            stamp: Stamp::default(),
            ends: None,
            priority: 0,
            repeats: true,
        }
    }

    fn flight(landed: &Arc<AtomicUsize>) -> (Seat<Run>, Arc<Given>) {
        let given = Arc::new(Given {
            state: Mutex::new((false, None)),
        });
        let landed = landed.clone();
        let recorder = Recorder::new(Policy::default(), 1, usize::MAX);
        let landing = move |_| {
            landed.fetch_add(1, Ordering::SeqCst);
        };
        let seat = Flight::prepare(terms(), recorder, Box::new(landing));
        seat.launch(Run {
            given: given.clone(),
            told: false,
        });
        (seat, given)
    }

    /// Reads to the end; loom finds the orders in which nobody rings.
    fn read(mut seat: Seat<Run>) -> usize {
        let bell = Bell::new();
        let waker = Waker::from(bell.clone());
        let mut events = 0;
        loop {
            match seat.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Turn::Event(_)) => events += 1,
                Poll::Ready(Turn::Ended) => return events,
                Poll::Ready(_) => panic!("the run neither fails nor is found"),
                Poll::Pending => {
                    while !std::mem::take(&mut *bell.rung.lock()) {
                        bell.notify.wait();
                    }
                }
            }
        }
    }

    #[test]
    fn two_read_all_of_it_whoever_drives() {
        explore(|| {
            let landed = Arc::new(AtomicUsize::new(0));
            let (first, given) = flight(&landed);
            let second = first.flight().join().expect("it has not begun");
            let reader = thread::spawn(move || read(second));
            let giver = thread::spawn(move || given.give());
            assert_eq!(read(first), 1);
            assert_eq!(reader.join().unwrap(), 1);
            giver.join().unwrap();
            assert_eq!(landed.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn one_reads_all_of_it_though_the_driver_leaves() {
        explore(|| {
            let landed = Arc::new(AtomicUsize::new(0));
            let (mut first, given) = flight(&landed);
            let second = first.flight().join().expect("it has not begun");
            let reader = thread::spawn(move || read(second));
            let giver = thread::spawn(move || given.give());
            // Polled once, so that it may be the one whom the run's waker finds; then gone.
            let waker = Waker::noop();
            let _ = first.poll(&mut Context::from_waker(waker));
            drop(first);
            assert_eq!(reader.join().unwrap(), 1);
            giver.join().unwrap();
            assert_eq!(landed.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn it_lands_once_however_they_leave() {
        explore(|| {
            let landed = Arc::new(AtomicUsize::new(0));
            let (first, given) = flight(&landed);
            let second = first.flight().join();
            let other = thread::spawn(move || drop(second));
            let giver = thread::spawn(move || given.give());
            drop(first);
            other.join().unwrap();
            giver.join().unwrap();
            assert_eq!(landed.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn who_joins_while_the_last_leaves_has_a_run_or_knows() {
        explore(|| {
            let landed = Arc::new(AtomicUsize::new(0));
            let (first, given) = flight(&landed);
            given.give();
            let flight = first.flight().clone();
            let other = thread::spawn(move || flight.join().map(read));
            drop(first);
            if let Some(events) = other.join().unwrap() {
                assert_eq!(events, 1);
            }
            assert_eq!(landed.load(Ordering::SeqCst), 1);
        });
    }
}
