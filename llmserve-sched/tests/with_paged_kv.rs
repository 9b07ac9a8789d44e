//! The scheduler over the real KV manager: random arrivals, cancellations, priorities, choices,
//! budgets, drafts and failures, in a cache that is too small, with up to two plans in flight.
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

use simulator::{Job, Manners, Report, simulate};
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
    manners: Manners,
) -> Report {
    let builder = ContinuousScheduler::builder().config(config).policy(policy);
    let mut scheduler = builder.build().expect("valid options");
    let mut kv = paged_kv(blocks, caching);
    let report = simulate(&mut scheduler, &mut kv, jobs.to_vec(), manners);
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
        drafts in any::<bool>(),
    ) {
        let manners = Manners { depth, fail_every, drafts };
        let report = run(config, policy(), (blocks, caching), &jobs, manners);
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
        drafts in any::<bool>(),
    ) {
        let manners = Manners { depth, drafts, fail_every: None };
        let config = SchedulerConfig { max_queue: None, max_queue_tokens: None, ..config };
        let endless = |job| Job { cancel: None, deadline: None, ..job };
        let jobs: Vec<_> = jobs.into_iter().map(endless).collect();
        let together = run(config.clone(), policy(), (40, true), &jobs, manners);
        let mut alone = std::collections::BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            let report = run(config.clone(), Fcfs, (40, false), std::slice::from_ref(job), Manners::default());
            alone.extend(report.texts.into_iter().map(|((_, choice), text)| ((index, choice), text)));
        }
        prop_assert_eq!(together.texts, alone);
    }
}

/// What others may be served while one request waits, in the whole scheduler: tenants with any
/// number of requests of any length, and one that comes at any time.
mod turns {
    use super::*;
    use llmserve_core::{
        End, PrefixScope, RowOutcome, SchedRequest, Scheduler, SequenceId, StepOutcome, StepPlan,
        Time,
    };

    const ONE: usize = 4;

    /// Prompt tokens of each tenant that were admitted while the one waited, and the longest
    /// prompt of each.
    fn served_before(
        floods: &[Vec<(usize, usize)>],
        (arrives, prompt): (usize, usize),
        config: SchedulerConfig,
    ) -> Vec<(usize, usize)> {
        let builder = ContinuousScheduler::builder().config(config);
        let mut scheduler = builder.build().expect("valid options");
        let mut kv = paged_kv(4000, false);
        let mut owners = Vec::new();
        let mut left = Vec::new();
        let mut submit =
            |scheduler: &mut ContinuousScheduler, kv: &mut PagedKv, tenant, prompt, output| {
                let id = SequenceId::new(owners.len() as u32, 0);
                let tokens: Vec<u32> = (0..prompt as u32)
                    .map(|at| at * 64 + owners.len() as u32)
                    .collect();
                kv.open(id, &tokens, PrefixScope::default())
                    .expect("a fresh id");
                let mut request = SchedRequest::new(id, prompt, output);
                request.tenant = Some(format!("tenant {tenant}").into());
                scheduler.submit(request, kv).expect("no limit");
                owners.push((tenant, prompt));
                (id, output)
            };
        for (tenant, flood) in floods.iter().enumerate() {
            for (prompt, output) in flood {
                left.push(submit(&mut scheduler, &mut kv, tenant, *prompt, *output).1);
            }
        }
        let mut served: Vec<_> = floods
            .iter()
            .map(|flood| {
                (
                    0,
                    flood.iter().map(|(prompt, _)| *prompt).max().unwrap_or(0),
                )
            })
            .collect();
        let (mut plan, mut outcome) = (StepPlan::default(), StepOutcome::default());
        let mut waits = None;
        for step in 0.. {
            assert!(step < 20_000, "it starves");
            if step == arrives {
                let (id, output) = submit(&mut scheduler, &mut kv, ONE, prompt, 5);
                left.push(output);
                waits = Some(id);
            }
            scheduler.plan(&mut kv, Time::from_millis(step as u64), &mut plan);
            for admission in &plan.admitted {
                if waits == Some(admission.id) {
                    return served;
                }
                let flood = floods.iter().enumerate();
                let ends = flood.scan(0, |end, (tenant, flood)| {
                    *end += flood.len();
                    Some((tenant, *end))
                });
                let tenant = ends
                    .filter(|(_, end)| admission.id.slot() < *end)
                    .map(|(t, _)| t)
                    .next();
                if let (Some(tenant), Some(_), false) = (tenant, waits, admission.resumed) {
                    let all: Vec<_> = floods.concat();
                    served[tenant].0 += all[admission.id.slot()].0;
                }
            }
            outcome.clear();
            for row in &plan.rows {
                let new_tokens = usize::from(row.samples);
                outcome.rows.push(RowOutcome {
                    id: row.id,
                    computed: row.start + row.len,
                    first_token: outcome.tokens.len(),
                    new_tokens,
                });
                outcome.tokens.extend(row.samples.then_some(7));
                let left = &mut left[row.id.slot()];
                *left -= new_tokens;
                if *left == 0 {
                    outcome.ended.push((row.id, End::Done));
                }
            }
            scheduler.commit(&outcome, &mut kv);
        }
        unreachable!("a step above returns")
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(200)
        })]

        #[test]
        fn one_request_waits_for_a_turn_of_each_other_tenant_at_most(
            floods in prop::collection::vec(
                prop::collection::vec((1..60usize, 1..40usize), 1..30),
                1..ONE,
            ),
            one in (0..60usize, 1..60usize),
            budget in 8..200usize,
            seats in 1..20usize,
            quantum in 1..200usize,
        ) {
            let config = SchedulerConfig {
                max_batched_tokens: budget,
                max_num_seqs: seats,
                max_queue: None,
                fairness: Some(Fairness::default().quantum(quantum)),
                ..SchedulerConfig::default()
            };
            for (served, longest) in served_before(&floods, one, config) {
                prop_assert!(served < quantum + longest, "{served} of a turn of {quantum}");
            }
        }
    }
}
