//! Answers end once, and say that they do.

use super::*;
use crate::{Replica, RouterBuilder};
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
