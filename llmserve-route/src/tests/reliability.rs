//! Time, in virtual time: pauses, timeouts, deadlines, hedges, breakers, and answers that go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use llmserve_core::{Clock, ModelError};
use proptest::prelude::*;

use super::*;
use crate::health::{BreakerConfig, Breakers};
use crate::reliability::{Backoff, Hedge, RetryBudget, Timeouts};
use crate::{ManualTimer, Replica, RouterBuilder};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A stream and the time it is read in.
struct Reader {
    stream: EventStream,
    timer: Arc<ManualTimer>,
    woken: Arc<Counts>,
}

impl Reader {
    fn of(router: &Router, timer: &Arc<ManualTimer>, request: Request) -> Self {
        Self {
            stream: router.generate(request),
            timer: timer.clone(),
            woken: Arc::new(Counts(AtomicUsize::new(0))),
        }
    }

    fn poll(&mut self) -> Poll<Option<Result<Event, Error>>> {
        let waker = Waker::from(self.woken.clone());
        Pin::new(&mut self.stream).poll_next(&mut Context::from_waker(&waker))
    }

    /// Reads until nothing comes before a timer; what came, as text, and the error.
    fn read(&mut self) -> (String, Option<Error>) {
        let mut text = String::new();
        loop {
            let before = self.woken.0.load(Ordering::SeqCst);
            match self.poll() {
                Poll::Ready(Some(Ok(event))) => match event {
                    Event::Started(_) => text.push('<'),
                    Event::Finished(finished) => {
                        text.push_str(&finished.text);
                        text.push('>');
                    }
                    event => text.push_str(event.text()),
                },
                Poll::Ready(Some(Err(error))) => return (text, Some(error)),
                Poll::Ready(None) => return (text, None),
                Poll::Pending if self.woken.0.load(Ordering::SeqCst) > before => {}
                Poll::Pending => return (text, None),
            }
        }
    }

    /// Moves time by `by`; it must wake the reader.
    fn after(&mut self, by: Duration) -> (String, Option<Error>) {
        let before = self.woken.0.load(Ordering::SeqCst);
        self.timer.advance(by);
        assert!(
            self.woken.0.load(Ordering::SeqCst) > before,
            "nobody was woken"
        );
        self.read()
    }
}

fn timed(
    replicas: &[(&str, Arc<Scripted>)],
    build: impl Fn(RouterBuilder) -> RouterBuilder,
) -> (Router, Arc<ManualTimer>) {
    let timer = Arc::new(ManualTimer::default());
    let builder = Router::builder()
        .strategy(First)
        .timer(timer.clone())
        .seed(1);
    let builder = replicas.iter().fold(builder, |builder, (name, service)| {
        builder.replica(Replica::new(*name, service.clone()).identity("w"))
    });
    (build(builder).build().unwrap(), timer)
}

fn broken() -> Error {
    Error::Model(ModelError::Backend("gone".into()))
}

fn silent() -> Arc<Scripted> {
    Scripted::always(vec![Step::Hang])
}

#[test]
fn a_silent_replica_is_left_after_its_time() {
    let (hung, well) = (silent(), Scripted::always(says("b")));
    let limit = Timeouts::default().first_token(ms(500));
    let (router, timer) = timed(&[("a", hung.clone()), ("b", well)], |b| b.timeouts(limit));
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    assert_eq!(reader.read(), (String::new(), None));
    timer.advance(ms(499));
    assert_eq!(reader.read(), (String::new(), None));
    assert_eq!(reader.after(ms(1)), ("<b>".into(), None));
    assert_eq!(hung.live(), 0);
    assert_eq!(router.stats().replicas[0].failed, 1);
    assert_idle(&router);
    assert_eq!(timer.next(), None);
}

#[test]
fn when_all_are_silent_the_last_ones_silence_is_the_answer() {
    let limit = Timeouts::default().first_token(ms(500));
    let (router, timer) = timed(&[("a", silent()), ("b", silent())], |b| b.timeouts(limit));
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    assert_eq!(reader.after(ms(500)), (String::new(), None));
    let (what, limit) = ("first token", ms(500));
    assert_eq!(
        reader.after(ms(500)).1,
        Some(Error::TimedOut { what, limit })
    );
    assert_idle(&router);
}

