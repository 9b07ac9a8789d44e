//! Decisions in virtual time.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Generate, MemoryRecorder, Request};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::tests::{Scripted, Step, says};
use crate::{Replica, Router};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const NEVER: LastScaled = LastScaled(None);

fn decide(config: &Horizontal, current: usize, signals: &[Signals]) -> (usize, Reason) {
    let decision = config.decide(at(1_000), current, signals, NEVER);
    (decision.replicas, decision.reason)
}

/// Whose windows and steps let everything through.
fn prompt() -> Horizontal {
    Horizontal::default()
        .between(0, 100)
        .windows(at(0), at(0))
        .steps(100, 100)
}

#[test]
fn who_asks_for_most_is_heard() {
    let now = Signals::new(at(1_000), 10);
    let config = prompt().p95(at(1));
    assert_eq!(decide(&config, 10, &[]), (10, Reason::NoSignal));
    assert_eq!(decide(&config, 10, &[now]), (10, Reason::NoSignal));
    let busy = now.utilization(1.4);
    assert_eq!(decide(&config, 10, &[busy]), (20, Reason::Utilization));
    assert_eq!(
        decide(&config, 10, &[busy.queue(120.0)]),
        (30, Reason::Queue)
    );
    assert_eq!(
        decide(&config, 10, &[busy.p95(at(4))]),
        (40, Reason::Latency)
    );
    assert_eq!(
        decide(&config, 10, &[busy.p95(at(1))]),
        (20, Reason::Utilization)
    );
    // Ten per cent off is on target; a little more is not.
    assert_eq!(
        decide(&config, 10, &[now.utilization(0.76)]),
        (10, Reason::OnTarget)
    );
    assert_eq!(
        decide(&config, 10, &[now.utilization(0.78)]),
        (12, Reason::Utilization)
    );
    // Fewer, unless one of them needs what there is; a p95 that is kept needs nothing.
    let idle = now.utilization(0.07);
    assert_eq!(decide(&config, 10, &[idle]), (1, Reason::Utilization));
    assert_eq!(
        decide(&config, 10, &[idle.queue(40.0)]),
        (10, Reason::OnTarget)
    );
    assert_eq!(
        decide(&config, 10, &[idle.p95(Duration::from_millis(5))]),
        (1, Reason::Utilization)
    );
    assert_eq!(
        decide(&config, 10, &[now.p95(Duration::from_millis(5))]),
        (10, Reason::OnTarget)
    );
    // What is no number says nothing.
    assert_eq!(
        decide(&config, 10, &[now.utilization(f64::NAN)]),
        (10, Reason::NoSignal)
    );
    assert_eq!(
        decide(&config, 10, &[now.utilization(-1.0)]),
        (10, Reason::NoSignal)
    );
    assert_eq!(
        decide(&config, 10, &[now.queue(1e300)]),
        (100, Reason::Limit)
    );
}

#[test]
fn to_none_and_back() {
    let none = Signals::new(at(1_000), 0);
    assert_eq!(
        decide(&prompt(), 0, &[none.utilization(1.0)]),
        (0, Reason::NoSignal)
    );
    assert_eq!(decide(&prompt(), 0, &[none.queue(0.0)]), (0, Reason::Queue));
    assert_eq!(decide(&prompt(), 0, &[none.queue(1.0)]), (1, Reason::Queue));
    assert_eq!(decide(&prompt(), 0, &[none.queue(9.0)]), (3, Reason::Queue));
    let idle = Signals::new(at(1_000), 2).utilization(0.0).queue(0.0);
    assert_eq!(decide(&prompt(), 2, &[idle]).0, 0);
    assert_eq!(
        decide(&prompt().between(1, 9), 2, &[idle]),
        (1, Reason::Limit)
    );
    // Outside the limits nothing else counts.
    let hold = LastScaled(Some(at(999)));
    let limits = prompt().between(3, 5);
    assert_eq!(limits.decide(at(1_000), 1, &[], hold).replicas, 3);
    assert_eq!(limits.decide(at(1_000), 9, &[], hold).replicas, 5);
}

