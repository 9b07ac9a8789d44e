//! More is asked for than the cache holds: how near does admission come to the best there is?

use llmserve_core::{IdentityRoot, KvManager};
use llmserve_kv::PagedKv;
use llmserve_sched::simulation::{Arrivals, Lengths, LinearCost, Report, Simulation, Traffic};
use llmserve_sched::{ContinuousScheduler, SchedulerBuilder};

const SEATS: usize = 128;
const PROMPT: f64 = 200.0;
const OUTPUT: f64 = 200.0;
const BLOCK: usize = 16;

/// A quarter of what all seats would hold if each had a whole request.
const BLOCKS: usize = SEATS * (PROMPT + OUTPUT) as usize / BLOCK / 4;

/// What is asked, and of whom.
#[derive(Clone, Copy)]
struct Case {
    /// What requests announce; none for what they will generate.
    max_tokens: Option<usize>,
    /// The fewer prompt tokens a second, the dearer a preemption.
    prefill_tokens_per_s: f64,
}

fn run(case: Case, scheduler: SchedulerBuilder) -> Report {
    let simulation = Simulation::builder()
        .traffic(Traffic {
            requests: 1500,
            arrivals: Arrivals::AtOnce,
            prompt: Lengths::LogNormal {
                mean: PROMPT,
                sigma: 0.7,
                max: 2000,
            },
            output: Lengths::Geometric {
                mean: OUTPUT,
                max: 1000,
            },
            max_tokens: case.max_tokens,
            ..Traffic::default()
        })
        .cost(LinearCost {
            prefill_tokens_per_s: case.prefill_tokens_per_s,
            ..LinearCost::default()
        })
        .seed(5)
        .build()
        .expect("valid options");
    let mut scheduler = scheduler.max_queue(None).build().expect("valid options");
    let mut kv = PagedKv::builder()
        .blocks(BLOCKS)
        .block_size(BLOCK)
        .root(IdentityRoot::new(1, "simulated", BLOCK))
        .build()
        .expect("valid options");
    let report = simulation
        .run(&mut scheduler, &mut kv)
        .expect("runs to its end");
    assert_eq!(report.requests.finished, 1500);
    assert_eq!(kv.stats().held_blocks, 0);
    report
}

/// The throughput of the best fixed limit of running sequences, and which it is: every fourth
/// limit, then those around the best.
fn best_fixed(case: Case) -> (f64, usize) {
    let rate = |seats: usize| {
        let builder = ContinuousScheduler::builder().max_num_seqs(seats);
        let report = run(case, builder.reservation(None));
        (report.throughput.generated_per_s, seats)
    };
    let best = |limits: Vec<usize>| {
        let rates = limits.into_iter().map(rate);
        rates
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .expect("some limits")
    };
    let coarse = best((12..=80).step_by(4).collect());
    let fine = (coarse.1 - 3..=coarse.1 + 3).filter(|seats| *seats != coarse.1);
    let fine = best(fine.collect());
    if fine.0 > coarse.0 { fine } else { coarse }
}

fn compare(what: &str, case: Case) {
    let (best, limit) = best_fixed(case);
    let builder = || ContinuousScheduler::builder().max_num_seqs(SEATS);
    let adaptive = run(case, builder());
    let greedy = run(case, builder().reservation(None));
    let rate = |report: &Report| report.throughput.generated_per_s;
    println!(
        "{what}, {} prompt tokens/s: {:.0} tokens/s with {} preemptions (p99 {}), {:.1} % of the best fixed limit \
         ({limit} at once, {best:.0} tokens/s); without reservation {:.0} tokens/s with {} (p99 {})",
        case.prefill_tokens_per_s,
        rate(&adaptive),
        adaptive.preemptions.total,
        adaptive.preemptions.p99,
        100.0 * rate(&adaptive) / best,
        rate(&greedy),
        greedy.preemptions.total,
        greedy.preemptions.p99,
    );
    assert!(
        rate(&adaptive) >= 0.9 * best,
        "{} of {best} tokens/s",
        rate(&adaptive)
    );
    assert!(adaptive.preemptions.p99 <= 3, "{:?}", adaptive.preemptions);
    assert!(adaptive.preemptions.total < greedy.preemptions.total);
}

#[test]
fn a_cache_for_a_quarter_of_the_demand_serves_as_much_as_the_best_fixed_limit() {
    for prefill_tokens_per_s in [20_000.0, 4000.0] {
        let case = Case {
            max_tokens: None,
            prefill_tokens_per_s,
        };
        compare("answers as long as announced", case);
    }
}

#[test]
fn so_it_does_when_requests_announce_far_more_than_they_generate() {
    for prefill_tokens_per_s in [20_000.0, 4000.0] {
        let case = Case {
            max_tokens: Some(1000),
            prefill_tokens_per_s,
        };
        compare("answers of unknown length", case);
    }
}
