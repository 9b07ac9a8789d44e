//! Answers end once, and say that they do.

use super::*;
use crate::admission::Admission;
use crate::limits::{Limit, Limiter, Limits, Per, Rate};
use crate::reliability::{Hedge, Timeouts};
use crate::{ManualTimer, Replica, RouterBuilder};
use llmserve_core::ModelError;

fn router(
    first: Arc<Scripted>,
    second: Arc<Scripted>,
    build: impl Fn(RouterBuilder) -> RouterBuilder,
) -> Router {
    let builder = Router::builder()
        .strategy(First)
        .replica(Replica::new("a", first).identity("w"))
        .replica(Replica::new("b", second).identity("w"));
    build(builder).build().unwrap()
}

/// What is read: `<`, texts, `>`, and `!` for an error.
fn read(router: &Router, request: Request) -> String {
    let mut told = String::new();
    let mut stream = router.generate(request);
    // Nothing waits for a time here: what is pending for long is pending for ever.
    for _ in 0..100 {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut stream).poll_next(cx) {
            Poll::Ready(Some(Ok(Event::Started(_)))) => told.push('<'),
            Poll::Ready(Some(Ok(Event::Finished(_)))) => told.push('>'),
            Poll::Ready(Some(Ok(event))) => told.push_str(event.text()),
            Poll::Ready(Some(Err(_))) => told.push('!'),
            Poll::Ready(None) => return told,
            Poll::Pending => {}
        }
    }
    told + " and hangs"
}

#[test]
fn nothing_comes_after_the_end() {
    let more: [&[Step]; 4] = [
        &[token("more")],
        &[finished(0)],
        // Neither is asked for again, nor told: the answer was whole.
        &[Step::Fail(Error::ShutDown)],
        &[Step::Panic],
    ];
    for more in more {
        let mut steps = says("a");
        steps.extend_from_slice(more);
        let second = Scripted::always(says("b"));
        let router = router(Scripted::always(steps), second.clone(), |b| b);
        let request = Request::text("").seed(1);
        assert_eq!(read(&router, request), "<a>", "{more:?}");
        assert_eq!(second.calls(), 0);
        assert_idle(&router);
    }
}

#[test]
fn a_replica_that_has_answered_need_not_end_its_stream() {
    let mut steps = says("a");
    steps.push(Step::Hang);
    let first = Scripted::always(steps);
    let router = router(first.clone(), silent(), |b| b);
    assert_eq!(read(&router, Request::text("").seed(1)), "<a>");
    assert_eq!(first.live(), 0);
}

fn silent() -> Arc<Scripted> {
    Scripted::always(vec![Step::Hang])
}

#[test]
fn all_choices_are_waited_for() {
    let steps = vec![
        started(),
        finished(1),
        token("a"),
        finished(0),
        token("more"),
    ];
    let router = router(Scripted::always(steps), silent(), |b| b);
    assert_eq!(read(&router, Request::text("").n(2)), "<>a>");
}

#[test]
fn a_stream_that_breaks_off_is_the_replicas_failure() {
    // Before the first event: another answers.
    let second = Scripted::always(says("b"));
    let empty = router(Scripted::always(Vec::new()), second.clone(), |b| b);
    assert_eq!(read(&empty, Request::text("")), "<b>");
    assert_eq!(empty.stats().replicas[0].failed, 1);
    assert_idle(&empty);
    // After it: another goes on where it can, and otherwise it is said.
    let half = || Scripted::always(vec![started(), token("a")]);
    let goes_on = router(half(), second.clone(), |b| b);
    assert_eq!(read(&goes_on, Request::text("").seed(1)), "<ab>");
    let alone = router(half(), second, |b| b.replay(false));
    assert_eq!(read(&alone, Request::text("").seed(1)), "<a!");
    assert_eq!(alone.stats().replicas[0].failed, 1);
    let last = Router::builder()
        .replica(Replica::new("a", Scripted::always(Vec::new())))
        .build()
        .unwrap();
    let broke_off = Error::Model(ModelError::Backend("the answer broke off".into()));
    assert_eq!(last.generate(Request::text("")).wait(), Err(broke_off));
}

#[test]
fn whenever_it_is_dropped_nothing_is_left_of_it() {
    let ms = Duration::from_millis;
    // Silence, a hedge that fails, one that breaks off half way, and one that goes on with it;
    // only then all of the answer.
    let half = vec![Step::Yield, started(), token("a"), Step::Yield, Step::Panic];
    let scripts = [
        vec![Step::Hang],
        fails(Error::ShutDown),
        half,
        says("b"),
        says("c"),
    ];
    let mut ends = Vec::new();
    for polls in 0..40 {
        let timer = Arc::new(ManualTimer::default());
        let replicas: Vec<_> = scripts.iter().cloned().map(Scripted::always).collect();
        let named = replicas.iter().enumerate();
        let router =
            Router::builder()
                .replicas(named.map(|(at, service)| {
                    Replica::new(format!("{at}"), service.clone()).identity("w")
                }))
                .strategy(First)
                .timer(timer.clone())
                .max_attempts(5)
                .hedge(Hedge::After(ms(30)))
                .timeouts(Timeouts::default().first_token(ms(100)).avoid_after(ms(50)))
                .seed(1)
                .build()
                .unwrap();
        let admission = Admission::builder(router.clone(), 1);
        let admission = admission.timer(timer.clone()).build().unwrap();
        let limit = Limit::default().tokens(Rate::new(1_000_000, Per::Day));
        let limiter = Limiter::builder()
            .default_limit(limit.concurrent(2))
            .build()
            .unwrap();
        let service = Limits::builder(admission.clone(), limiter.clone()).build();
        // The second waits for the first one's place.
        let request = Request::text("").seed(1).deadline(ms(5_000));
        let mut streams = [service.generate(request.clone()), service.generate(request)];
        let mut told = String::new();
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls {
            for stream in &mut streams {
                if let Poll::Ready(Some(item)) = Pin::new(stream).poll_next(cx) {
                    told += item.as_ref().map_or("!", Event::text);
                }
            }
            timer.advance(ms(10));
        }
        drop(streams);
        assert_idle(&router);
        assert_eq!(limiter.running(), 0, "after {polls} polls");
        let stats = admission.stats();
        let waiting: usize = stats.classes.iter().map(|class| class.waiting).sum();
        assert_eq!((stats.running, waiting), (0, 0), "after {polls} polls");
        assert!(replicas.iter().all(|replica| replica.live() == 0));
        assert_eq!(timer.next(), None, "after {polls} polls");
        ends.push(told);
    }
    // It went all the way.
    assert_eq!(ends.last().map(String::as_str), Some("abab"));
}
