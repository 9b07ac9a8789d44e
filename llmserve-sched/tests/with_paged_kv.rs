//! The scheduler over the real KV manager: random arrivals, cancellations, priorities, choices,
//! budgets and failures, in a cache that is too small, with up to two plans in flight.
//!
//! What is checked on the way stands in the simulator: budget, seats, contiguous rows, starvation,
//! and that every position a row reads holds what the sequence's own tokens put there.

#[path = "../src/testing/simulator.rs"]
mod simulator;
#[path = "../src/testing/workload.rs"]
mod workload;

use llmserve_core::{IdentityRoot, KvManager};
use llmserve_kv::PagedKv;
use llmserve_sched::{
    ContinuousScheduler, Displacing, EarliestDeadline, Fairness, Fcfs, LongestPrefix, Policy,
    Priority, Reservation, SchedulerConfig, ShortestPredicted, policy,
};
use proptest::prelude::*;

use simulator::{Job, Report, simulate};
use workload::{BLOCK, config, jobs, policy};

fn paged_kv(blocks: usize, caching: bool) -> PagedKv {
    PagedKv::builder()
        .blocks(blocks)
        .block_size(BLOCK)
        .root(IdentityRoot::new(1, "simulated", BLOCK))
        .prefix_caching(caching)
        .build()
        .expect("valid options")
}

fn run(
    config: SchedulerConfig,
    policy: impl Policy + 'static,
    (blocks, caching): (usize, bool),
    jobs: &[Job],
    depth: usize,
    fail_every: Option<usize>,
) -> Report {
    let builder = ContinuousScheduler::builder().config(config).policy(policy);
    let mut scheduler = builder.build().expect("valid options");
    let mut kv = paged_kv(blocks, caching);
    let report = simulate(&mut scheduler, &mut kv, jobs.to_vec(), depth, fail_every);
    assert_eq!(scheduler.kv_errors(), 0);
    kv.reset().expect("nobody holds a block");
    report
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    })]

    #[test]
    fn every_request_ends_once_with_all_its_tokens(
        (blocks, jobs) in (6..40usize).prop_flat_map(|blocks| (Just(blocks), jobs(blocks))),
        config in config(),
        policy in policy(),
        caching in any::<bool>(),
        depth in 0..3usize,
        fail_every in prop::option::weighted(0.3, 3..20usize),
    ) {
        let report = run(config, policy(), (blocks, caching), &jobs, depth, fail_every);
        let total = report.finished
            + report.refused
            + report.cancelled
            + report.expired
            + report.failed;
        prop_assert_eq!(total, jobs.len());
    }

    #[test]
    fn tokens_do_not_depend_on_what_else_is_scheduled(
        jobs in jobs(40),
        config in config(),
        depth in 0..3usize,
        policy in policy(),
    ) {
        let config = SchedulerConfig { max_queue: None, max_queue_tokens: None, ..config };
        let endless = |job| Job { cancel: None, deadline: None, ..job };
        let jobs: Vec<_> = jobs.into_iter().map(endless).collect();
        let together = run(config.clone(), policy(), (40, true), &jobs, depth, None);
        let mut alone = std::collections::BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            let report = run(config.clone(), Fcfs, (40, false), std::slice::from_ref(job), 0, None);
            alone.extend(report.texts.into_iter().map(|((_, choice), text)| ((index, choice), text)));
        }
        prop_assert_eq!(together.texts, alone);
    }
}