#[test]
fn windows_pauses_and_steps() {
    let config = Horizontal::default()
        .between(1, 50)
        .windows(at(30), at(300));
    let sample =
        |seconds: u64, utilization: f64| Signals::new(at(seconds), 10).utilization(utilization);
    // A peak within the window of 300 s holds up going down, and up needs 30 s of it.
    let (low, high) = (sample(1_000, 0.07), sample(705, 0.7));
    assert_eq!(decide(&config, 10, &[low, high]), (10, Reason::Stabilizing));
    assert_eq!(decide(&config, 10, &[high, low]), (10, Reason::Stabilizing));
    assert_eq!(
        decide(&config, 10, &[low, sample(699, 0.7)]),
        (9, Reason::Utilization)
    );
    let rising = [sample(969, 0.1), sample(975, 1.4), sample(1_000, 1.4)];
    assert_eq!(decide(&config, 10, &rising), (20, Reason::Utilization));
    let spike = [sample(975, 0.7), sample(1_000, 1.4)];
    assert_eq!(decide(&config, 10, &spike), (10, Reason::Stabilizing));
    // What is yet to come has no say.
    assert_eq!(
        decide(&config, 10, &[sample(1_001, 1.4)]),
        (10, Reason::NoSignal)
    );
    let since = |seconds: u64| LastScaled(Some(at(1_000 - seconds)));
    let after = |seconds, sample| config.decide(at(1_000), 10, &[sample], since(seconds));
    assert_eq!(after(14, sample(1_000, 1.4)).reason, Reason::Cooldown);
    assert_eq!(after(15, sample(1_000, 1.4)).replicas, 20);
    assert_eq!(after(59, low).reason, Reason::Cooldown);
    assert_eq!((after(60, low).replicas, after(60, low).wanted), (9, 1));
    // At most as many again, or four; or as is said.
    let flood = Signals::new(at(1_000), 2).queue(1e6);
    assert_eq!(decide(&config, 2, &[flood]).0, 6);
    assert_eq!(decide(&config.clone().steps(3, 1), 2, &[flood]).0, 5);
}

#[test]
fn configurations_that_cannot_be() {
    let bad = |config: Horizontal| config.check().is_err();
    assert!(!bad(Horizontal::default()));
    assert!(bad(prompt().between(3, 2)));
    assert!(bad(prompt().between(0, 0)));
    assert!(bad(prompt().utilization(0.0)));
    assert!(bad(prompt().queue(f64::NAN)));
    assert!(bad(prompt().p95(at(0))));
    assert!(bad(prompt().tolerance(1.0)));
    assert!(bad(prompt().steps(0, 1)) && bad(prompt().steps(1, 0)));
    assert!(Predictive::new(0.0).is_err());
    let predictive = || Predictive::new(1.0).unwrap();
    assert!(predictive().headroom(0.9).check().is_err());
    assert!(predictive().min_weeks(0).check().is_err());
}

proptest! {
    #[test]
    fn never_outside_the_limits_nor_further_than_a_step(
        current in 0usize..40,
        min in 0usize..10,
        more in 1usize..20,
        step in 1usize..5,
        samples in prop::collection::vec((900u64..1_100, 0usize..40, -1.0f64..5.0, 0.0f64..500.0), 0..8),
        last in prop::option::of(900u64..1_000),
    ) {
        let config = Horizontal::default().between(min, min + more).steps(step, step);
        let samples: Vec<_> = samples
            .into_iter()
            .map(|(seconds, replicas, utilization, queue)| {
                Signals::new(at(seconds), replicas).utilization(utilization).queue(queue)
            })
            .collect();
        let last = LastScaled(last.map(at));
        let decision = config.decide(at(1_000), current, &samples, last);
        prop_assert!((min..=min + more).contains(&decision.replicas));
        if (min..=min + more).contains(&current) {
            prop_assert!(decision.replicas.abs_diff(current) <= step);
            let seen = samples.iter().any(|sample| sample.at <= at(1_000));
            prop_assert!(seen || decision.replicas == current);
        }
    }
}

/// So many weeks of a day and night that grow by a tenth of the first week each week.
fn weeks(of: u64, noise: f64) -> Vec<Demand> {
    let rng = crate::random::Rng::seeded(7);
    (0..of * 168)
        .map(|hour| {
            let noise = 1.0 + noise * (rng.unit() - 0.5);
            Demand {
                at: at(hour * 3_600 + 1_800),
                per_second: expected(hour) * noise,
            }
        })
        .collect()
}

fn expected(hour: u64) -> f64 {
    let day = if (9..18).contains(&(hour % 24)) {
        3.0
    } else {
        1.0
    };
    let weekend = if hour % 168 >= 120 { 0.5 } else { 1.0 };
    100.0 * day * weekend * (1.0 + 0.1 * hour as f64 / 168.0)
}

