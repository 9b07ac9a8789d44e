//! More is asked for than the cache holds: how near does admission come to the best there is?

use llmserve_core::{IdentityRoot, KvManager};
use llmserve_kv::PagedKv;
use llmserve_sched::simulation::{Arrivals, Lengths, LinearCost, Report, Simulation, Traffic};
use llmserve_sched::{ContinuousScheduler, SchedulerBuilder};

const SEATS: usize = 128;
const REQUESTS: u64 = 1500;
const PROMPT: usize = 200;
const BLOCK: usize = 16;

/// What is asked, and of whom.
#[derive(Clone, Copy)]
struct Case {
    seed: u64,
    output: Lengths,
    /// Mean of [`output`](Self::output).
    mean: usize,
    /// The fewer prompt tokens a second, the dearer a preemption.
    prefill_tokens_per_s: f64,
}

/// `announced` is the `max_tokens` of requests; none for what they will generate.
fn run(case: Case, announced: Option<usize>, scheduler: SchedulerBuilder) -> Report {
    let simulation = Simulation::builder()
        .traffic(Traffic {
            requests: REQUESTS,
            arrivals: Arrivals::AtOnce,
            prompt: Lengths::LogNormal {
                mean: PROMPT as f64,
                sigma: 0.7,
                max: 2000,
            },
            output: case.output,
            max_tokens: announced,
            ..Traffic::default()
        })
        .cost(LinearCost {
            prefill_tokens_per_s: case.prefill_tokens_per_s,
            ..LinearCost::default()
        })
        .seed(case.seed)
        .build()
        .expect("valid options");
    let mut scheduler = scheduler.max_queue(None).build().expect("valid options");
    // A quarter of what all seats would hold if each had a whole request.
    let blocks = SEATS * (PROMPT + case.mean) / BLOCK / 4;
    let mut kv = PagedKv::builder()
        .blocks(blocks)
        .block_size(BLOCK)
        .root(IdentityRoot::new(1, "simulated", BLOCK))
        .build()
        .expect("valid options");
    let report = simulation
        .run(&mut scheduler, &mut kv)
        .expect("runs to its end");
    assert_eq!(report.requests.finished, REQUESTS);
    assert_eq!(kv.stats().held_blocks, 0);
    report
}

fn rate(report: &Report) -> f64 {
    report.throughput.generated_per_s
}

/// The throughput of the best fixed limit of running sequences, and which it is: every fourth
/// limit, then those around the best.
fn best_fixed(case: Case) -> (f64, usize) {
    let fixed = |seats: usize| {
        let builder = ContinuousScheduler::builder().max_num_seqs(seats);
        (rate(&run(case, None, builder.reservation(None))), seats)
    };
    let best = |limits: Vec<usize>| {
        let rates = limits.into_iter().map(fixed);
        rates
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .expect("some limits")
    };
    let coarse = best((20..=64).step_by(4).collect());
    let fine = [-2, -1, 1, 2].map(|by| coarse.1.saturating_add_signed(by));
    let fine = best(fine.to_vec());
    if fine.0 > coarse.0 { fine } else { coarse }
}

/// Requests that announce what they generate, and requests that announce far more.
fn compare(what: &str, case: Case) {
    let (best, limit) = best_fixed(case);
    let builder = || ContinuousScheduler::builder().max_num_seqs(SEATS);
    let greedy = run(case, None, builder().reservation(None));
    for announced in [None, Some(3000)] {
        let adaptive = run(case, announced, builder());
        println!(
            "{what}, announced: {announced:?}, {} prompt tokens/s: {:.0} tokens/s with {} preemptions \
             (p99 {}), {:.1} % of the best fixed limit ({limit} at once, {best:.0} tokens/s); \
             without reservation {:.1} % with {} (p99 {})",
            case.prefill_tokens_per_s,
            rate(&adaptive),
            adaptive.preemptions.total,
            adaptive.preemptions.p99,
            100.0 * rate(&adaptive) / best,
            100.0 * rate(&greedy) / best,
            greedy.preemptions.total,
            greedy.preemptions.p99,
        );
        assert!(
            rate(&adaptive) >= 0.93 * best,
            "{} of {best} tokens/s",
            rate(&adaptive)
        );
        assert!(adaptive.preemptions.p99 <= 3, "{:?}", adaptive.preemptions);
        assert!(2 * adaptive.preemptions.total < greedy.preemptions.total);
    }
}

/// Some end soon and some late, and nobody knows which.
fn geometric(seed: u64, prefill_tokens_per_s: f64) -> Case {
    Case {
        seed,
        output: Lengths::Geometric {
            mean: 200.0,
            max: 1000,
        },
        mean: 200,
        prefill_tokens_per_s,
    }
}

#[test]
fn a_cache_for_a_quarter_of_the_demand_serves_as_much_as_the_best_fixed_limit() {
    compare("answers of any length", geometric(5, 20_000.0));
    compare("answers of any length", geometric(6, 4000.0));
    compare("answers of any length", geometric(7, 20_000.0));
}

/// Who came together ends together.
#[test]
fn so_it_does_when_all_answers_are_of_one_length() {
    for (seed, prefill_tokens_per_s) in [(8, 20_000.0), (9, 4000.0)] {
        let case = Case {
            seed,
            output: Lengths::Fixed { tokens: 200 },
            mean: 200,
            prefill_tokens_per_s,
        };
        compare("answers of 200 tokens", case);
    }
}

/// Most of the cache is answers.
#[test]
fn so_it_does_when_answers_are_far_longer_than_prompts() {
    let output = Lengths::Geometric {
        mean: 600.0,
        max: 3000,
    };
    let case = Case {
        seed: 10,
        output,
        mean: 600,
        prefill_tokens_per_s: 20_000.0,
    };
    compare("long answers", case);
}
