//! The public simulation over the real KV manager: what it reports is what happened.

use std::time::Duration;

use llmserve_core::{
    IdentityRoot, KvManager, Refusal, SchedRequest, Scheduler, SchedulerCounts, SequenceId,
    StepOutcome, StepPlan, Time,
};
use llmserve_kv::PagedKv;
use llmserve_sched::simulation::{
    Arrivals, Cancels, Lengths, LinearCost, Prefixes, Report, SharedPrefix, SimulatedRequest,
    Simulation, SimulationBuildError, SimulationError, Traffic,
};
use llmserve_sched::{ContinuousScheduler, Priority, SchedulerBuilder};
use proptest::prelude::*;

const BLOCK: usize = 16;

fn kv(blocks: usize) -> PagedKv {
    PagedKv::builder()
        .blocks(blocks)
        .block_size(BLOCK)
        .root(IdentityRoot::new(1, "simulated", BLOCK))
        .build()
        .expect("valid options")
}

/// 10 ms a step, 1 ms a row, 1 ms a prompt token.
fn plain(traffics: impl IntoIterator<Item = Traffic>) -> Simulation {
    let cost = LinearCost {
        prefill_tokens_per_s: 1000.0,
        decode_ms: 10.0,
        row_ms: 1.0,
    };
    let builder = Simulation::builder().cost(cost);
    let builder = traffics.into_iter().fold(builder, |b, t| b.traffic(t));
    builder.build().expect("valid options")
}

fn replay(requests: Vec<SimulatedRequest>, scheduler: SchedulerBuilder, blocks: usize) -> Report {
    let mut scheduler = scheduler.build().expect("valid options");
    let mut kv = kv(blocks);
    let report = plain([]).replay(requests, &mut scheduler, &mut kv);
    let report = report.expect("runs to its end");
    assert_eq!(kv.stats().held_blocks, 0);
    report
}

fn at(ms: u64, prompt: usize, output: usize) -> SimulatedRequest {
    SimulatedRequest::new(Duration::from_millis(ms), prompt, output)
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= expected / 250.0,
        "{found}, not {expected}"
    );
}

#[test]
fn times_are_those_of_the_cost_model() {
    // 20 ms for the prompt and the first token, then two rows of 11 ms.
    let report = replay(vec![at(5, 10, 3)], ContinuousScheduler::builder(), 16);
    near(report.ttft.p50, 0.020);
    near(report.itl.p99, 0.011);
    near(report.e2e.max, 0.042);
    assert_eq!((report.itl.count, report.steps), (2, 3));
    assert_eq!(report.seconds, 0.042);
    assert_eq!((report.tokens.computed, report.tokens.generated), (12, 3));
    assert_eq!((report.utilisation.busy, report.fairness), (1.0, 1.0));

    // The second comes while the first's prompt is computed: it waits for the end of that step,
    // and its prompt is computed beside the first's decode.
    let both = vec![at(0, 10, 3), at(1, 30, 1)];
    let report = replay(both, ContinuousScheduler::builder(), 16);
    near(report.queueing.max, 0.019);
    near(report.ttft.max, 0.019 + 0.010 + 0.001 + 0.030);
    near(report.itl.max, 0.041);
}

#[test]
fn one_server_with_constant_service_is_m_d_1() {
    // Prompts of 10 tokens and one token each: 20 ms of service, whoever is served.
    let traffic = Traffic {
        requests: 40_000,
        arrivals: Arrivals::Poisson { per_second: 35.0 },
        prompt: Lengths::Fixed { tokens: 10 },
        output: Lengths::Fixed { tokens: 1 },
        ..Traffic::default()
    };
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(1)
        .max_queue(None);
    let mut scheduler = builder.build().expect("valid options");
    let report = plain([traffic])
        .run(&mut scheduler, &mut kv(64))
        .expect("runs");
    // Pollaczek and Khinchine: with load ρ, one waits ρ S / (2 (1 - ρ)) in the mean.
    let expected = 0.7 * 0.020 / (2.0 * 0.3);
    let found = report.queueing.mean;
    assert!(
        (found / expected - 1.0).abs() < 0.05,
        "{found}, not {expected}"
    );
    assert!((report.utilisation.busy - 0.7).abs() < 0.02);
}

#[test]
fn shared_prefixes_are_found_and_nothing_else_is() {
    let prefix = Some(SharedPrefix { id: 3, tokens: 64 });
    let with = |request: SimulatedRequest| SimulatedRequest { prefix, ..request };
    let requests = vec![
        with(at(0, 100, 2)),
        at(1000, 100, 2),
        with(at(2000, 100, 2)),
        with(at(3000, 40, 2)),
    ];
    let report = replay(requests, ContinuousScheduler::builder(), 64);
    assert_eq!(report.tokens.cached, 64 + 32);
    assert_eq!(report.tokens.prompt, 340);
    assert_eq!(report.tokens.computed, 340 - 96 + 4);
}