#[test]
fn hours_of_the_week_with_a_trend() {
    let predictive = Predictive::new(10.0).unwrap();
    for (noise, off) in [(0.0, 0.05), (0.2, 0.15)] {
        let mut history = weeks(6, noise);
        // The order is nothing, and neither is what is no measurement.
        history.reverse();
        history.push(Demand {
            at: at(9_000),
            per_second: f64::NAN,
        });
        for hour in 6 * 168..7 * 168 {
            let forecast = predictive
                .forecast(&history, at(hour * 3_600 + 1_800))
                .unwrap();
            assert_eq!(forecast.basis, Basis::Weeks(6));
            let ratio = forecast.per_second / expected(hour);
            assert!((ratio - 1.0).abs() < off, "hour {hour}: {ratio}");
        }
    }
    // Eight o'clock: nine is within the lead, and three times as much.
    let history = weeks(4, 0.0);
    let eight = at((4 * 168 + 8) * 3_600);
    let soon = predictive.replicas(&history, eight).unwrap();
    let late = predictive
        .clone()
        .lead(at(7_200))
        .replicas(&history, eight)
        .unwrap();
    assert!(late as f64 > 1.5 * soon as f64, "{soon} {late}");
}

#[test]
fn while_history_is_short_the_last_hour_goes_on() {
    let predictive = Predictive::new(10.0).unwrap();
    assert_eq!(predictive.forecast(&[], at(0)), None);
    let history = weeks(1, 0.0);
    let forecast = predictive.forecast(&history, at(9_999_999)).unwrap();
    assert_eq!(forecast.basis, Basis::LastHour);
    assert_eq!(forecast.per_second, expected(167));
    assert_eq!(predictive.replicas(&history, at(700_000)), None);
    // Weeks with too few hours do not count.
    let sparse: Vec<_> = weeks(4, 0.0).into_iter().step_by(2).collect();
    let basis = |predictive: &Predictive| predictive.forecast(&sparse, at(0)).unwrap().basis;
    assert_eq!(basis(&predictive), Basis::LastHour);
    let mut lenient = predictive;
    lenient.coverage = 0.5;
    assert_eq!(basis(&lenient), Basis::Weeks(4));
    // Nothing was ever asked for; and a demand that falls does not fall below nothing.
    let nothing: Vec<_> = weeks(3, 0.0)
        .into_iter()
        .map(|d| Demand {
            per_second: 0.0,
            ..d
        })
        .collect();
    assert_eq!(lenient.replicas(&nothing, at(1_900_000)), Some(0));
    let falling = weeks(3, 0.0).into_iter().map(|d| Demand {
        per_second: 100.0 * (1.0 - d.at.as_secs_f64() / (3.2 * 604_800.0)),
        ..d
    });
    let falling: Vec<_> = falling.collect();
    assert_eq!(
        lenient
            .forecast(&falling, at(9 * 604_800))
            .unwrap()
            .per_second,
        0.0
    );
}

#[test]
fn hardware_that_will_not_do_is_told() {
    let catalogue = Hardware::new([
        Kind::new("slow", 1.0, 1_000.0, 80.0).p95_ms(900.0),
        Kind::new("small", 1.0, 1_000.0, 24.0).p95_ms(100.0),
        Kind::new("unknown", 1.0, 1_000.0, 80.0),
        Kind::new("good", 4.0, 2_000.0, 80.0).p95_ms(300.0).most(2),
    ])
    .unwrap();
    let wanted = Wanted::new(3_000.0, 40.0).p95(Duration::from_millis(500));
    let choice = catalogue.cheapest(&wanted).unwrap();
    let out: Vec<_> = choice
        .ruled_out
        .iter()
        .map(|out| (out.kind.as_str(), out.reason.as_str()))
        .collect();
    assert_eq!(
        out,
        [
            ("slow", "p95 of 900 ms, 500 ms are wanted"),
            ("small", "24 GiB of 40 GiB"),
            ("unknown", "p95 is not known, 500 ms are wanted"),
        ]
    );
    assert_eq!(
        (choice.mix[0].count, choice.cost_per_hour, choice.proven),
        (2, 8.0, true)
    );
    let error = catalogue
        .cheapest(&Wanted {
            tokens_per_second: 4_001.0,
            ..wanted.clone()
        })
        .unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.value.as_str()),
        ("tokens_per_second", "4000")
    );
    assert!(catalogue.cheapest(&Wanted::new(1.0, 99.0)).is_err());
    assert!(catalogue.cheapest(&Wanted::new(f64::NAN, 1.0)).is_err());
    assert_eq!(catalogue.cheapest(&Wanted::new(0.0, 1.0)).unwrap().mix, []);
    let bad = |kind: Kind| Hardware::new([kind]).is_err();
    assert!(bad(Kind::new("a", 0.0, 1.0, 1.0)) && bad(Kind::new("a", 1.0, f64::NAN, 1.0)));
    assert!(bad(Kind::new("a", 1.0, 1.0, 1.0).spot(Spot::new(1.0, 0.0))));
    assert!(Hardware::new([Kind::new("a", 1.0, 1.0, 1.0), Kind::new("a", 2.0, 1.0, 1.0)]).is_err());
}

