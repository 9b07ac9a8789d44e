//! Listeners that a deadline of the starter sends to a second run.

use super::*;

#[test]
fn a_starters_deadline_cuts_off_the_starter_alone() {
    let (inner, cached, clock) = setup();
    let mut hurried = Request::text("");
    hurried.deadline = Some(Duration::from_secs(1));
    let mut starter = Reader::new(cached.generate(hurried.clone()));
    clock.advance(Duration::from_millis(10));
    hurried.deadline = Some(Duration::from_secs(9));
    let mut patient = Reader::new(cached.generate(hurried));
    assert_eq!(inner.calls(), 1);
    inner.run(0).give([
        started(),
        token(0, "a"),
        finished(0, FinishReason::Deadline),
    ]);
    inner.run(0).end();
    // Who has the longer time reads on into the cut, and hears the rest from a run of their own.
    let heard = patient.drain();
    assert_eq!((heard.len(), inner.calls()), (2, 2));
    // Its deadline is what is left of its own.
    let left = inner.seen.lock()[1].deadline;
    assert_eq!(left, Some(Duration::from_secs(9)));
    let last = starter.drain().pop();
    assert!(matches!(last, Some(Event::Finished(f)) if f.reason == FinishReason::Deadline));
    inner.run(1).give([started(), token(0, "a")]);
    assert!(patient.poll().is_pending(), "nothing is told twice");
    inner.run(1).give([finished(0, FinishReason::Eos(2))]);
    inner.run(1).end();
    assert_eq!(patient.drain().len(), 1);
    assert_eq!(cached.stats().stored, 1);
}

#[test]
fn a_second_run_that_says_something_else_is_an_error() {
    let (inner, cached, _) = setup();
    let mut hurried = Request::text("");
    hurried.deadline = Some(Duration::from_secs(1));
    let _starter = cached.generate(hurried);
    let mut patient = Reader::new(cached.generate(Request::text("")));
    inner.run(0).give([
        started(),
        token(0, "a"),
        finished(0, FinishReason::Deadline),
    ]);
    assert_eq!(patient.drain().len(), 2);
    inner.run(1).give([started(), token(0, "b")]);
    assert!(matches!(
        patient.poll(),
        Poll::Ready(Some(Err(Error::Panicked { .. })))
    ));
}

/// The starter is cut off after a token; a patient listener has heard that much of it.
fn cut_off(inner: &Stepped, cached: &CacheLayer, patient: Request) -> Reader {
    let mut hurried = Request::text("");
    hurried.deadline = Some(Duration::from_secs(1));
    let mut starter = Reader::new(cached.generate(hurried));
    let mut patient = Reader::new(cached.generate(patient));
    let run = inner.run(inner.calls() - 1);
    run.give([started(), token(0, "a")]);
    assert_eq!(patient.drain().len(), 2);
    run.give([finished(0, FinishReason::Deadline)]);
    run.end();
    assert_eq!(starter.drain().len(), 3);
    patient
}

#[test]
fn a_listeners_own_deadline_in_a_second_run_is_a_deadline() {
    let (inner, cached, _) = setup();
    let mut late = Request::text("");
    late.deadline = Some(Duration::from_secs(2));
    let mut patient = cut_off(&inner, &cached, late);
    assert!(patient.poll().is_pending());
    inner
        .run(1)
        .give([started(), finished(0, FinishReason::Deadline)]);
    inner.run(1).end();
    let heard = patient.drain();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(
        matches!(&heard[0], Event::Finished(f) if f.reason == FinishReason::Deadline && f.text.is_empty())
    );
}

#[test]
fn an_answer_found_meanwhile_is_told_from_where_the_listener_is() {
    let (inner, cached, _) = setup();
    let mut slow = cut_off(&inner, &cached, Request::text(""));
    // Somebody else has had it answered in full.
    let other = cached.generate(Request::text(""));
    inner.run(1).give([
        started(),
        token(0, "a"),
        token(0, "b"),
        finished(0, FinishReason::Eos(2)),
    ]);
    inner.run(1).end();
    assert_eq!(other.into_iter().count(), 4);
    let rest = slow.drain();
    assert_eq!(rest.len(), 2, "{rest:?}");
    assert_eq!((inner.calls(), rest[0].text()), (2, "b"));
    assert_eq!(cached.stats().hits, 0, "it has been counted as joined");

    // One that says something else does not go on where the first left off.
    let (inner, cached, _) = setup();
    let mut slow = cut_off(&inner, &cached, Request::text(""));
    let other = cached.generate(Request::text(""));
    inner
        .run(1)
        .give([started(), token(0, "c"), finished(0, FinishReason::Eos(2))]);
    inner.run(1).end();
    assert_eq!(other.into_iter().count(), 3);
    assert!(matches!(
        slow.poll(),
        Poll::Ready(Some(Err(Error::Panicked { .. })))
    ));
}