#[test]
fn requests_end_as_they_were_told_to() {
    let seconds = |s: f64| Some(Duration::from_secs_f64(s));
    let deadline = |request, after| SimulatedRequest {
        deadline: seconds(after),
        ..request
    };
    let requests = vec![
        // Runs all the time; each of its steps takes some 11 ms.
        deadline(at(0, 10, 100_000), 60.0),
        SimulatedRequest {
            cancel: seconds(0.5),
            ..deadline(at(1, 10, 1000), 0.7)
        },
        // Two seats are taken by then.
        deadline(at(30, 10, 10), 0.1),
        at(31, 10, 20),
        at(32, 10, 1 << 30),
        SimulatedRequest {
            max_tokens: Some(5),
            ..at(40_000, 10, 900)
        },
    ];
    let builder = ContinuousScheduler::builder().max_num_seqs(2);
    let report = replay(requests, builder, 1 << 14);
    let outcomes = report.requests;
    assert_eq!(outcomes.total, 6);
    assert_eq!((outcomes.cancelled, outcomes.expired_waiting), (1, 1));
    assert_eq!(
        (outcomes.expired_running, outcomes.refused_too_long),
        (1, 1)
    );
    assert_eq!((outcomes.finished, outcomes.cut_short()), (2, 3));
    assert_eq!(report.e2e.count, 2);
    // A deadline is seen at the end of the step it falls into.
    assert!(
        (60.0..60.02).contains(&report.seconds),
        "{}",
        report.seconds
    );
}

#[test]
fn refusals_by_the_scheduler_are_counted_and_harm_nobody() {
    let requests = (0..10).map(|_| at(0, 10, 2)).collect();
    let builder = ContinuousScheduler::builder().max_num_seqs(1).max_queue(4);
    let report = replay(requests, builder, 64);
    assert_eq!((report.requests.refused, report.requests.finished), (6, 4));
    assert_eq!(report.tokens.prompt, 40);
}

#[test]
fn preemptions_are_counted_by_request_and_by_what_they_lost() {
    // Both grow until one must yield: together they would need 20 blocks of the 16.
    let requests = vec![at(0, 80, 80), at(0, 80, 80)];
    let builder = ContinuousScheduler::builder().reservation(None);
    let report = replay(requests, builder, 16);
    assert_eq!(report.requests.finished, 2);
    assert!(report.preemptions.total >= 1);
    assert_eq!(report.preemptions.requests, 1);
    assert_eq!(report.preemptions.p50, 0);
    assert_eq!(report.preemptions.max, report.preemptions.total);
    let needed = 160 + report.tokens.generated - 2;
    assert_eq!(report.tokens.computed, needed + report.tokens.recomputed);
    assert!(report.utilisation.kv_peak > 0.95);
}

#[test]
fn one_tenant_before_another_is_unfair_and_both_in_turn_are_fair() {
    let named = |tenant: &str, priority| Traffic {
        requests: 400,
        arrivals: Arrivals::AtOnce,
        prompt: Lengths::Fixed { tokens: 40 },
        output: Lengths::Fixed { tokens: 20 },
        tenant: Some(tenant.to_owned()),
        priority,
        ..Traffic::default()
    };
    let index = |first: &str, other: &str| {
        let builder = ContinuousScheduler::builder()
            .max_num_seqs(16)
            .policy(Priority);
        let mut scheduler = builder.build().expect("valid options");
        let simulation = plain([named(first, -1), named(other, 1)]);
        let report = simulation.run(&mut scheduler, &mut kv(256)).expect("runs");
        assert_eq!(report.requests.finished, 800);
        (report.tenants.len(), report.fairness)
    };
    let (tenants, fairness) = index("a", "b");
    assert_eq!(tenants, 2);
    // While one waits the other has everything; a window with one of them alone does not count.
    assert!((0.5..0.55).contains(&fairness), "{fairness}");
    assert_eq!(index("a", "a"), (1, 1.0));
}

#[test]
fn a_report_repeats_and_survives_being_written_down() {
    let simulation = |seed| {
        let traffic = Traffic {
            prefixes: Some(Prefixes {
                count: 2,
                tokens: 50,
                share: 0.5,
            }),
            ..Traffic::default()
        };
        let builder = Simulation::builder().traffic(traffic).seed(seed);
        builder.build().expect("valid options")
    };
    let run = |seed| {
        let mut scheduler = ContinuousScheduler::builder()
            .build()
            .expect("valid options");
        let report = simulation(seed).run(&mut scheduler, &mut kv(4096));
        report.expect("runs to its end")
    };
    let report = run(1);
    assert_eq!(report, run(1));
    assert_ne!(report, run(2));
    let json = serde_json::to_string(&report).expect("plain data");
    let read: Report = serde_json::from_str(&json).expect("as written");
    // Not every reader of JSON keeps the last bit of a number.
    assert_eq!(read.requests, report.requests);
    assert_eq!(read.tokens, report.tokens);
    assert_eq!(read.timeline.len(), report.timeline.len());
    assert!((read.e2e.percentiles[50] / report.e2e.percentiles[50] - 1.0).abs() < 1e-12);
}