#[test]
fn spot_instances_carry_their_share_and_no_more() {
    let catalogue =
        Hardware::new([Kind::new("a", 2.0, 1_000.0, 80.0).spot(Spot::new(0.75, 0.2).most(6))])
            .unwrap();
    let mix = |share: f64| {
        let choice = catalogue
            .cheapest(&Wanted::new(4_000.0, 1.0).spot_share(share))
            .unwrap();
        let of = |spot| {
            choice
                .mix
                .iter()
                .filter(|of| of.spot == spot)
                .map(|of| of.count)
                .sum::<usize>()
        };
        (of(false), of(true))
    };
    assert_eq!(mix(0.0), (4, 0));
    // Two thousand rest on them, at eight hundred each.
    assert_eq!(mix(0.5), (2, 3));
    assert_eq!(mix(1.0), (0, 5));
}

proptest! {
    #[test]
    fn no_mix_is_cheaper(
        kinds in prop::collection::vec((1u32..20, 1u32..12, 0usize..4, prop::option::of((0u32..8, 0u32..4))), 1..4),
        wanted in 1u32..30,
        share in 0u32..=4,
    ) {
        let kinds = kinds.iter().enumerate().map(|(at, (cost, tokens, most, spot))| {
            let mut kind = Kind::new(at.to_string(), f64::from(*cost), f64::from(*tokens), 1.0).most(*most);
            kind.spot = spot.map(|(discount, gone)| {
                Spot::new(f64::from(discount) / 8.0, f64::from(gone) / 4.0).most(2)
            });
            kind
        });
        let catalogue = Hardware::new(kinds).unwrap();
        let share = f64::from(share) / 4.0;
        let wanted = Wanted::new(f64::from(wanted), 1.0).spot_share(share);
        let choice = catalogue.cheapest(&wanted);
        // Every mix there is.
        let mut items = Vec::new();
        for kind in &catalogue.kinds {
            items.push((kind.cost_per_hour, kind.tokens_per_second, kind.most.unwrap(), false));
            if let Some(spot) = kind.spot {
                let (cost, tokens) = (1.0 - spot.discount, 1.0 - spot.interruption);
                items.push((kind.cost_per_hour * cost, kind.tokens_per_second * tokens, 2, true));
            }
        }
        let mut cheapest = f64::INFINITY;
        let mut mixes = vec![(0.0, 0.0, 0.0)];
        for (cost, tokens, most, spot) in items {
            mixes = mixes.iter().flat_map(|(spent, all, lasting)| {
                (0..=most).map(move |count| {
                    let made = count as f64 * tokens;
                    (spent + count as f64 * cost, all + made, lasting + if spot { 0.0 } else { made })
                })
            }).collect();
        }
        for (spent, all, lasting) in mixes {
            if all >= wanted.tokens_per_second && lasting >= wanted.tokens_per_second * (1.0 - share) {
                cheapest = cheapest.min(spent);
            }
        }
        match choice {
            Ok(choice) => {
                prop_assert!((choice.cost_per_hour - cheapest).abs() < 1e-6, "{choice:?} {cheapest}");
                prop_assert!(choice.tokens_per_second >= wanted.tokens_per_second - 1e-6);
                prop_assert!(choice.proven);
            }
            Err(_) => prop_assert!(cheapest.is_infinite()),
        }
    }
}

/// A router whose replicas never end what they begin.
fn hanging(router: &Router) -> RouterTarget {
    let hung = Scripted::always(vec![Step::Hang]);
    RouterTarget::new(router.clone(), "e", move |_| {
        Ok(Replica::new("?", hung.clone()).capacity(2))
    })
}

