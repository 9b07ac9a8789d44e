//! Random workloads through a simulated host and device.

use proptest::prelude::*;

use crate::ContinuousScheduler;
use crate::testing::FakeKv;
use crate::testing::simulator::simulate;
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
    ) {
        let run = || {
            let builder = ContinuousScheduler::builder().config(config.clone()).policy(policy());
            let mut scheduler = builder.build().expect("valid options");
            let mut kv = FakeKv::new(blocks, BLOCK, caching);
            let report = simulate(&mut scheduler, &mut kv, jobs.clone(), depth, fail_every);
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