#[test]
fn its_own_requests_and_their_trace_are_the_same() {
    let traffic = Traffic {
        requests: 300,
        ..Traffic::default()
    };
    let simulation = plain([traffic]);
    let trace: Vec<_> = simulation.requests().collect();
    let fresh = || {
        ContinuousScheduler::builder()
            .build()
            .expect("valid options")
    };
    let run = simulation.run(&mut fresh(), &mut kv(4096));
    let replayed = plain([]).replay(trace, &mut fresh(), &mut kv(4096));
    assert_eq!(run, replayed);
}

/// Takes everything and plans nothing.
struct Idle(usize);

impl Scheduler for Idle {
    fn max_batched_tokens(&self) -> usize {
        1
    }

    fn max_num_seqs(&self) -> usize {
        1
    }

    fn submit(&mut self, _: SchedRequest, _: &dyn KvManager) -> Result<(), Refusal> {
        self.0 += 1;
        Ok(())
    }

    fn plan(&mut self, _: &mut dyn KvManager, _: Time, plan: &mut StepPlan) {
        plan.clear();
    }

    fn commit(&mut self, outcome: &StepOutcome, kv: &mut dyn KvManager) {
        self.0 -= outcome.ended.len();
        outcome.ended.iter().for_each(|(id, _)| kv.close(*id));
    }

    fn counts(&self) -> SchedulerCounts {
        SchedulerCounts {
            waiting: self.0,
            ..SchedulerCounts::default()
        }
    }
}