#[test]
fn replicas_come_drain_and_are_taken_back() {
    let router = Router::builder()
        .replica(Replica::new("mine", Scripted::always(says(""))).weight(0))
        .strategy(crate::Weighted::new())
        .build()
        .unwrap();
    let target = hanging(&router);
    let names = || -> Vec<_> {
        let replicas = router.stats().replicas.into_iter();
        replicas
            .map(|r| (r.name, r.outstanding, r.draining))
            .collect()
    };
    let of = |name: &str, outstanding, draining| (name.to_owned(), outstanding, draining);
    target.scale_to(3).unwrap();
    let busy: Vec<_> = (0..2).map(|_| router.generate(Request::text(""))).collect();
    let mine = of("mine", 0, false);
    assert_eq!(
        names(),
        [
            mine.clone(),
            of("e-1", 1, false),
            of("e-2", 1, false),
            of("e-3", 0, false)
        ]
    );
    // The idle one goes at once, the youngest of equals when it has ended.
    target.scale_to(1).unwrap();
    assert_eq!(target.current(), 1);
    assert_eq!(
        names(),
        [mine.clone(), of("e-1", 1, false), of("e-2", 1, true)]
    );
    // Taken back before another is begun.
    target.scale_to(3).unwrap();
    assert_eq!(
        names(),
        [
            mine.clone(),
            of("e-1", 1, false),
            of("e-2", 1, false),
            of("e-4", 0, false)
        ]
    );
    target.scale_to(0).unwrap();
    drop(busy);
    assert_eq!((target.current(), names()), (0, vec![mine]));
    // What somebody else removed is not counted.
    target.scale_to(2).unwrap();
    router.remove("e-5").unwrap();
    assert_eq!(target.current(), 1);
}

#[test]
fn what_does_not_start_is_told_and_tried_again() {
    let router = Router::builder().allow_empty(true).build().unwrap();
    let starts: Arc<Mutex<u32>> = Arc::default();
    let target = RouterTarget::new(router.clone(), "e", move |name| {
        let mut starts = starts.lock();
        *starts += 1;
        match *starts {
            2 => Err("no memory".into()),
            3 => panic!("on purpose"),
            _ => Ok(Replica::new(name, Scripted::always(says("")))),
        }
    });
    let error = target.scale_to(2).unwrap_err();
    assert_eq!((error.wanted, error.current), (2, 1));
    assert!(error.message.contains("no memory"), "{error}");
    assert!(
        target
            .scale_to(2)
            .unwrap_err()
            .message
            .contains("on purpose")
    );
    target.scale_to(2).unwrap();
    assert_eq!(router.fleet().len(), 2);
}

#[test]
fn an_autoscaler_follows_what_is_measured_and_expected() {
    let recorder = Arc::new(MemoryRecorder::default());
    let router = Router::builder().allow_empty(true).build().unwrap();
    let start = 4 * 604_800;
    let scaler = Autoscaler::builder(hanging(&router))
        .horizontal(
            Horizontal::default()
                .between(1, 80)
                .steps(80, 80)
                .cooldowns(at(30), at(30)),
        )
        .predictive(Predictive::new(10.0).unwrap().lead(at(3_600)))
        .history(weeks(4, 0.0))
        .recorder(recorder.clone(), "chat")
        .build()
        .unwrap();
    // Midnight on a Monday: 140 requests a second times 1.2.
    let first = scaler.tick(at(start + 30)).unwrap();
    assert_eq!(
        (first.current, first.decision.reason),
        (0, Reason::Forecast)
    );
    assert!((16..=18).contains(&first.decision.replicas), "{first:?}");
    assert_eq!(router.fleet().len(), first.decision.replicas);
    assert_eq!(first.forecast.unwrap().basis, Basis::Weeks(4));
    // More is measured than was expected; and not twice in thirty seconds.
    let held: Vec<_> = (0..34)
        .map(|_| router.generate(Request::text("")))
        .collect();
    let full = Signals::of(&router, at(start + 31));
    assert!(full.utilization.unwrap() > 0.9, "{full:?}");
    scaler.observe(full.demand(140.0));
    assert_eq!(
        scaler.tick(at(start + 31)).unwrap().decision.reason,
        Reason::Cooldown
    );
    let second = scaler.tick(at(start + 60)).unwrap();
    assert_eq!(second.decision.reason, Reason::Utilization);
    assert!(second.decision.replicas > first.decision.replicas);
    drop(held);
    for (gauge, value) in [
        (
            "llmserve_route_scale_replicas",
            first.decision.replicas as f64,
        ),
        (
            "llmserve_route_scale_desired_replicas",
            second.decision.replicas as f64,
        ),
        ("llmserve_route_scale_demand", 140.0),
    ] {
        assert_eq!(recorder.value(gauge), Some(value), "{gauge}");
    }
    assert!(
        recorder
            .render()
            .contains("llmserve_route_scale_forecast{service=\"chat\"} 1")
    );
    // Eight weeks are remembered, and can be taken along.
    assert_eq!(scaler.history().len(), 4 * 168 + 1);
    for hour in 0..2_000 {
        scaler.observe(Signals::new(at(start + hour * 3_600), 1).demand(1.0));
    }
    assert_eq!(scaler.history().len(), 8 * 168);
}
