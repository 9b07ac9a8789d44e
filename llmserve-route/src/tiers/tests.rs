//! Who is asked, in which order, and what the reader sees of it.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{
    Error, Event, FinishReason, Finished, Generate, Message, Request, Response, Routing, Started,
    Timings, TokenEvent, TokenLogprobs, Usage,
};

use super::*;
use crate::tests::{Script, Scripted, Step, fails, overloaded, says};
use crate::{BuildError, ManualTimer, Replica};

fn tier(name: &str, service: &Arc<Scripted>) -> Tier {
    Tier::new(Replica::new(name, service.clone()))
}

/// Three tiers that say their names, costing 1, 2 and 3, of quality 0.1, 0.2 and 0.3, taking 1, 2
/// and 3 seconds.
fn three() -> (TieredBuilder, [Arc<Scripted>; 3]) {
    let services = ["a", "b", "c"].map(|name| Scripted::always(says(name)));
    let mut builder = Tiered::builder()
        .timer(Arc::new(ManualTimer::default()))
        .estimator(|request: &Request| request.max_tokens.map(|tenths| tenths as f32 / 10.0));
    for (at, service) in (1..).zip(&services) {
        let replica = Replica::new(["", "a", "b", "c"][at], service.clone())
            .cost(at as f64)
            .quality(at as f32 / 10.0);
        builder = builder.tier(Tier::new(replica).latency(Duration::from_secs(at as u64)));
    }
    (builder, services)
}

#[track_caller]
fn answers(service: &impl Generate, request: Request) -> String {
    service.generate(request).wait().unwrap().text().to_owned()
}

#[test]
fn the_cheapest_that_is_good_and_quick_enough() {
    let (builder, seen) = three();
    let tiered = builder.build().unwrap();
    let ask = |tenths: Option<usize>, routing: Routing| {
        let mut request = Request::text("Hi").routing(routing);
        request.max_tokens = tenths;
        answers(&tiered, request)
    };
    let routing = Routing::default;
    let within = |seconds| routing().latency_budget(Duration::from_secs(seconds));
    assert_eq!(ask(Some(1), routing()), "a");
    assert_eq!(ask(Some(5), routing()), "b");
    assert_eq!(ask(Some(9), routing()), "c");
    // Nobody can judge it: 0.5.
    assert_eq!(ask(None, routing()), "b");
    // A wish comes before a guess, and a limit before both.
    assert_eq!(ask(Some(9), within(2)), "b");
    assert_eq!(ask(Some(9), within(0)), "a");
    assert_eq!(ask(Some(9), routing().max_cost(2.5)), "b");
    assert_eq!(ask(Some(1), routing().min_quality(0.3)), "c");
    assert_eq!(ask(Some(9), routing().tier("a").max_cost(9.0)), "a");
    assert_eq!(ask(Some(1), within(1).min_quality(0.15)), "b");
    let none = tiered.generate(Request::text("").routing(routing().tier("d")));
    assert!(matches!(none.wait(), Err(Error::NoReplica { .. })));
    // Who is behind a tier is not asked for what the tier answers for.
    for request in seen.iter().flat_map(|service| service.seen.lock().clone()) {
        let Routing {
            tier,
            max_cost,
            min_quality,
            ..
        } = request.routing;
        assert_eq!((tier, max_cost, min_quality), (None, None, None));
    }
}

#[test]
fn one_that_fails_is_followed_by_the_next_best() {
    let scripts = [fails(overloaded()), fails(Error::ShutDown), says("c")];
    let services = scripts.map(Scripted::always);
    let mut builder = Tiered::builder().estimator(|_: &Request| Some(0.5));
    for (name, service) in ["a", "b", "c"].iter().zip(&services) {
        builder = builder.tier(tier(name, service));
    }
    let tiered = builder.build().unwrap();
    // b handles it and fails; c handles it; a would be too weak.
    assert_eq!(answers(&tiered, Request::text("")), "c");
    assert_eq!(services.each_ref().map(|s| s.calls()), [0, 1, 1]);
    // The tier that is named is the only one.
    let named = Request::text("").routing(Routing::default().tier("a"));
    assert_eq!(tiered.generate(named).wait(), Err(overloaded()));
    assert_eq!(tiered.router().stats().outstanding(), 0);
}