#[test]
fn what_cannot_come_to_an_end_is_an_error() {
    let simulation = plain([]);
    let stuck = simulation.replay([at(0, 4, 4)], &mut Idle(0), &mut kv(8));
    assert_eq!(
        stuck.err(),
        Some(SimulationError::Stuck {
            at: Duration::from_secs(60),
            running: 0,
            waiting: 1
        })
    );
    // A deadline frees it.
    let request = SimulatedRequest {
        deadline: Some(Duration::from_secs(9)),
        ..at(0, 4, 4)
    };
    let freed = simulation.replay([request], &mut Idle(0), &mut kv(8));
    assert_eq!(freed.map(|report| report.requests.expired_waiting), Ok(1));

    // Whoever comes or goes meanwhile makes a minute no shorter: 100,000 arrivals in a tenth of a
    // second, and requests that expire one after the other for hours.
    let crowd = (0..100_000).map(|at| SimulatedRequest::new(Duration::from_micros(at), 1, 1));
    let stuck = simulation.replay(crowd, &mut Idle(0), &mut kv(8));
    assert!(
        matches!(stuck, Err(SimulationError::Stuck { at, waiting: 100_000, .. })
            if at == Duration::from_secs(60)),
        "{stuck:?}"
    );
    let brief = (0..10).map(|number| SimulatedRequest {
        deadline: Some(Duration::from_secs(50)),
        ..at(number * 3_600_000, 4, 4)
    });
    let freed = simulation.replay(brief, &mut Idle(0), &mut kv(8));
    assert_eq!(freed.map(|report| report.requests.expired_waiting), Ok(10));
    // At the end of time there is nothing to wait for.
    let late = SimulatedRequest::new(Duration::MAX, 4, 4);
    let stuck = simulation.replay([late], &mut Idle(0), &mut kv(8));
    assert!(matches!(stuck, Err(SimulationError::Stuck { .. })));

    let mut scheduler = ContinuousScheduler::builder().build().expect("valid");
    let order = simulation.replay([at(9, 1, 1), at(8, 1, 1)], &mut scheduler, &mut kv(8));
    assert_eq!(order.err(), Some(SimulationError::OutOfOrder { index: 1 }));

    let mut manager = kv(8);
    let id = SequenceId::new(0, 0);
    manager.open(id, &[1], Default::default()).expect("fresh");
    let mut scheduler = ContinuousScheduler::builder().build().expect("valid");
    let request = SchedRequest::new(id, 1, 1);
    scheduler.submit(request, &manager).expect("room");
    let busy = simulation.replay([], &mut scheduler, &mut manager);
    let expected = SimulationError::Busy {
        running: 0,
        waiting: 1,
    };
    assert_eq!(busy.err(), Some(expected));
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    let refused = |traffic: Traffic| {
        let fine = Traffic::default();
        let built = Simulation::builder().traffic(fine).traffic(traffic).build();
        matches!(
            built.err(),
            Some(SimulationBuildError::Traffic { index: 1, .. })
        )
    };
    let prefixes = |count, tokens, share| Traffic {
        prefixes: Some(Prefixes {
            count,
            tokens,
            share,
        }),
        ..Traffic::default()
    };
    assert!(!refused(prefixes(1, 1, 1.0)));
    assert!(refused(prefixes(0, 1, 1.0)));
    assert!(refused(prefixes(1, 0, 1.0)));
    assert!(refused(prefixes(1, 1, f64::NAN)));
    assert!(refused(Traffic {
        cancels: Some(Cancels {
            share: 1.5,
            after: Duration::ZERO
        }),
        ..Traffic::default()
    }));
    assert!(refused(Traffic {
        max_tokens: Some(0),
        ..Traffic::default()
    }));
    let window = Simulation::builder()
        .fairness_window(Duration::ZERO)
        .build();
    assert_eq!(window.err(), Some(SimulationBuildError::FairnessWindow));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(60)
    })]

    #[test]
    fn every_request_ends_once_and_every_block_is_free(
        seed in any::<u64>(),
        rate in 1.0..2000.0f64,
        burst in 1..40u64,
        blocks in 4..80usize,
        (budget, seats) in (1..300usize, 1..40usize),
        max_queue in prop::option::of(1..60usize),
        prefixes in prop::option::of((1..4u32, 1..60usize, 0.0..=1.0f64)),
        (cancel_share, deadline) in (0.0..=1.0f64, prop::option::of(0.0..2.0f64)),
    ) {
        let traffic = |tenant: &str, arrivals| Traffic {
            requests: 60,
            arrivals,
            tenant: Some(tenant.to_owned()),
            prompt: Lengths::LogNormal { mean: 40.0, sigma: 1.0, max: 400 },
            output: Lengths::Geometric { mean: 10.0, max: 60 },
            max_tokens: deadline.map(|_| 30),
            prefixes: prefixes.map(|(count, tokens, share)| Prefixes { count, tokens, share }),
            cancels: Some(Cancels { share: cancel_share, after: Duration::from_millis(300) }),
            deadline: deadline.map(Duration::from_secs_f64),
            ..Traffic::default()
        };
        let simulation = Simulation::builder()
            .traffic(traffic("a", Arrivals::Poisson { per_second: rate }))
            .traffic(traffic("b", Arrivals::Bursts { per_second: rate, size: burst }))
            .seed(seed)
            .build()
            .expect("valid options");
        let builder = ContinuousScheduler::builder()
            .max_batched_tokens(budget)
            .max_num_seqs(seats)
            .max_queue(max_queue);
        let mut scheduler = builder.build().expect("valid options");
        let mut kv = kv(blocks);
        let report = simulation.run(&mut scheduler, &mut kv).expect("runs to its end");
        let outcomes = report.requests;
        let refused = outcomes.refused + outcomes.refused_too_long;
        prop_assert_eq!(outcomes.total, 120);
        prop_assert_eq!(outcomes.finished + refused + outcomes.cut_short(), 120);
        prop_assert_eq!(outcomes.lost, 0);
        prop_assert_eq!(kv.stats().held_blocks, 0);
        prop_assert_eq!(scheduler.kv_errors(), 0);
        prop_assert_eq!(report.preemptions.total, scheduler.counts().preemptions);
        prop_assert_eq!(report.e2e.count, outcomes.finished);
        prop_assert!(report.ttft.max <= report.e2e.max || outcomes.finished < 120);
        for share in [report.fairness, report.utilisation.budget, report.utilisation.kv_peak] {
            prop_assert!((0.0..=1.0).contains(&share), "{}", share);
        }
        let tenants: u64 = report.tenants.iter().map(|tenant| tenant.requests.total).sum();
        prop_assert_eq!(tenants, 120);
    }
}

/// A recorded trace may begin whenever it was recorded: the drawing begins with its first request.
#[test]
fn the_timeline_begins_with_the_first_request() {
    let requests = |begin: u64| {
        (0..100)
            .map(|n| at(begin + n * 100, 8, 20))
            .collect::<Vec<_>>()
    };
    let report = |begin| replay(requests(begin), ContinuousScheduler::builder(), 64);
    let (early, late) = (report(0), report(1_700_000_000_000));
    assert!(early.timeline.len() > 250, "{}", early.timeline.len());
    assert_eq!(late.timeline, early.timeline);
}

#[test]
fn a_cost_that_is_no_time_is_refused() {
    let build = |cost| Simulation::builder().cost(cost).build().err();
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        let cost = LinearCost {
            decode_ms: wrong,
            ..LinearCost::default()
        };
        assert!(
            matches!(build(cost), Some(SimulationBuildError::Cost(_))),
            "{wrong}"
        );
    }
    assert_eq!(build(LinearCost::default()), None);
}
