//! Equal requests that arrive together.

mod again;

use std::task::{Wake, Waker};

use llmserve_core::ManualClock;

use super::*;
use crate::{CacheLayer, Source};

/// A service whose runs go on when they are told to.
#[derive(Default)]
struct Stepped {
    runs: Mutex<Vec<Arc<Tap>>>,
    seen: Mutex<Vec<Request>>,
}

#[derive(Default)]
struct Tap {
    state: Mutex<(VecDeque<Step>, bool, Option<Waker>)>,
    dropped: AtomicUsize,
}

impl Tap {
    fn give(&self, steps: impl IntoIterator<Item = Step>) {
        let mut state = self.state.lock();
        state.0.extend(steps);
        let waker = state.2.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn end(&self) {
        self.state.lock().1 = true;
        self.give([]);
    }

    fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst) > 0
    }
}

struct Flow(Arc<Tap>);

impl Stream for Flow {
    type Item = Result<Event, Error>;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        match state.0.pop_front() {
            Some(Step::Emit(event)) => Poll::Ready(Some(Ok(event))),
            Some(Step::Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Step::Panic) => panic!("poll, on purpose"),
            None if state.1 => Poll::Ready(None),
            Some(Step::Yield) | None => {
                state.2 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Stepped {
    fn run(&self, number: usize) -> Arc<Tap> {
        self.runs.lock()[number].clone()
    }

    fn calls(&self) -> usize {
        self.runs.lock().len()
    }
}

impl Generate for Stepped {
    fn generate(&self, request: Request) -> EventStream {
        let tap = Arc::new(Tap::default());
        self.runs.lock().push(tap.clone());
        self.seen.lock().push(request);
        EventStream::new(Flow(tap))
    }
}

/// Counts how often its task would have been run.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A reader with a waker of its own.
struct Reader {
    stream: EventStream,
    woken: Arc<Woken>,
}

impl Reader {
    fn new(stream: EventStream) -> Self {
        Self {
            stream,
            woken: Arc::default(),
        }
    }

    fn poll(&mut self) -> Poll<Option<Result<Event, Error>>> {
        let waker = Waker::from(self.woken.clone());
        Pin::new(&mut self.stream).poll_next(&mut Context::from_waker(&waker))
    }

    /// The events there are.
    #[track_caller]
    fn drain(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Poll::Ready(Some(event)) = self.poll() {
            events.push(event.unwrap());
        }
        events
    }

    fn woken(&self) -> usize {
        self.woken.0.swap(0, Ordering::SeqCst)
    }
}

fn setup() -> (Arc<Stepped>, CacheLayer, Arc<ManualClock>) {
    let inner = Arc::new(Stepped::default());
    let clock = Arc::new(ManualClock::default());
    let cached = CacheLayer::builder(inner.clone()).clock(clock.clone());
    (inner, cached.build().unwrap(), clock)
}

fn whole(text: &str) -> Vec<Event> {
    let steps = says(text).into_iter().filter_map(|step| match step {
        Step::Emit(event) => Some(event),
        _ => None,
    });
    timeless(steps.collect())
}

#[test]
fn a_hundred_twins_cost_one_run() {
    let (inner, cached, _) = setup();
    let mut readers: Vec<_> = (0..100)
        .map(|_| Reader::new(cached.generate(Request::text(""))))
        .collect();
    assert_eq!((inner.calls(), cached.stats().running), (1, 1));
    let run = inner.run(0);
    // Each gets each event as it comes.
    for reader in &mut readers {
        assert!(reader.poll().is_pending());
    }
    run.give([started()]);
    for reader in &mut readers {
        assert_eq!(reader.woken(), 1, "by the run");
    }
    for reader in &mut readers {
        assert_eq!(reader.drain().len(), 1);
    }
    run.give([token(0, "a"), finished(0, FinishReason::Eos(2))]);
    run.end();
    for reader in &mut readers {
        assert_eq!(reader.drain().len(), 2);
        assert!(matches!(reader.poll(), Poll::Ready(None)));
    }
    assert!(run.is_dropped());
    let stats = cached.stats();
    assert_eq!((stats.misses, stats.joined, stats.stored), (1, 99, 1));
    assert_eq!((stats.running, stats.store.entries), (0, 1));
    assert_eq!(
        timeless(events(cached.generate(Request::text("")))),
        whole("a")
    );
    assert_eq!(inner.calls(), 1);
}

#[test]
fn without_it_all_run_and_leave_one_entry() {
    let inner = Scripted::always(says("a"));
    let cached = CacheLayer::builder(inner.clone()).single_flight(false);
    let cached = cached.build().unwrap();
    let streams: Vec<_> = (0..3).map(|_| cached.generate(Request::text(""))).collect();
    for stream in streams {
        stream.wait().unwrap();
    }
    assert_eq!(inner.calls(), 3);
    let stats = cached.stats();
    assert_eq!((stats.stored, stats.store.entries), (3, 1));
    assert_eq!((stats.joined, stats.hits), (0, 0));
}

#[test]
fn who_comes_late_hears_it_from_the_beginning_and_keeps_their_own_time() {
    let (inner, cached, clock) = setup();
    let mut first = Reader::new(cached.generate(Request::text("")));
    inner.run(0).give([started(), token(0, "a")]);
    assert_eq!(first.drain().len(), 2);
    clock.advance(Duration::from_millis(500));
    let mut late = Reader::new(cached.generate(Request::text("")));
    clock.advance(Duration::from_millis(1));
    let mut heard = late.drain();
    assert_eq!(heard.len(), 2);
    clock.advance(Duration::from_millis(2));
    inner.run(0).give([finished(0, FinishReason::Eos(2))]);
    inner.run(0).end();
    heard.extend(late.drain());
    let Some(Event::Finished(finished)) = heard.last() else {
        panic!("{heard:?}");
    };
    let millis = |n| Duration::from_millis(n);
    assert_eq!(
        finished.timings,
        Timings {
            queue: millis(1),
            time_to_first_token: millis(1),
            latency: millis(3)
        }
    );
    assert_eq!(timeless(heard), whole("a"));
    // The starter has the run's own.
    let last = first.drain().pop();
    assert!(matches!(last, Some(Event::Finished(f)) if f.timings.latency == millis(30)));
}

#[test]
fn a_cancelled_starter_is_missed_by_nobody() {
    let (inner, cached, _) = setup();
    let mut starter = Reader::new(cached.generate(Request::text("")));
    let mut other = Reader::new(cached.generate(Request::text("")));
    inner.run(0).give([started()]);
    assert_eq!(starter.drain().len(), 1);
    // The other has not even been polled yet; the starter was the one whom the run would wake.
    drop(starter);
    assert!(!inner.run(0).is_dropped());
    assert_eq!(other.drain().len(), 1);
    inner.run(0).give([token(0, "a")]);
    assert_eq!((other.woken(), other.drain().len()), (1, 1));
    inner.run(0).give([finished(0, FinishReason::Eos(2))]);
    inner.run(0).end();
    assert_eq!(other.drain().len(), 1);
    assert_eq!((inner.calls(), cached.stats().stored), (1, 1));
}

#[test]
fn the_last_to_leave_cancels_the_run() {
    let (inner, cached, _) = setup();
    let streams: Vec<_> = (0..5).map(|_| cached.generate(Request::text(""))).collect();
    for stream in streams {
        assert!(!inner.run(0).is_dropped());
        drop(stream);
    }
    assert!(inner.run(0).is_dropped());
    assert_eq!(cached.stats().running, 0);
    // Whoever comes then starts anew.
    let _next = cached.generate(Request::text(""));
    assert_eq!(inner.calls(), 2);
}

#[test]
fn a_slow_reader_slows_nobody_and_loses_nothing() {
    let (inner, cached, _) = setup();
    // Neither the starter nor another is read at all until the third has heard everything.
    let mut slow = [(); 2].map(|()| Reader::new(cached.generate(Request::text(""))));
    let mut quick = Reader::new(cached.generate(Request::text("")));
    inner.run(0).give(
        says("a")
            .into_iter()
            .filter(|step| !matches!(step, Step::Yield)),
    );
    inner.run(0).end();
    assert_eq!(timeless(quick.drain()), whole("a"));
    assert!(inner.run(0).is_dropped());
    for reader in &mut slow {
        assert_eq!(timeless(reader.drain()), whole("a"));
    }
    assert_eq!((inner.calls(), cached.stats().stored), (1, 1));
}

#[test]
fn what_befalls_the_starter_is_not_the_others() {
    for failure in [
        Step::Panic,
        Step::Fail(Error::Overloaded {
            waiting: 1,
            limit: 1,
            unit: "requests",
            retry_after: None,
        }),
        Step::Fail(Error::Cancelled),
    ] {
        let (inner, cached, _) = setup();
        let mut readers = [(); 3].map(|()| Reader::new(cached.generate(Request::text(""))));
        for reader in &mut readers {
            assert!(reader.poll().is_pending());
        }
        inner.run(0).give([failure]);
        // Another drives it into the failure, and starts a run of its own; the third joins that.
        assert!(readers[1].poll().is_pending());
        assert_eq!(inner.calls(), 2);
        assert!(readers[2].poll().is_pending());
        assert!(matches!(readers[0].poll(), Poll::Ready(Some(Err(_)))));
        assert_eq!(inner.calls(), 2);
        inner
            .run(1)
            .give([started(), token(0, "a"), finished(0, FinishReason::Eos(2))]);
        inner.run(1).end();
        for reader in &mut readers[1..] {
            assert_eq!(timeless(reader.drain()), whole("a"));
        }
        let stats = cached.stats();
        assert_eq!((stats.stored, stats.running), (1, 0));
    }
}

#[test]
fn an_error_of_the_request_itself_is_everybodys_at_once() {
    let (inner, cached, _) = setup();
    let mut readers = [(); 3].map(|()| Reader::new(cached.generate(Request::text(""))));
    inner
        .run(0)
        .give([Step::Fail(Error::invalid_request("n", "too many"))]);
    for reader in readers.iter_mut().rev() {
        assert!(matches!(
            reader.poll(),
            Poll::Ready(Some(Err(Error::InvalidRequest { .. })))
        ));
    }
    assert_eq!(inner.calls(), 1);
}

#[test]
fn after_the_first_event_an_error_is_everybodys() {
    let (inner, cached, _) = setup();
    let mut readers = [(); 2].map(|()| Reader::new(cached.generate(Request::text(""))));
    inner.run(0).give([started()]);
    for reader in &mut readers {
        assert_eq!(reader.drain().len(), 1);
    }
    inner.run(0).give([Step::Fail(Error::Cancelled)]);
    for reader in readers.iter_mut().rev() {
        assert!(matches!(
            reader.poll(),
            Poll::Ready(Some(Err(Error::Cancelled)))
        ));
    }
    assert_eq!(inner.calls(), 1);
}

#[test]
fn nobody_listens_to_a_run_on_worse_terms_than_their_own() {
    let with = |deadline: Option<u64>, priority: i32| {
        let mut request = Request::text("").priority(priority);
        request.deadline = deadline.map(Duration::from_secs);
        request
    };
    for (run, mine, joins) in [
        (with(None, 0), with(None, 0), true),
        (with(Some(5), 0), with(Some(5), 0), true),
        (with(Some(5), 0), with(None, 0), true),
        (with(Some(5), 0), with(Some(4), 0), false),
        (with(None, 0), with(Some(4), 0), false),
        (with(None, 0), with(None, 1), true),
        (with(None, 1), with(None, 0), false),
    ] {
        let (inner, cached, _) = setup();
        let first = cached.generate(run);
        let (second, trace) = cached.generate_traced(mine);
        assert_eq!(inner.calls(), 2 - usize::from(joins));
        // The next may listen to either.
        let _third = cached.generate(with(None, 9));
        assert_eq!(inner.calls(), 2 - usize::from(joins));
        drop(first);
        let mut second = Reader::new(second);
        let own = inner.run(inner.calls() - 1);
        own.give([started()]);
        assert_eq!(second.drain().len(), 1);
        assert_eq!(trace.source() == Some(Source::Joined), joins);
    }
}

#[test]
fn a_burst_that_is_in_a_hurry_shares_a_run_beside_the_one_that_is_not() {
    let (inner, cached, clock) = setup();
    let patient = cached.generate(Request::text(""));
    let hurried = |priority: i32| {
        let mut request = Request::text("").priority(priority);
        request.deadline = Some(Duration::from_secs(5));
        request
    };
    let mut burst: Vec<_> = (0..50)
        .map(|_| {
            clock.advance(Duration::from_millis(1));
            Reader::new(cached.generate(hurried(0)))
        })
        .collect();
    assert_eq!(inner.calls(), 2);
    assert_eq!(cached.stats().running, 2);
    // Who is in no hurry stays with the run that nothing ends early.
    let mut other = Reader::new(cached.generate(Request::text("")));
    inner.run(0).give([started()]);
    assert_eq!(other.drain().len(), 1);
    inner
        .run(1)
        .give([started(), token(0, "a"), finished(0, FinishReason::Eos(2))]);
    inner.run(1).end();
    for reader in &mut burst {
        assert_eq!(reader.drain().len(), 3);
    }
    drop((patient, other));
    assert!(inner.run(0).is_dropped());
    assert_eq!((inner.calls(), cached.stats().running), (2, 0));
    assert_eq!(cached.generate(Request::text("")).into_iter().count(), 3);
    assert_eq!(inner.calls(), 2, "what the burst was told is kept");
}

#[test]
fn an_answer_too_large_to_keep_is_shared_all_the_same() {
    let inner = Arc::new(Stepped::default());
    let cached = CacheLayer::builder(inner.clone())
        .store(
            crate::MemoryStore::builder()
                .max_bytes(600)
                .build()
                .unwrap(),
        )
        .build()
        .unwrap();
    let mut readers = [(); 2].map(|()| Reader::new(cached.generate(Request::text(""))));
    let long = "long ".repeat(200);
    inner.run(0).give([
        started(),
        token(0, &long),
        finished(0, FinishReason::Eos(2)),
    ]);
    inner.run(0).end();
    for reader in &mut readers {
        assert_eq!(timeless(reader.drain()), whole(&long));
    }
    assert_eq!((inner.calls(), cached.stats().stored), (1, 0));
}

#[test]
fn work_that_wakes_itself_is_polled_once_a_poll() {
    struct Restless(Arc<AtomicUsize>);
    impl Stream for Restless {
        type Item = Result<Event, Error>;
        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            // As one whose budget is spent, and who can go on only after its executor has.
            assert!(self.0.fetch_add(1, Ordering::SeqCst) < 100, "for ever");
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
    struct Spent(Arc<AtomicUsize>);
    impl Generate for Spent {
        fn generate(&self, _: Request) -> EventStream {
            EventStream::new(Restless(self.0.clone()))
        }
    }
    let polls = Arc::new(AtomicUsize::new(0));
    let cached = CacheLayer::new(Spent(polls.clone()));
    let mut reader = Reader::new(cached.generate(Request::text("")));
    for poll in 1..5 {
        assert!(reader.poll().is_pending());
        assert_eq!(polls.load(Ordering::SeqCst), poll);
        assert_eq!(reader.woken(), 1);
    }
}

/// A waker is the reader's own code, and may belong to an executor that has come to its end.
#[test]
fn a_waker_that_panics_wakes_the_others_nevertheless() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("wake, on purpose");
        }
    }
    let (inner, cached, _) = setup();
    let ask = || cached.generate(Request::text(""));
    let (mut first, mut broken, mut last) = (Reader::new(ask()), ask(), Reader::new(ask()));
    let waker = Waker::from(Arc::new(Panics));
    let mut cx = Context::from_waker(&waker);
    assert!(first.poll().is_pending());
    assert!(Pin::new(&mut broken).poll_next(&mut cx).is_pending());
    assert!(last.poll().is_pending());
    let end = finished(0, FinishReason::Eos(2));
    inner.run(0).give([started(), token(0, "a"), end]);
    assert_eq!((first.woken(), last.woken()), (1, 1));
    assert!(Pin::new(&mut broken).poll_next(&mut cx).is_ready());
    inner.run(0).end();
    assert_eq!(timeless(last.drain()), whole("a"));
    assert_eq!(timeless(first.drain()), whole("a"));
    assert_eq!((inner.calls(), cached.stats().stored), (1, 1));
}

#[test]
fn who_needed_no_run_of_their_own_has_saved_one() {
    let (inner, cached, _) = setup();
    let ask = |deadline: Option<Duration>| {
        let mut request = Request::text("");
        request.deadline = deadline;
        Reader::new(cached.generate(request))
    };
    let saved = || {
        let stats = cached.stats();
        (stats.saved_tokens, stats.saved_time.as_millis())
    };
    let mut readers = [(); 3].map(|()| ask(None));
    let mut leaves = ask(None);
    let end = || finished(0, FinishReason::Eos(2));
    inner.run(0).give([started(), token(0, "a"), end()]);
    for reader in readers.iter_mut().chain([&mut leaves]) {
        assert_eq!(reader.drain().len(), 3);
    }
    // Not before the end, as the run may yet fail.
    assert_eq!(saved(), (0, 0));
    drop(leaves);
    inner.run(0).end();
    for reader in &mut readers {
        assert!(matches!(reader.poll(), Poll::Ready(None)));
    }
    assert_eq!(saved(), (2, 60));
    // A hit.
    ask(None).drain();
    assert_eq!(saved(), (3, 90));

    // One that had to run for itself after all has saved nothing; it has listened in vain.
    cached.forget(&Request::text(""));
    let mut first = ask(Some(Duration::from_secs(1)));
    let mut second = ask(None);
    inner
        .run(1)
        .give([started(), finished(0, FinishReason::Deadline)]);
    inner.run(1).end();
    first.drain();
    second.drain();
    inner.run(2).give([started(), token(0, "a"), end()]);
    inner.run(2).end();
    assert!(!second.drain().is_empty());
    assert_eq!((inner.calls(), cached.stats().joined), (3, 4));
    assert_eq!(saved(), (3, 90));
}

#[test]
fn what_is_forgotten_while_it_runs_is_not_kept_and_not_joined() {
    let (inner, cached, _) = setup();
    let ask = || Reader::new(cached.generate(Request::text("")));
    let mut before = ask();
    inner.run(0).give([started(), token(0, "old")]);
    assert_eq!(before.drain().len(), 2);
    cached.forget(&Request::text(""));
    let mut after = ask();
    assert_eq!((inner.calls(), cached.stats().running), (2, 1));
    for (run, text) in [(1, "new"), (0, "")] {
        let end = finished(0, FinishReason::Eos(2));
        let words = (run == 1).then(|| [started(), token(0, text)]);
        inner
            .run(run)
            .give(words.into_iter().flatten().chain([end]));
        inner.run(run).end();
    }
    assert_eq!(timeless(after.drain()), whole("new"));
    // It is heard to its end by who asked for it before, and takes nothing newer away.
    assert_eq!(before.drain().len(), 1);
    assert_eq!(timeless(ask().drain()), whole("new"));
    assert_eq!((inner.calls(), cached.stats().running), (2, 0));
    assert_eq!(cached.stats().stored, 1);
}