#[test]
fn regions_hold_in_tiers() {
    let eu = Scripted::always(says("eu"));
    let nowhere = Scripted::always(says("nowhere"));
    let tiered = Tiered::builder()
        .tier(tier("cheap", &nowhere))
        .tier(Tier::new(Replica::new("good", eu.clone()).region("eu")))
        .build()
        .unwrap();
    let request = Request::text("Hi").routing(Routing::default().region("eu"));
    assert_eq!(answers(&tiered, request), "eu");
    assert_eq!(nowhere.calls(), 0);
}

#[test]
fn what_cannot_be_a_tier() {
    let service = Scripted::always(says(""));
    let of = |tiers: Vec<Tier>| {
        let tiered = tiers
            .clone()
            .into_iter()
            .fold(Tiered::builder(), |b, t| b.tier(t));
        let cascade = tiers.into_iter().fold(Cascade::builder(), |b, t| b.tier(t));
        (tiered.build().err(), cascade.build().err())
    };
    let none = TierError::Replica(BuildError::NoReplicas);
    assert_eq!(of(vec![]), (Some(none.clone()), Some(none)));
    let twice = || {
        Some(TierError::Replica(BuildError::DuplicateName {
            name: "a".into(),
        }))
    };
    let (a, again) = (tier("a", &service), tier("a", &service));
    assert_eq!(of(vec![a, again]), (twice(), twice()));
    let bad = || {
        Some(TierError::BadComplexity {
            name: "a".into(),
            value: 1.5,
        })
    };
    assert_eq!(of(vec![tier("a", &service).handles(1.5)]), (bad(), bad()));
    let priced = |name: &str, cost| Tier::new(Replica::new(name, service.clone()).cost(cost));
    let (tiered, cascade) = of(vec![priced("a", 2.0), priced("b", 1.0)]);
    assert_eq!(tiered, None);
    assert!(matches!(
        cascade,
        Some(TierError::NotCheapestFirst { cost: 2.0, .. })
    ));
}

