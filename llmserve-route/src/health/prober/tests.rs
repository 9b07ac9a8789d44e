//! Probes in virtual time, on the test's own thread.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use llmserve_core::Error;

use super::*;
use crate::ManualTimer;

/// What a probe does next.
#[derive(Clone, Copy, Debug)]
enum Will {
    Answer(bool),
    /// Never answers, nor wakes.
    Hang,
    Panic,
    PanicLater,
    PanicWhenDropped,
}

/// A probe that does what it is told, and its counts.
#[derive(Default)]
struct Fake {
    will: Mutex<VecDeque<Will>>,
    begun: AtomicUsize,
    live: AtomicUsize,
}

struct Answer(Arc<Fake>, Will);

impl Future for Answer {
    type Output = Result<(), Error>;

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match self.1 {
            Will::Answer(true) => Poll::Ready(Ok(())),
            Will::Answer(false) => Poll::Ready(Err(Error::ShutDown)),
            Will::PanicLater => panic!("on purpose"),
            Will::Hang | Will::PanicWhenDropped | Will::Panic => Poll::Pending,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
        if matches!(self.1, Will::PanicWhenDropped) {
            panic!("on purpose");
        }
    }
}

impl Fake {
    /// The last is done again and again.
    fn new(will: &[Will]) -> Arc<Self> {
        Arc::new(Self {
            will: Mutex::new(will.iter().copied().collect()),
            ..Self::default()
        })
    }

