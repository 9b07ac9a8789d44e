//! Random jobs and limits.

use proptest::prelude::*;

use super::simulator::{Job, LONGEST_DELAY};
use crate::policy::MaxNewTokens;
use crate::{
    Displacing, EarliestDeadline, Fairness, Fcfs, LongestPrefix, Policy, Priority, Reservation,
    SchedulerConfig, ShortestPredicted,
};

/// Tokens a block holds.
pub(crate) const BLOCK: usize = 4;

/// Jobs within what fits the cache; a host keeps prompt and answer within it.
pub(crate) fn jobs(blocks: usize) -> impl Strategy<Value = Vec<Job>> {
    let fits = move |job: &Job| job.prompt.len() + job.max_new <= blocks * BLOCK;
    prop::collection::vec(job(), 1..20)
        .prop_map(move |jobs| jobs.into_iter().filter(fits).collect())
}

fn job() -> impl Strategy<Value = Job> {
    let prompt = (0..3u32, 1..40usize, 0..20usize);
    let cancel = prop::option::weighted(0.15, 0..30usize);
    let chunk = prop::option::weighted(0.2, 1..9usize);
    let tenant = (
        prop::option::of(0..3u8),
        prop::option::weighted(0.1, 1..60usize),
    );
    (
        0..25usize,
        prompt,
        1..16usize,
        1..4usize,
        -2..3i32,
        chunk,
        (cancel, tenant),
    )
        .prop_map(
            |(arrival, (family, shared, own), max_new, choices, priority, max_chunk, last)| Job {
                arrival,
                // Families share prefixes of up to forty tokens.
                prompt: (0..shared as u32)
                    .map(|at| family * 100 + at)
                    .chain((0..own).map(|at| 1000 + (arrival * 31 + at * 7) as u32))
                    .collect(),
                max_new,
                choices,
                priority,
                max_chunk,
                cancel: last.0,
                tenant: last.1.0,
                deadline: last.1.1,
            },
        )
}

pub(crate) fn config() -> impl Strategy<Value = SchedulerConfig> {
    let threshold = prop::option::of(1..20usize);
    (
        1..64usize,
        1..9usize,
        prop::option::of(1..12usize),
        threshold,
        any::<bool>(),
        0.0..0.3f64,
        pressure(),
    )
        .prop_map(
            |(budget, seqs, max_queue, threshold, chunked, watermark, pressure)| SchedulerConfig {
                max_batched_tokens: budget,
                max_num_seqs: seqs,
                max_queue,
                long_prefill_threshold: threshold.filter(|_| chunked),
                chunked_prefill: chunked,
                watermark,
                ..pressure
            },
        )
}

/// The limits that are about many at once.
fn pressure() -> impl Strategy<Value = SchedulerConfig> {
    let reservation = prop::option::of((0.0..1.0f64, 1..50u32, 0.0..0.5f64));
    let fairness = prop::option::of((1..200usize, 0.2..4.0f64, 0.0..1.0f64));
    let tokens = prop::option::weighted(0.3, 1..200usize);
    let delay = 0..LONGEST_DELAY as u64;
    (reservation, fairness, tokens, delay).prop_map(|(reservation, fairness, tokens, delay)| {
        let reservation = reservation.map(|(initial, decay_steps, rise)| Reservation {
            initial,
            least: initial / 3.0,
            decay_steps,
            rise,
            margin: rise / 2.0,
            ..Reservation::default()
        });
        let fairness = fairness.map(|(quantum, weight, cost)| {
            let fairness = Fairness::default().quantum(quantum);
            fairness.weight("tenant 1", weight).cached_cost(cost)
        });
        SchedulerConfig {
            reservation,
            fairness,
            max_queue_tokens: tokens,
            admission_delay: std::time::Duration::from_millis(delay),
            ..SchedulerConfig::default()
        }
    })
}

/// Every policy there is.
pub(crate) fn policy() -> impl Strategy<Value = fn() -> Box<dyn Policy>> {
    let policies: [fn() -> Box<dyn Policy>; 9] = [
        || Box::new(Fcfs),
        || Box::new(Priority),
        || Box::new(Displacing(Priority)),
        || Box::new(EarliestDeadline),
        || Box::new(Displacing(EarliestDeadline)),
        || Box::new(LongestPrefix),
        || Box::new(Displacing(LongestPrefix)),
        || Box::new(ShortestPredicted::by(MaxNewTokens)),
        || Box::new(<ShortestPredicted>::default()),
    ];
    prop::sample::select(policies.to_vec())
}