#[test]
fn who_leaves_twice_hears_nothing_twice() {
    let (inner, cached, _) = setup();
    let mut patient = cut_off(&inner, &cached, Request::text(""));
    let mut hurried = Request::text("");
    hurried.deadline = Some(Duration::from_secs(1));
    let _second = cached.generate(hurried);
    assert!(patient.poll().is_pending());
    assert_eq!(inner.calls(), 2, "it listens to the second");
    inner.run(1).give([Step::Fail(Error::Cancelled)]);
    assert!(patient.poll().is_pending());
    assert_eq!(inner.calls(), 3);
    inner.run(2).give([started(), token(0, "a")]);
    assert!(patient.poll().is_pending(), "said before");
    inner.run(2).give([finished(0, FinishReason::Eos(2))]);
    inner.run(2).end();
    assert_eq!(patient.drain().len(), 1);
}

#[test]
fn choices_may_take_turns_in_another_order_the_second_time() {
    let (inner, cached, _) = setup();
    let mut hurried = Request::text("").n(2);
    hurried.deadline = Some(Duration::from_secs(1));
    let _starter = cached.generate(hurried);
    let mut patient = Reader::new(cached.generate(Request::text("").n(2)));
    inner
        .run(0)
        .give([started(), token(0, "a"), token(1, "b"), token(0, "c")]);
    assert_eq!(patient.drain().len(), 4);
    inner.run(0).give([finished(0, FinishReason::Deadline)]);
    assert!(patient.poll().is_pending());
    inner.run(1).give([
        started(),
        token(1, "b"),
        token(1, "d"),
        token(0, "a"),
        token(0, "c"),
    ]);
    let heard = patient.drain();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].text(), "d");
}

#[test]
fn an_answer_found_meanwhile_may_have_had_its_choices_take_other_turns() {
    let (inner, cached, _) = setup();
    let mut hurried = Request::text("").n(2);
    hurried.deadline = Some(Duration::from_secs(1));
    let mut starter = Reader::new(cached.generate(hurried));
    let mut slow = Reader::new(cached.generate(Request::text("").n(2)));
    inner
        .run(0)
        .give([started(), token(0, "a"), token(0, "c"), token(1, "b")]);
    assert_eq!(slow.drain().len(), 4);
    inner.run(0).give([
        finished(0, FinishReason::Deadline),
        finished(1, FinishReason::Deadline),
    ]);
    inner.run(0).end();
    assert_eq!(starter.drain().len(), 6);
    // Somebody else has had it answered in full.
    let other = cached.generate(Request::text("").n(2));
    inner.run(1).give([
        started(),
        token(1, "b"),
        token(1, "d"),
        finished(1, FinishReason::Eos(2)),
        token(0, "a"),
        token(0, "c"),
        token(0, "e"),
        finished(0, FinishReason::Eos(2)),
    ]);
    inner.run(1).end();
    assert_eq!(other.into_iter().count(), 8);
    let rest = slow.drain();
    let said: Vec<_> = rest.iter().map(|event| event.text()).collect();
    assert_eq!(said, ["d", "held back", "e", "held back"], "{rest:?}");

    // What ends before all that was said of it is another answer.
    let (inner, cached, _) = setup();
    let mut slow = cut_off(&inner, &cached, Request::text(""));
    let other = cached.generate(Request::text(""));
    inner
        .run(1)
        .give([started(), finished(0, FinishReason::Eos(2))]);
    inner.run(1).end();
    assert_eq!(other.into_iter().count(), 2);
    assert!(matches!(
        slow.poll(),
        Poll::Ready(Some(Err(Error::Panicked { .. })))
    ));
}

#[test]
fn what_says_something_else_each_time_is_not_begun_again() {
    let inner = Arc::new(Stepped::default());
    let policy = crate::Policy::default().sampled(true);
    let cached = CacheLayer::builder(inner.clone())
        .policy(policy)
        .build()
        .unwrap();
    let mut hurried = Request::text("").temperature(1.0);
    hurried.deadline = Some(Duration::from_secs(1));
    let _starter = cached.generate(hurried);
    let _patient = cached.generate(Request::text("").temperature(1.0));
    assert_eq!(
        inner.calls(),
        2,
        "nothing could go on after the first one's deadline"
    );
}
