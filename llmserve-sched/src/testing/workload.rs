//! Random jobs and limits.

use proptest::prelude::*;

use super::simulator::Job;
use crate::SchedulerConfig;

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
    (
        0..25usize,
        prompt,
        1..16usize,
        1..4usize,
        -2..3i32,
        chunk,
        cancel,
    )
        .prop_map(
            |(arrival, (family, shared, own), max_new, choices, priority, max_chunk, cancel)| Job {
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
                cancel,
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
    )
        .prop_map(
            |(budget, seqs, max_queue, threshold, chunked, watermark)| SchedulerConfig {
                max_batched_tokens: budget,
                max_num_seqs: seqs,
                max_queue,
                long_prefill_threshold: threshold.filter(|_| chunked),
                chunked_prefill: chunked,
                watermark,
            },
        )
}
