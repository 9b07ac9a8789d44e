//! Limits over threads, over time, and around services that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llmserve_core::{
    Error, Event, EventStream, FinishReason, Finished, Generate, ManualClock, MemoryRecorder,
    Request, Started, Timings, TokenEvent, Usage,
};
use proptest::prelude::*;

use super::*;

fn limiter(limit: Limit) -> (Limiter, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let limiter = Limiter::builder()
        .default_limit(limit)
        .clock(clock.clone())
        .build();
    (limiter.unwrap(), clock)
}

fn wait_of(error: &Error) -> Option<Duration> {
    match error {
        Error::RateLimited { retry_after, .. } => *retry_after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exact_for_many_callers_and_threads() {
    const KEYS: usize = 10_000;
    let limit = Limit::default().requests(Rate::new(5, Per::Minute));
    let (limiter, clock) = limiter(limit);
    let keys: Vec<String> = (0..KEYS).map(|key| format!("caller {key}")).collect();
    for window in 0..3 {
        let passed: Vec<AtomicUsize> = (0..KEYS).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (limiter, keys, passed) = (&limiter, &keys, &passed);
                scope.spawn(move || {
                    for at in 0..KEYS * 3 {
                        let key = (at * 7 + thread * 13) % KEYS;
                        if limiter.reserve(&keys[key], 1).is_ok() {
                            passed[key].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        for (key, passed) in passed.iter().enumerate() {
            let passed = passed.load(Ordering::Relaxed);
            assert_eq!(passed, 5, "caller {key} in window {window}");
        }
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(limiter.running(), 0);
}

#[test]
fn idle_callers_are_forgotten_and_others_never() {
    let clock = Arc::new(ManualClock::default());
    let limiter = Limiter::builder()
        .default_limit(
            Limit::default()
                .requests(Rate::new(1, Per::Second))
                .concurrent(1),
        )
        .max_keys(1_024)
        .clock(clock.clone())
        .build()
        .unwrap();
    let held = limiter.reserve("held", 0).unwrap();
    for round in 0..50 {
        for caller in 0..500 {
            assert!(limiter.reserve(&format!("{round} {caller}"), 0).is_ok());
        }
        assert!(limiter.callers() <= 1_024);
        clock.advance(Duration::from_secs(1));
        // It is still running, whatever came in between.
        assert!(limiter.reserve("held", 0).is_err());
    }
    drop(held);
    assert!(limiter.reserve("held", 0).is_ok());

    // Nobody is idle: somebody must be refused, and is told.
    let mut refused = 0;
    for caller in 0..4_000 {
        match limiter.reserve(&format!("crowd {caller}"), 0) {
            Ok(_) => {}
            Err(Error::Overloaded {
                unit: "callers", ..
            }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 2_000 && limiter.callers() == 1_024, "{refused}");
}

#[test]
fn all_or_nothing() {
    let limit = Limit::default()
        .requests(Rate::new(2, Per::Minute))
        .tokens(Rate::new(100, Per::Minute));
    let (limiter, _clock) = limiter(limit);
    // Tokens that are not there take no request.
    for _ in 0..5 {
        assert_eq!(wait_of(&limiter.reserve("a", 101).unwrap_err()), None);
    }
    assert!(limiter.reserve("a", 50).is_ok());
    let short = limiter.reserve("a", 60).unwrap_err();
    assert_eq!(wait_of(&short), Some(Duration::from_secs(6)));
    assert!(limiter.reserve("a", 50).is_ok());
    let third = limiter.reserve("a", 0).unwrap_err();
    assert_eq!(wait_of(&third), Some(Duration::from_secs(30)));
}

#[test]
fn a_charge_is_closed_once() {
    let limit = Limit::default()
        .requests(Rate::new(10, Per::Day))
        .tokens(Rate::new(100, Per::Day));
    let (limiter, _clock) = limiter(limit);
    let most = |limiter: &Limiter| {
        let mut most = 0;
        while most < 100 && {
            let probe = limiter.reserve("a", most + 1);
            let passes = probe.is_ok();
            if let Ok(probe) = probe {
                probe.refund();
            }
            passes
        } {
            most += 1;
        }
        most
    };
    let charge = limiter.reserve("a", 80).unwrap();
    assert_eq!(most(&limiter), 20);
    charge.settle(30);
    assert_eq!(most(&limiter), 70);
    charge.settle(0);
    charge.refund();
    assert_eq!(most(&limiter), 70);
    let other = limiter.reserve("a", 70).unwrap();
    assert_ne!(charge.id(), other.id());
    other.refund();
    other.settle(1);
    assert_eq!(most(&limiter), 70);
    // More than was reserved: a debt.
    let third = limiter.reserve("a", 10).unwrap();
    third.settle(100);
    let error = limiter.reserve("a", 1).unwrap_err();
    // 130 are owed of 100, one more is asked for.
    let wait = Duration::from_secs(86_400).mul_f64(0.31);
    assert_eq!(wait_of(&error).unwrap().as_secs(), wait.as_secs());
}

#[test]
fn answers_that_take_long_give_nobody_more_than_a_bucket_at_once() {
    let rate = Rate::new(1_000, Per::Minute);
    let (limiter, clock) = limiter(Limit::default().tokens(rate));
    // Large reservations that come to nothing much, held until all of it is refilled.
    let held: Vec<_> = (0..5).map(|_| limiter.reserve("", 200).unwrap()).collect();
    clock.advance(Duration::from_secs(60));
    let mut passed = 0;
    let take = || {
        (0..10_000)
            .take_while(|_| limiter.reserve("", 10).is_ok())
            .count()
            * 10
    };
    passed += take();
    held.iter().for_each(|charge| charge.settle(1));
    passed += take();
    assert_eq!(passed, 1_000);
}

#[test]
fn limits_that_let_nothing_pass_are_refused() {
    let build = |limit: Limit| Limiter::builder().limit("k", limit).build().err();
    for (limit, named) in [
        (
            Limit::default().requests(Rate::new(0, Per::Hour)),
            "requests.limit",
        ),
        (
            Limit::default().requests(Rate::new(1, Per::Hour).burst(0)),
            "requests.burst",
        ),
        (
            Limit::default().tokens(Rate::new(0, Per::Second)),
            "tokens.limit",
        ),
        (Limit::default().concurrent(0), "concurrent"),
    ] {
        match build(limit) {
            Some(LimitsError::Zero { of, what }) => assert_eq!((&*of, what), ("k", named)),
            other => panic!("{other:?}"),
        }
    }
    let few = Limiter::builder().max_keys(0).build().err();
    assert_eq!(few, Some(LimitsError::NoKeys));
}

/// What a service does, event by event.
struct Plays(fn() -> Vec<Result<Event, Error>>);

impl Generate for Plays {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::ready((self.0)())
    }
}

fn started(prompt: u32) -> Result<Event, Error> {
    Ok(Event::Started(Started {
        prompt_ids: (0..prompt).collect(),
        prompt_logprobs: None,
    }))
}

fn token() -> Result<Event, Error> {
    Ok(Event::Token(TokenEvent {
        index: 0,
        id: 1,
        text: "a".into(),
        logprobs: None,
    }))
}

fn finished(index: usize, prompt_tokens: usize, completion_tokens: usize) -> Result<Event, Error> {
    Ok(Event::Finished(Finished {
        index,
        reason: FinishReason::Stop,
        text: String::new(),
        usage: Usage {
            prompt_tokens,
            completion_tokens,
            ..Usage::default()
        },
        timings: Timings::default(),
    }))
}

/// What a request of 10 + 40 tokens has cost of 1,000 in the end.
fn cost(plays: fn() -> Vec<Result<Event, Error>>, read: usize) -> u64 {
    let limit = Limit::default()
        .tokens(Rate::new(1_000, Per::Day))
        .concurrent(1);
    let (limiter, _clock) = limiter(limit);
    let service = Limits::builder(Plays(plays), limiter.clone()).build();
    let request = Request::tokens([1; 10]).max_tokens(20).n(2);
    let mut stream = service.generate(request);
    for _ in 0..read {
        stream.blocking_next();
    }
    drop(stream);
    assert_eq!(limiter.running(), 0);
    (0..=1_000)
        .find(|used| limiter.reserve("", 1_000 - used).is_ok())
        .unwrap()
}

#[test]
fn a_request_costs_what_came_of_it() {
    let whole = || {
        vec![
            started(12),
            token(),
            token(),
            finished(0, 12, 2),
            finished(1, 12, 5),
        ]
    };
    assert_eq!(cost(whole, 9), 12 + 2 + 5);
    // Dropped after two tokens, before the first event, and unread.
    assert_eq!(cost(whole, 3), 12 + 2);
    assert_eq!(cost(whole, 0), 10);
    // Failed at once: nothing. Failed later: what was there.
    assert_eq!(cost(|| vec![Err(Error::ShutDown)], 9), 0);
    assert_eq!(
        cost(|| vec![started(12), token(), Err(Error::ShutDown)], 9),
        13
    );
    // A service that counts choices nobody asked for, or lies about them.
    let odd = || vec![started(12), finished(usize::MAX, 12, 500), token()];
    assert_eq!(cost(odd, 9), 13);
    assert_eq!(cost(|| panic!("on purpose"), 9), 0);
}

#[test]
fn a_place_is_free_when_the_work_is_done_though_nobody_reads() {
    /// Answers later, and says when it is done.
    struct Later(parking_lot::Mutex<Vec<Request>>);
    impl Generate for Later {
        fn generate(&self, request: Request) -> EventStream {
            self.0.lock().push(request);
            EventStream::ready([started(1), finished(0, 1, 1)])
        }
    }
    let later = Arc::new(Later(parking_lot::Mutex::default()));
    let (limiter, _clock) = limiter(Limit::default().concurrent(1));
    let service = Limits::builder(later.clone(), limiter.clone()).build();
    let unread = service.generate(Request::text("Hi"));
    assert!(service.generate(Request::text("Hi")).wait().is_err());
    for ended in &later.0.lock()[0].on_end {
        ended();
    }
    assert_eq!(limiter.running(), 0);
    let second = service.generate(Request::text("Hi"));
    // The first stream's end must not give the second's place back.
    drop(unread);
    assert_eq!(limiter.running(), 1);
    drop(second);
    assert_eq!(limiter.running(), 0);
}

#[test]
fn callers_are_told_apart_by_tenant_or_by_the_hosts_key() {
    let silent = || Plays(|| vec![started(1), finished(0, 1, 1)]);
    let recorder = Arc::new(MemoryRecorder::default());
    let limiter = || {
        Limiter::builder()
            .default_limit(Limit::default().requests(Rate::new(1, Per::Day)))
            .limit("gold", Limit::default())
            .recorder(recorder.clone())
            .build()
            .unwrap()
    };
    let passes = |service: &Limits, request: Request| service.generate(request).wait().is_ok();
    let service = Limits::builder(silent(), limiter()).build();
    assert!(passes(&service, Request::text("").tenant("a")));
    assert!(!passes(&service, Request::text("").tenant("a")));
    assert!(passes(&service, Request::text("")));
    assert!(!passes(&service, Request::text("")));
    for _ in 0..9 {
        assert!(passes(&service, Request::text("").tenant("gold")));
    }
    assert_eq!(recorder.value("llmserve_route_limited_total"), Some(2.0));

    let service = Limits::builder(silent(), limiter())
        .key(|request| request.model.clone().expect("a model"))
        .build();
    assert!(passes(&service, Request::text("").model("x").tenant("a")));
    assert!(!passes(&service, Request::text("").model("x").tenant("b")));
    let panicked = service.generate(Request::text("")).wait();
    assert!(matches!(panicked, Err(Error::Panicked { .. })));
    // Neither keys nor prompts.
    let told = format!(
        "{service:?} {:?}",
        service.generate(Request::text("secret").model("x"))
    );
    assert!(!told.contains("secret") && !told.contains('x'), "{told}");
}

proptest! {
    /// Against buckets counted in whole nanoseconds of refill, one event after another.
    #[test]
    fn like_a_bucket_on_paper(
        limit in 1..50u64,
        burst in 1..50u64,
        steps in proptest::collection::vec((0..3_000u64, 1..20u64, 0..25u64), 1..80),
    ) {
        let rate = Rate::new(limit, Per::Second).burst(burst);
        let (limiter, clock) = limiter(Limit::default().tokens(rate));
        // In billionths of a token.
        let full = i128::from(burst) * 1_000_000_000;
        let mut level = full;
        for (pause, reserved, spent) in steps {
            clock.advance(Duration::from_millis(pause));
            level = (level + i128::from(limit) * i128::from(pause) * 1_000_000).min(full);
            let asked = i128::from(reserved) * 1_000_000_000;
            let charge = limiter.reserve("", reserved);
            prop_assert_eq!(charge.is_ok(), level >= asked);
            match charge {
                Ok(charge) => {
                    charge.settle(spent);
                    level = (level - asked).min(full);
                    level = (level + (i128::from(reserved) - i128::from(spent)) * 1_000_000_000).min(full);
                }
                Err(error) => {
                    let wait = wait_of(&error);
                    prop_assert_eq!(wait.is_none(), asked > full);
                    if let Some(wait) = wait {
                        let refilled = wait.as_nanos() as i128 * i128::from(limit);
                        prop_assert!(level + refilled >= asked);
                        prop_assert!(level + refilled - i128::from(limit) < asked);
                    }
                }
            }
        }
    }
}
