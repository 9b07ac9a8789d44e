//! Random workloads through a simulated host and device.

use proptest::prelude::*;

use crate::ContinuousScheduler;
use crate::testing::FakeKv;
use crate::testing::simulator::{Job, Manners, simulate};
use crate::testing::workload::{BLOCK, config, jobs, policy};

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
        drafts in any::<bool>(),
    ) {
        let manners = Manners { depth, fail_every, drafts };
        let run = || {
            let builder = ContinuousScheduler::builder().config(config.clone()).policy(policy());
            let mut scheduler = builder.build().expect("valid options");
            let mut kv = FakeKv::new(blocks, BLOCK, caching);
            let report = simulate(&mut scheduler, &mut kv, jobs.clone(), manners);
            assert_eq!(scheduler.kv_errors(), 0);
            report
        };
        let report = run();
        let total = report.finished
            + report.refused
            + report.cancelled
            + report.expired
            + report.failed;
        prop_assert_eq!(total, jobs.len());
        prop_assert_eq!(run(), report, "the same calls give the same plans");
    }
}

/// The workloads above are about nothing if drafts are never planned, or never wrong.
#[test]
fn some_drafts_are_right_and_some_are_not() {
    let job = |arrival: usize| Job {
        arrival,
        prompt: (0..9).collect(),
        max_new: 30,
        choices: 1,
        priority: 0,
        max_chunk: None,
        tenant: None,
        deadline: None,
        cancel: None,
    };
    let mut scheduler = ContinuousScheduler::builder()
        .build()
        .expect("valid options");
    let mut kv = FakeKv::new(100, BLOCK, true);
    let manners = Manners {
        drafts: true,
        ..Manners::default()
    };
    let report = simulate(&mut scheduler, &mut kv, (0..5).map(job).collect(), manners);
    let (right, all) = report.drafts;
    assert!(20 < right && right + 20 < all, "{right} of {all}");
}