#[test]
fn pauses_grow_and_are_waited_for() {
    let bad = || Scripted::always(fails(broken()));
    let replicas = [
        ("a", bad()),
        ("b", bad()),
        ("c", bad()),
        ("d", Scripted::always(says("d"))),
    ];
    let backoff = Backoff::default().first(ms(10)).base(ms(100)).most(ms(150));
    let (router, timer) = timed(&replicas, |b| b.backoff(backoff.clone()).max_attempts(9));
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    let calls = || replicas.iter().map(|(_, r)| r.calls()).collect::<Vec<_>>();
    for (longest, after) in [(10, [1, 1, 0, 0]), (100, [1, 1, 1, 0]), (150, [1, 1, 1, 1])] {
        let (text, error) = reader.read();
        assert_eq!((text.as_str(), error), ("", None));
        let pause = timer.next().unwrap() - timer.now();
        assert!(
            pause <= ms(longest) && pause > Duration::ZERO,
            "{pause:?} of {longest}"
        );
        timer.advance(pause);
        if after[3] == 0 {
            reader.read();
        }
        assert_eq!(calls()[..3], after[..3]);
    }
    assert_eq!(reader.read(), ("<d>".into(), None));
}

#[test]
fn retries_have_a_budget() {
    let replicas = [
        ("a", Scripted::always(fails(broken()))),
        ("b", Scripted::always(says("b"))),
    ];
    let budget = RetryBudget::default().ratio(0.1).per_second(0.0);
    let (router, timer) = timed(&replicas, |b| {
        b.retry_budget(budget).availability(crate::AlwaysAvailable)
    });
    let mut answered = 0;
    for _ in 0..100 {
        let mut reader = Reader::of(&router, &timer, Request::text(""));
        match reader.read() {
            (text, None) if text == "<b>" => answered += 1,
            (_, Some(Error::Model(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, 10);
}

#[test]
fn a_total_and_a_deadline_end_it_whoever_answers() {
    let hung = silent();
    let total = Timeouts::default().total(ms(900)).first_token(ms(400));
    let (router, timer) = timed(
        &[
            ("a", hung.clone()),
            ("b", hung.clone()),
            ("c", hung.clone()),
        ],
        |b| b.timeouts(total),
    );
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    reader.after(ms(400));
    reader.after(ms(400));
    let what = "end";
    let limit = ms(900);
    assert_eq!(
        reader.after(ms(100)).1,
        Some(Error::TimedOut { what, limit })
    );
    assert_eq!(hung.live(), 0);
    // A deadline, a little later than the replica should have said so itself.
    let mut reader = Reader::of(&router, &timer, Request::text("").deadline(ms(100)));
    reader.read();
    timer.advance(ms(100));
    assert_eq!(reader.read().1, None);
    let limit = ms(100);
    assert_eq!(
        reader.after(ms(250)).1,
        Some(Error::TimedOut { what, limit })
    );
    assert_idle(&router);
}

#[test]
fn a_second_replica_is_asked_and_the_first_to_answer_wins() {
    let (slow, quick) = (silent(), Scripted::always(says("b")));
    let hedge = Hedge::After(ms(50));
    let (router, timer) = timed(&[("a", slow.clone()), ("b", quick.clone())], |b| {
        b.hedge(hedge)
    });
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    assert_eq!(quick.calls(), 0);
    assert_eq!(reader.after(ms(50)), ("<b>".into(), None));
    // The loser is cancelled, and that it was slow is no failure.
    assert_eq!(slow.live(), 0);
    assert_eq!(router.stats().replicas[0].failed, 0);
    assert_idle(&router);

    // A hedge that fails leaves the first alone, and the next is asked in its place; one that
    // finds nobody asks once.
    let (late, bad) = (silent(), Scripted::always(fails(broken())));
    let third = Scripted::always(says("c"));
    let replicas = [("a", late.clone()), ("b", bad.clone()), ("c", third)];
    let (router, timer) = timed(&replicas, |b| b.hedge(hedge));
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    assert_eq!(reader.after(ms(50)), ("<c>".into(), None));
    assert_eq!((late.live(), bad.calls()), (0, 1));
    assert_idle(&router);
    let late = Scripted::always(vec![Step::Hang]);
    let bad = Scripted::always(fails(broken()));
    let (router, timer) = timed(&[("a", late.clone()), ("b", bad.clone())], |b| {
        b.hedge(hedge)
    });
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    assert_eq!(reader.after(ms(50)), (String::new(), None));
    assert_eq!((late.live(), bad.calls()), (1, 1));
    assert_eq!(timer.next(), None);
    let (router, timer) = timed(&[("a", late.clone())], |b| b.hedge(hedge));
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    timer.advance(ms(1_000));
    assert_eq!(reader.read(), (String::new(), None));
    assert_eq!(late.live(), 2);
}

#[test]
fn the_hedge_goes_on_where_the_first_fails() {
    let first = Scripted::always(vec![Step::Hang]);
    let second = Scripted::always(vec![Step::Yield, Step::Hang]);
    let limit = Timeouts::default().first_token(ms(200));
    let (router, timer) = timed(&[("a", first.clone()), ("b", second.clone())], |b| {
        b.hedge(Hedge::After(ms(50))).timeouts(limit)
    });
    let mut reader = Reader::of(&router, &timer, Request::text(""));
    reader.read();
    reader.after(ms(50));
    assert_eq!(reader.after(ms(150)), (String::new(), None));
    assert_eq!((first.live(), second.live()), (0, 1));
    // Its own time counts from its own beginning.
    let (what, limit) = ("first token", ms(200));
    assert_eq!(
        reader.after(ms(50)).1,
        Some(Error::TimedOut { what, limit })
    );
}

#[test]
fn breakers_open_and_recover_as_configured() {
    let ill = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let sick = ill.clone();
    let patient = Scripted::new(move |_| {
        Script::Stream(match sick.load(Ordering::SeqCst) {
            true => fails(broken()),
            false => says("a"),
        })
    });
    let other = Scripted::always(says("b"));
    let breakers = Breakers::new(BreakerConfig::default().consecutive(3)).unwrap();
    let (router, timer) = timed(&[("a", patient.clone()), ("b", other)], |b| {
        b.availability(breakers.clone())
    });
    let ask = || Reader::of(&router, &timer, Request::text("")).read();
    for _ in 0..10 {
        assert_eq!(ask(), ("<b>".into(), None));
    }
    assert_eq!(patient.calls(), 3);
    timer.advance(Duration::from_secs(5));
    // One probe, which fails; then twice the time.
    assert_eq!((ask(), ask()), (("<b>".into(), None), ("<b>".into(), None)));
    assert_eq!(patient.calls(), 4);
    ill.store(false, Ordering::SeqCst);
    timer.advance(Duration::from_secs(9));
    ask();
    assert_eq!(patient.calls(), 4);
    timer.advance(Duration::from_secs(1));
    assert_eq!((ask(), ask()), (("<a>".into(), None), ("<a>".into(), None)));
    // A health check has its say.
    assert!(breakers.check("a", false) && !breakers.check("nobody", false));
    assert_eq!(ask(), ("<b>".into(), None));
    assert!(breakers.check("a", true));
    assert_eq!(ask(), ("<a>".into(), None));
}

#[test]
fn when_all_breakers_are_open_it_is_said_when_to_come_again() {
    let (router, timer) = timed(&[("a", Scripted::always(fails(broken())))], |b| {
        b.availability(Breakers::new(BreakerConfig::default().consecutive(1)).unwrap())
    });
    let ask = || Reader::of(&router, &timer, Request::text("")).read().1;
    assert_eq!(ask(), Some(broken()));
    timer.advance(Duration::from_secs(2));
    match ask() {
        Some(Error::NoReplica {
            reason,
            retry_after,
        }) => {
            assert!(reason.contains("1 unavailable"), "{reason}");
            assert_eq!(retry_after, Some(Duration::from_secs(3)));
        }
        other => panic!("{other:?}"),
    }
}

/// The token that follows so many, as every replica with these weights has it.
fn nth(at: usize) -> u32 {
    (at as u32).wrapping_mul(2_654_435_761) >> 20
}

/// Generates what [`nth`] says from where the request stands; fails after `until` tokens of the
/// whole answer, or hangs.
fn replica(until: usize, hang: bool) -> Arc<Scripted> {
    Scripted::new(move |request| {
        let most = request.max_tokens.unwrap();
        let mut steps = vec![started()];
        for at in request.resume.len()..most {
            if at >= until {
                steps.push(if hang {
                    Step::Hang
                } else {
                    Step::Fail(broken())
                });
                return Script::Stream(steps);
            }
            steps.push(Step::Emit(Event::Token(TokenEvent {
                index: 0,
                id: nth(at),
                text: format!("{} ", nth(at)),
                logprobs: None,
            })));
        }
        let mut end = finished(0);
        if let Step::Emit(Event::Finished(finished)) = &mut end {
            finished.usage.completion_tokens = most;
        }
        steps.push(end);
        Script::Stream(steps)
    })
}

fn whole(tokens: usize) -> String {
    let text: String = (0..tokens).map(|at| format!("{} ", nth(at))).collect();
    format!("<{text}>")
}

#[test]
fn an_answer_goes_on_elsewhere_with_the_tokens_there_are() {
    let replicas = [
        ("a", replica(3, false)),
        ("b", replica(5, true)),
        ("c", replica(9, false)),
    ];
    let limit = Timeouts::default().between_tokens(ms(100));
    let (router, timer) = timed(&replicas, |b| {
        b.timeouts(limit).backoff(Backoff::default().base(ms(0)))
    });
    let request = Request::text("")
        .max_tokens(8)
        .seed(3)
        .temperature(1.0)
        .prompt_logprobs(0);
    let mut reader = Reader::of(&router, &timer, request);
    let (mut text, error) = reader.read();
    assert_eq!(error, None);
    let (rest, error) = reader.after(ms(100));
    assert_eq!(error, None);
    text.push_str(&rest);
    assert_eq!(text, whole(8));
    let resumed: Vec<_> = replicas
        .iter()
        .map(|(_, r)| r.seen.lock()[0].resume.len())
        .collect();
    assert_eq!(resumed, [0, 3, 5]);
    assert!(replicas[1].1.seen.lock()[0].prompt_logprobs.is_none());
    assert_idle(&router);
}

#[test]
fn what_would_not_be_the_same_answer_does_not_go_on() {
    let base = || Request::text("").max_tokens(8);
    let fails = |request: Request, identities: [&str; 2], replay: bool| {
        let timer = Arc::new(ManualTimer::default());
        let other = replica(9, false);
        let router = Router::builder()
            .strategy(First)
            .timer(timer.clone())
            .replay(replay)
            .replica(Replica::new("a", replica(3, false)).identity(identities[0]))
            .replica(Replica::new("b", other.clone()).identity(identities[1]))
            .build()
            .unwrap();
        let (text, error) = Reader::of(&router, &timer, request).read();
        assert_idle(&router);
        match error {
            Some(error) => {
                // Honest: what there is, and the error of the replica that failed.
                assert_eq!((error, other.calls()), (broken(), 0));
                assert_eq!(text.matches(' ').count(), 3);
                true
            }
            None => {
                assert_eq!(text, whole(8));
                false
            }
        }
    };
    assert!(!fails(base(), ["w", "w"], true));
    assert!(fails(base(), ["w", "v"], true));
    assert!(fails(base(), ["w", "w"], false));
    assert!(fails(base().temperature(1.0), ["w", "w"], true));
    struct Nop;
    impl llmserve_core::LogitsProcessor for Nop {
        fn process(&self, _: &llmserve_core::LogitsContext<'_>, _: &mut [f32]) {}
    }
    assert!(fails(base().processor(Arc::new(Nop)), ["w", "w"], true));
}

#[test]
fn text_without_tokens_does_not_go_on() {
    let text = llmserve_core::TextEvent {
        index: 0,
        text: "t".into(),
    };
    let first = Scripted::always(vec![
        started(),
        Step::Emit(Event::Text(text)),
        Step::Fail(broken()),
    ]);
    let (router, timer) = timed(&[("a", first), ("b", replica(9, false))], |b| b);
    let read = Reader::of(&router, &timer, Request::text("").max_tokens(8)).read();
    assert_eq!(read, ("<t".into(), Some(broken())));
}

#[test]
fn a_slow_reader_is_no_slow_replica() {
    let limit = Timeouts::default().between_tokens(ms(100)).total(ms(500));
    let (router, timer) = timed(&[("a", replica(9, false))], |b| b.timeouts(limit));
    let mut reader = Reader::of(&router, &timer, Request::text("").max_tokens(8));
    for _ in 0..4 {
        assert!(matches!(reader.poll(), Poll::Ready(Some(Ok(_)))));
        timer.advance(Duration::from_secs(10));
    }
    let (rest, error) = reader.read();
    assert_eq!((rest.matches(' ').count(), error), (5, None));
}

#[test]
fn work_that_is_done_counts_no_longer_though_nobody_reads() {
    let service = Scripted::always(says("a"));
    let (router, _) = timed(&[("a", service.clone())], |b| b);
    let stream = router.generate(Request::text(""));
    assert_eq!(router.stats().outstanding(), 1);
    service.seen.lock()[0]
        .on_end
        .iter()
        .for_each(|ended| ended());
    assert_idle(&router);
    assert_eq!(stream.wait().unwrap().text(), "a");
    assert_idle(&router);
}

proptest! {
    /// Replicas that fail, hang and answer anywhere: an answer is whole and said once, or it ends
    /// with an error after a part of it that is right.
    #[test]
    fn no_token_is_lost_or_said_twice(
        untils in proptest::collection::vec((0..12usize, any::<bool>()), 1..6),
        tokens in 1..10usize,
        attempts in 1..7usize,
        hedge in proptest::option::of(1..200u64),
    ) {
        let replicas: Vec<_> = untils.iter().map(|(until, hang)| replica(*until, *hang)).collect();
        let timer = Arc::new(ManualTimer::default());
        let builder = replicas.iter().enumerate().fold(Router::builder(), |builder, (at, service)| {
            builder.replica(Replica::new(at.to_string(), service.clone()).identity("w"))
        });
        let limits = Timeouts::default().first_token(ms(100)).between_tokens(ms(100));
        let builder = builder.timer(timer.clone()).strategy(First).timeouts(limits).seed(2);
        let builder = match hedge {
            Some(after) => builder.hedge(Hedge::After(ms(after))),
            None => builder,
        };
        let router = builder.max_attempts(attempts).build().unwrap();
        let mut reader = Reader::of(&router, &timer, Request::text("").max_tokens(tokens));
        let mut text = String::new();
        let error = loop {
            let (more, error) = reader.read();
            text.push_str(&more);
            if error.is_some() || text.ends_with('>') {
                break error;
            }
            let next = timer.next().expect("it waits for something");
            timer.advance(next.saturating_sub(timer.now()));
        };
        let right = whole(tokens);
        match error {
            None => prop_assert_eq!(text, right),
            Some(_) => prop_assert!(right.starts_with(&text), "{} of {}", text, right),
        }
        prop_assert_eq!(reader.read(), (String::new(), None));
        drop(reader);
        assert_idle(&router);
        prop_assert!(replicas.iter().all(|replica| replica.live() == 0 && replica.calls() <= 1));
        prop_assert_eq!(timer.next(), None);
    }
}

#[test]
fn a_replica_that_hangs_meets_few_requests() {
    let (hung, well) = (silent(), Scripted::always(says("b")));
    let wary = Timeouts::default()
        .first_token(ms(1_000))
        .avoid_after(ms(100));
    let (router, timer) = timed(&[("a", hung.clone()), ("b", well.clone())], |b| {
        b.timeouts(wary)
    });
    // The strategy would have the first, always; a request every 10 ms.
    let mut readers = Vec::new();
    for _ in 0..90 {
        let mut reader = Reader::of(&router, &timer, Request::text(""));
        reader.read();
        readers.push(reader);
        timer.advance(ms(10));
    }
    // Those of the first 100 ms, and at about 200, 400 and 800.
    assert!((11..=15).contains(&hung.calls()), "{}", hung.calls());
    assert_eq!(hung.calls() + well.calls(), 90);
    // Where there is nobody else it is asked nevertheless.
    router.remove("b").unwrap();
    let before = hung.calls();
    let _reader = Reader::of(&router, &timer, Request::text(""));
    assert_eq!(hung.calls(), before + 1);
    drop(readers);
}