    fn probe(self: &Arc<Self>) -> Arc<dyn Probe> {
        let fake = self.clone();
        Arc::new(move |_: Duration| {
            fake.begun.fetch_add(1, Ordering::SeqCst);
            let mut left = fake.will.lock();
            let will = match left.len() {
                1 => left[0],
                _ => left.pop_front().expect("a script"),
            };
            drop(left);
            if matches!(will, Will::Panic) {
                panic!("on purpose");
            }
            fake.live.fetch_add(1, Ordering::SeqCst);
            Answer(fake.clone(), will)
        })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

struct Rig {
    timer: Arc<ManualTimer>,
    prober: Prober,
    checks: Checks,
    told: RefCell<Vec<(usize, bool)>>,
}

const SLOT: Slot = Slot::new(0, 0);

fn rig(config: HealthChecks) -> Rig {
    let timer = Arc::new(ManualTimer::default());
    let (prober, checks) = Prober::new(config, timer.clone(), Rng::seeded(1));
    Rig {
        timer,
        prober,
        checks,
        told: RefCell::default(),
    }
}

impl Rig {
    /// Moves time, and what has been said since.
    fn after(&mut self, by: Duration) -> Vec<(usize, bool)> {
        self.timer.advance(by);
        let told = &self.told;
        self.checks
            .turn(&|slot, well| told.borrow_mut().push((slot.index(), well)));
        std::mem::take(&mut *self.told.borrow_mut())
    }
}

fn strict() -> HealthChecks {
    HealthChecks::default().jitter(0.0)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const UP: Will = Will::Answer(true);
const DOWN: Will = Will::Answer(false);

#[test]
fn thresholds_decide_and_the_first_probe_decides_alone() {
    let config = strict().unhealthy_threshold(3).healthy_threshold(2);
    let mut rig = rig(config);
    let fake = Fake::new(&[DOWN, UP, UP, DOWN, DOWN, UP, DOWN, DOWN, DOWN, UP, DOWN, UP]);
    rig.prober.joined(SLOT, fake.probe());
    assert_eq!(rig.after(secs(0)), [(0, false)], "a newcomer that is down");
    let mut told = Vec::new();
    for _ in 0..11 {
        assert_eq!(rig.after(secs(9)), [], "not before the interval");
        told.push(rig.after(secs(1)).first().map(|(_, well)| *well));
    }
    let (up, down) = (Some(true), Some(false));
    let expected = [None, up, None, None, up, None, None, down, None, down, None];
    assert_eq!(told, expected);
    assert_eq!((fake.begun(), fake.live()), (12, 0));
}

#[test]
fn a_probe_that_hangs_has_failed_when_its_time_is_up() {
    let mut rig = rig(strict().timeout(secs(3)).unhealthy_threshold(1));
    let fake = Fake::new(&[UP, Will::Hang, UP]);
    rig.prober.joined(SLOT, fake.probe());
    assert_eq!(rig.after(secs(0)), [(0, true)]);
    assert_eq!(rig.after(secs(10)), []);
    assert_eq!(rig.after(secs(2)), []);
    assert_eq!((fake.begun(), fake.live()), (2, 1), "one at a time");
    assert_eq!(rig.after(secs(1)), [(0, false)]);
    assert_eq!(fake.live(), 0, "it has been dropped");
    // The next is due an interval after the beginning of the last.
    assert_eq!(rig.after(secs(6)), []);
    assert_eq!(rig.after(secs(1)), [(0, true)]);
}

#[test]
fn a_timeout_longer_than_the_interval_delays_the_next() {
    let mut rig = rig(strict().timeout(secs(25)).unhealthy_threshold(1));
    let fake = Fake::new(&[Will::Hang]);
    rig.prober.joined(SLOT, fake.probe());
    rig.after(secs(0));
    for _ in 0..24 {
        assert_eq!(rig.after(secs(1)), []);
    }
    assert_eq!((fake.begun(), fake.live()), (1, 1));
    assert_eq!(rig.after(secs(1)), [(0, false)]);
    rig.after(secs(0));
    assert_eq!((fake.begun(), fake.live()), (2, 1));
}

#[test]
fn a_probe_that_panics_has_failed_and_harms_nobody() {
    for will in [Will::Panic, Will::PanicLater, Will::PanicWhenDropped] {
        let mut rig = rig(strict().timeout(secs(1)));
        let (fake, other) = (Fake::new(&[will]), Fake::new(&[UP]));
        rig.prober.joined(SLOT, fake.probe());
        rig.prober.joined(Slot::new(1, 0), other.probe());
        let mut told = rig.after(secs(0));
        told.extend(rig.after(secs(1)));
        told.sort_unstable();
        assert_eq!(told, [(0, false), (1, true)], "{will:?}");
        // Also where it is dropped because its replica has gone.
        rig.after(secs(9));
        rig.prober.left(SLOT);
        assert_eq!(rig.after(secs(10)), [(1, true)], "{will:?}");
        assert_eq!(fake.live(), 0);
    }
}

#[test]
fn who_has_left_is_asked_no_more_and_a_successor_is_another() {
    let mut rig = rig(strict());
    let (first, second) = (Fake::new(&[Will::Hang]), Fake::new(&[UP]));
    rig.prober.joined(SLOT, first.probe());
    assert_eq!((rig.after(secs(1)), first.live()), (vec![], 1));
    rig.prober.left(SLOT);
    rig.prober.joined(Slot::new(0, 1), second.probe());
    assert_eq!(rig.after(secs(0)), [(0, true)]);
    assert_eq!(
        (first.live(), Arc::strong_count(&first)),
        (0, 1),
        "forgotten"
    );
    assert_eq!(rig.after(secs(100)), [(0, true)]);
    assert_eq!((first.begun(), second.begun()), (1, 2));
    // Joined and left before anybody looked: never asked.
    let third = Fake::new(&[UP]);
    rig.prober.left(Slot::new(0, 1));
    rig.prober.joined(SLOT, third.probe());
    rig.prober.left(SLOT);
    assert_eq!(rig.after(secs(50)), [(0, true)]);
    assert_eq!(rig.after(secs(50)), []);
    assert_eq!(rig.timer.next(), None);
}

#[test]
fn intervals_are_spread_and_stay_near_what_is_wanted() {
    let mut rig = rig(HealthChecks::default().jitter(0.2));
    let fakes: Vec<_> = (0..32).map(|_| Fake::new(&[UP])).collect();
    for (index, fake) in fakes.iter().enumerate() {
        rig.prober.joined(Slot::new(index as u32, 0), fake.probe());
    }
    rig.after(secs(0));
    assert!(rig.timer.next().is_some_and(|at| at >= secs(8)));
    rig.after(secs(10));
    let early = fakes.iter().filter(|fake| fake.begun() == 2).count();
    assert!((4..=28).contains(&early), "{early}");
    rig.after(secs(2));
    assert!(fakes.iter().all(|fake| fake.begun() == 2));
}

#[test]
fn what_cannot_be_checked_by() {
    let bad = |config: HealthChecks| config.check().is_err();
    assert!(!bad(HealthChecks::default()));
    assert!(bad(strict().interval(Duration::ZERO)));
    assert!(bad(strict().timeout(Duration::ZERO)));
    assert!(bad(strict().unhealthy_threshold(0)));
    assert!(bad(strict().healthy_threshold(0)));
    for part in [-0.1, 1.0, f64::NAN] {
        assert!(bad(strict().jitter(part)), "{part}");
    }
}
