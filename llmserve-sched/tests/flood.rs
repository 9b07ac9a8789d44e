//! One tenant floods, another asks now and then: what the second one feels.

use llmserve_core::{IdentityRoot, KvManager};
use llmserve_kv::PagedKv;
use llmserve_sched::simulation::{
    Arrivals, CostModel, Lengths, LinearCost, Report, Simulation, StepLoad, TenantReport, Traffic,
};
use llmserve_sched::{ContinuousScheduler, Fairness, SchedulerBuilder};

const BUDGET: usize = 2048;

/// Steps, rows and prompts of a machine that is busy with some fifty of these requests a second.
const COST: LinearCost = LinearCost {
    prefill_tokens_per_s: 20_000.0,
    decode_ms: 10.0,
    row_ms: 0.05,
};

const SHORT: Lengths = Lengths::Geometric {
    mean: 100.0,
    max: 600,
};

/// A flood, of so many requests with such answers.
type Flood = Option<(u64, Lengths)>;

fn run(flood: Flood, scheduler: SchedulerBuilder) -> Report {
    let tenant = |name: &str, requests, arrivals, output| Traffic {
        requests,
        arrivals,
        tenant: Some(name.to_owned()),
        prompt: Lengths::LogNormal {
            mean: 200.0,
            sigma: 0.7,
            max: 2000,
        },
        output,
        ..Traffic::default()
    };
    let mut builder = Simulation::builder().cost(COST).seed(11).traffic(tenant(
        "b",
        200,
        Arrivals::Even { per_second: 1.0 },
        SHORT,
    ));
    if let Some((requests, output)) = flood {
        builder = builder.traffic(tenant("a", requests, Arrivals::AtOnce, output));
    }
    let simulation = builder.build().expect("valid options");
    let scheduler = scheduler.max_batched_tokens(BUDGET).max_queue(None);
    let mut scheduler = scheduler.build().expect("valid options");
    let mut kv = PagedKv::builder()
        .blocks(16_384)
        .root(IdentityRoot::new(1, "simulated", 16))
        .build()
        .expect("valid options");
    let report = simulation
        .run(&mut scheduler, &mut kv)
        .expect("runs to its end");
    let flooded = flood.map_or(0, |(requests, _)| requests);
    assert_eq!(report.requests.finished, 200 + flooded);
    assert_eq!(kv.stats().held_blocks, 0);
    report
}

fn b(report: &Report) -> &TenantReport {
    let mut tenants = report.tenants.iter();
    let b = tenants.find(|tenant| tenant.name.as_deref() == Some("b"));
    b.expect("b has sent requests")
}

/// The longest a step of the whole budget takes: a full batch decodes beside prompts.
fn full_step(seats: usize) -> f64 {
    let mut load = StepLoad::default();
    load.decode_rows = seats;
    load.prefill_tokens = BUDGET - seats;
    COST.step_time(&load).as_secs_f64()
}

#[test]
fn a_flood_of_two_thousand_costs_the_other_two_steps_when_tenants_take_turns() {
    let plain = ContinuousScheduler::builder;
    let fair = || plain().fairness(Fairness::default());
    let alone = run(None, plain());
    let flood = || Some((2000, SHORT));
    let turns = run(flood(), fair());
    let fcfs = run(flood(), plain());
    let [alone_s, turns_s, fcfs_s] = [&alone, &turns, &fcfs].map(|report| b(report).ttft.p99);
    println!(
        "p99 of b's time to first token: alone {alone_s:.3} s, in turns {turns_s:.3} s, \
         first come first served {fcfs_s:.3} s; fairness {:.3} and {:.3}; of all {:.3} and {:.3}",
        turns.fairness, fcfs.fairness, turns.ttft.p99, fcfs.ttft.p99
    );
    let bound = alone_s + 2.0 * full_step(256);
    assert!(turns_s <= bound, "{turns_s} s, the bound is {bound} s");
    // It is turns that do it: whoever comes first is served first, and there are 2,000 before.
    assert!(fcfs_s > 20.0 * bound, "{fcfs_s} s");
    assert!(
        turns.fairness > 0.98 && fcfs.fairness < 0.7,
        "{} {}",
        turns.fairness,
        fcfs.fairness
    );
    // What it costs the others together: next to nothing.
    let rate = |report: &Report| report.throughput.generated_per_s;
    assert!(rate(&turns) > 0.98 * rate(&fcfs));
}

/// The flooder's answers are long and end all at once, and it has every seat: nobody would have
/// one for a thousand steps. The bound is the same, because one without a seat takes one from who
/// has more than its share.
#[test]
fn so_it_does_when_answers_are_long_and_all_seats_are_taken() {
    let fair = |fairness: Fairness| ContinuousScheduler::builder().fairness(fairness);
    let alone = run(None, fair(Fairness::default()));
    let bound = b(&alone).ttft.p99 + 2.0 * full_step(256);
    for output in [
        Lengths::Fixed { tokens: 1000 },
        Lengths::Uniform {
            min: 1000,
            max: 1500,
        },
    ] {
        let flood = || Some((2000, output));
        let takes = run(flood(), fair(Fairness::default()));
        let waits = run(flood(), fair(Fairness::default().reclaims(false)));
        let rate = |report: &Report| report.throughput.generated_per_s;
        println!(
            "answers of {output:?}: p99 of b's time to first token {:.3} s (at most {:.3} s, bound \
             {bound:.3} s), {} preemptions (p99 {}); waiting for a seat {:.3} s; tokens/s {:.0} and {:.0}",
            b(&takes).ttft.p99,
            b(&takes).ttft.max,
            takes.preemptions.total,
            takes.preemptions.p99,
            b(&waits).ttft.p99,
            rate(&takes),
            rate(&waits),
        );
        assert!(b(&takes).ttft.p99 <= bound);
        assert!(b(&waits).ttft.p99 > 4.0 * bound);
        assert!(takes.preemptions.max <= 3);
        assert!(rate(&takes) > 0.95 * rate(&waits));
    }
}