#[test]
fn estimators() {
    let user = |text: &str| {
        Request::messages([
            Message::system("Prove it."),
            Message::user(text),
            Message::assistant(""),
        ])
    };
    let words = ByKeywords::new([("prove", 1.0), ("hi", 0.0), ("où", 0.5)]).unwrap();
    assert_eq!(words.estimate(&user("HI, où?")), Some(0.5));
    assert_eq!(words.estimate(&user("prov e his")), None);
    assert_eq!(words.estimate(&Request::tokens([1])), None);
    // Long texts are read to a bound that falls between characters.
    assert_eq!(
        words.estimate(&Request::text("é".repeat(9_000) + " prove")),
        None
    );
    assert!(ByKeywords::new([("...", 0.1)]).is_err());
    assert!(ByKeywords::new([("a", -0.1)]).is_err());
    assert!(matches!(
        ByKeywords::new([]),
        Err(ComplexityError::Nothing { .. })
    ));
    assert!(ByLength::new(0).is_err());

    let standard = ByFeatures::standard();
    let easy = standard.estimate(&Request::text("Hello there")).unwrap();
    let hard = standard
        .estimate(&Request::text(
            "Prove that f(x) = x^2 + 1 has no real root.",
        ))
        .unwrap();
    assert!(easy < 0.1 && hard > 0.6, "{easy} {hard}");
    assert!(
        ByFeatures::default()
            .feature(0.0, ByLength::new(1).unwrap())
            .is_err()
    );
    assert_eq!(ByFeatures::default().estimate(&Request::text("x")), None);

    let embed = |text: &str| text.bytes().map(f32::from).collect::<Vec<_>>();
    let fails =
        |examples: &[(&'static str, f32)]| ByExamples::new(embed, examples.iter().copied()).err();
    assert_eq!(
        fails(&[]),
        Some(ComplexityError::Nothing { what: "examples" })
    );
    assert_eq!(
        fails(&[("ab", 0.0), ("\0\0", 0.0)]),
        Some(ComplexityError::NoDirection { example: 1 })
    );
    let dimensions = ComplexityError::Dimensions {
        example: 1,
        dimensions: 1,
        first: 2,
    };
    assert_eq!(fails(&[("ab", 0.0), ("a", 0.0)]), Some(dimensions));
    let examples = ByExamples::new(embed, [("a\x01", 0.0), ("\x01a", 1.0), ("aa", 0.5)]).unwrap();
    let one = examples.neighbours(1);
    assert_eq!(one.estimate(&Request::text("c\x02")), Some(0.0));
    assert_eq!(one.estimate(&Request::text("longer")), None);
    assert_eq!(one.estimate(&Request::text("\0\0")), None);
}

/// An answer of so many tokens of this logprob.
fn told(text: &str, tokens: usize, logprob: f32, reason: FinishReason) -> Vec<Step> {
    let mut steps = vec![Step::Emit(Event::Started(Started {
        prompt_ids: [7; 10].into(),
        prompt_logprobs: None,
    }))];
    for at in 0..tokens {
        steps.push(Step::Yield);
        steps.push(Step::Emit(Event::Token(TokenEvent {
            index: 0,
            id: 1,
            text: if at == 0 { text.into() } else { String::new() },
            logprobs: Some(TokenLogprobs {
                id: 1,
                logprob,
                top: Vec::new(),
            }),
        })));
    }
    steps.push(Step::Emit(Event::Finished(Finished {
        index: 0,
        reason,
        text: String::new(),
        usage: Usage {
            prompt_tokens: 10,
            cached_tokens: 1,
            completion_tokens: tokens,
        },
        timings: Timings::default(),
    })));
    steps
}

fn cascade(services: &[&Arc<Scripted>]) -> (CascadeBuilder, Arc<ManualTimer>) {
    let timer = Arc::new(ManualTimer::default());
    let names = ["low", "middle", "high"];
    let tiers = names.iter().zip(services);
    let builder = tiers.fold(Cascade::builder(), |builder, (name, service)| {
        builder.tier(tier(name, service).latency(Duration::from_secs(2)))
    });
    (builder.timer(timer.clone()), timer)
}

fn usage(answer: &Response) -> [usize; 3] {
    let usage = answer.choices[0].usage;
    [
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
    ]
}

#[test]
fn a_cascade_stops_where_it_is_good_enough_and_counts_every_run() {
    let low = Scripted::always(told("low", 2, -3.0, FinishReason::Stop));
    let middle = Scripted::always(told("middle", 3, -0.5, FinishReason::Stop));
    let high = Scripted::always(told("high", 9, -0.1, FinishReason::Stop));
    let (builder, _) = cascade(&[&low, &middle, &high]);
    let service = builder.check(MeanLogprob(-1.0)).build().unwrap();
    let answer = service.generate(Request::text("")).wait().unwrap();
    assert_eq!((answer.text(), usage(&answer)), ("middle", [20, 2, 5]));
    // Asked for, to look at, and not passed on; nor where nobody looks.
    assert!(answer.choices[0].logprobs.is_empty());
    assert_eq!(low.seen.lock()[0].logprobs, Some(0));
    let asked = service
        .generate(Request::text("").logprobs(2))
        .wait()
        .unwrap();
    assert_eq!(asked.choices[0].logprobs.len(), 3);
    let stats = service.stats().rungs;
    let of = |at: usize| (stats[at].asked, stats[at].rejected, stats[at].outstanding);
    assert_eq!([of(0), of(1), of(2)], [(2, 2, 0), (2, 0, 0), (0, 0, 0)]);
    // The last is not checked, and streams.
    let (builder, _) = cascade(&[&low, &low, &high]);
    let service = builder
        .check(|_: &Request, _: &Response| false)
        .build()
        .unwrap();
    let answer = service.generate(Request::text("")).wait().unwrap();
    assert_eq!((answer.text(), usage(&answer)), ("high", [30, 3, 13]));
    assert_eq!(high.seen.lock()[0].logprobs, None);
}

#[test]
fn what_there_is_is_given_where_nobody_above_can_answer() {
    let cut = || told("cut", 2, 0.0, FinishReason::Length);
    for above in [
        fails(overloaded()),
        vec![Step::Panic],
        vec![Step::Yield, Step::Panic],
    ] {
        let (low, high) = (Scripted::always(cut()), Scripted::always(above));
        let (builder, _) = cascade(&[&low, &high]);
        let service = builder.build().unwrap();
        let answer = service.generate(Request::text("")).wait().unwrap();
        assert_eq!((answer.text(), usage(&answer)), ("cut", [10, 1, 2]));
        assert_eq!((service.stats().rungs[1].failed, high.live()), (1, 0));
    }
    // It began to say something: that is the answer, as far as it goes.
    let mut half = told("half", 2, 0.0, FinishReason::Stop);
    half.truncate(3);
    half.push(Step::Fail(Error::ShutDown));
    let (builder, _) = cascade(&[&Scripted::always(cut()), &Scripted::always(half.clone())]);
    let answer = builder.build().unwrap().generate(Request::text("")).wait();
    assert_eq!(answer, Err(Error::ShutDown));
    // Below the highest nothing has been said yet: tokens of a run that broke off count too.
    let whole = Scripted::always(told("whole", 4, 0.0, FinishReason::Stop));
    let (builder, _) = cascade(&[&Scripted::always(half), &whole]);
    let answer = builder
        .build()
        .unwrap()
        .generate(Request::text(""))
        .wait()
        .unwrap();
    assert_eq!((answer.text(), usage(&answer)), ("whole", [20, 1, 5]));
    // A limit rules out who is above, and who is below is not asked after.
    let (builder, _) = cascade(&[&whole, &Scripted::always(cut()), &whole]);
    let service = builder.build().unwrap();
    service.drain("low").unwrap();
    service.drain("high").unwrap();
    let answer = service.generate(Request::text("")).wait().unwrap();
    assert_eq!(answer.text(), "cut");
    service.undrain("low").unwrap();
    let only = Request::text("").routing(Routing::default().tier("middle"));
    assert_eq!(service.generate(only).wait().unwrap().text(), "cut");
}

#[test]
fn errors_of_the_request_and_of_the_check_end_it() {
    let wrong = Error::invalid_request("n", "0");
    let high = Scripted::always(says("high"));
    let (builder, _) = cascade(&[&Scripted::always(fails(wrong.clone())), &high]);
    let service = builder.build().unwrap();
    assert_eq!(service.generate(Request::text("")).wait(), Err(wrong));
    let resumed = service.generate(Request::text("").resume([1])).wait();
    assert!(matches!(
        resumed,
        Err(Error::InvalidRequest {
            field: "resume",
            ..
        })
    ));
    let (builder, _) = cascade(&[&high, &high]);
    let panics = |_: &Request, _: &Response| -> bool { panic!("on purpose") };
    let service = builder.check(panics).build().unwrap();
    let answer = service.generate(Request::text("")).wait();
    assert!(matches!(
        answer,
        Err(Error::Panicked {
            part: "quality check",
            ..
        })
    ));
    assert_eq!(service.stats().rungs[0].outstanding, 0);
    // A prompt that is too long for the small one.
    let long = Error::PromptTooLong {
        tokens: 9,
        limit: 8,
        limited_by: "context".into(),
    };
    let (builder, _) = cascade(&[&Scripted::always(fails(long)), &high]);
    assert_eq!(
        answers(&builder.build().unwrap(), Request::text("")),
        "high"
    );
}

#[test]
fn time_is_what_the_reader_saw_and_limits_how_far_up() {
    let seconds = Duration::from_secs;
    let timer: Arc<parking_lot::Mutex<Option<Arc<ManualTimer>>>> = Arc::default();
    let clock = timer.clone();
    // Each run takes three seconds.
    let low = Scripted::new(move |_| {
        clock.lock().as_ref().unwrap().advance(seconds(3));
        Script::Stream(told("low", 1, 0.0, FinishReason::Length))
    });
    let high = Scripted::always(told("high", 1, 0.0, FinishReason::Stop));
    let (builder, manual) = cascade(&[&low, &high]);
    *timer.lock() = Some(manual.clone());
    let service = builder.build().unwrap();
    let ended: Arc<parking_lot::Mutex<u32>> = Arc::default();
    let ask = |routing: Routing| {
        let ended = ended.clone();
        let request = Request::text("").routing(routing).deadline(seconds(30));
        let answer = service
            .generate(request.on_end(move || *ended.lock() += 1))
            .wait()
            .unwrap();
        (answer.text().to_owned(), answer.choices[0].timings.latency)
    };
    let within = |budget| Routing::default().latency_budget(seconds(budget));
    // Three seconds and two more are five.
    assert_eq!(ask(within(5)), ("high".into(), seconds(3)));
    assert_eq!(high.seen.lock()[0].deadline, Some(seconds(27)));
    // The count's own alone.
    assert_eq!(low.seen.lock()[0].on_end.len(), 1);
    assert_eq!(ask(within(4)), ("low".into(), seconds(3)));
    assert_eq!(*ended.lock(), 1);
    // No time is left at all.
    let request = Request::text("").deadline(seconds(3));
    assert_eq!(answers(&service, request), "low");
    assert_eq!(high.calls(), 1);
}

#[test]
fn dropping_it_gives_everything_back() {
    let low = Scripted::always(vec![Step::Hang]);
    let (builder, _) = cascade(&[&low, &low]);
    let service = builder.build().unwrap();
    let stream = service.generate(Request::text(""));
    assert_eq!((service.stats().rungs[0].outstanding, low.live()), (1, 1));
    drop(stream);
    assert_eq!((service.stats().rungs[0].outstanding, low.live()), (0, 0));
}
