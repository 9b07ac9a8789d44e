//! What drafts take from the real KV manager: nothing that is worth something, but for one block.

use llmserve_core::{
    IdentityRoot, KvManager, PrefixScope, RowOutcome, SchedRequest, Scheduler, SequenceId,
    StepOutcome, StepPlan, Time,
};
use llmserve_kv::PagedKv;
use llmserve_sched::ContinuousScheduler;

const BLOCK: usize = 4;

/// The drafts of a row that is offered many, and what was evicted for them: of `blocks` blocks, four
/// are idle and cache something, and the row's sequence holds two, three slots of the second free.
fn drafted(blocks: usize) -> (usize, u64) {
    let root = IdentityRoot::new(1, "drafts", BLOCK);
    let builder = PagedKv::builder().blocks(blocks).block_size(BLOCK);
    let mut kv = builder.root(root).build().unwrap();
    let (earlier, id) = (SequenceId::new(0, 0), SequenceId::new(1, 0));
    kv.open(earlier, &[1; 4 * BLOCK], PrefixScope::default())
        .unwrap();
    kv.allocate(earlier, 4 * BLOCK).unwrap();
    kv.seal(earlier, 4 * BLOCK).unwrap();
    kv.close(earlier);
    assert_eq!(kv.stats().cached_idle_blocks, 4);

    let mut scheduler = ContinuousScheduler::builder().build().unwrap();
    let mut plan = StepPlan::default();
    kv.open(id, &[2; BLOCK], PrefixScope::default()).unwrap();
    let request = SchedRequest::new(id, BLOCK, 100);
    scheduler.submit(request, &kv).unwrap();
    scheduler.plan(&mut kv, Time::ZERO, &mut plan);
    let outcome = StepOutcome {
        rows: vec![RowOutcome {
            id,
            computed: BLOCK,
            first_token: 0,
            new_tokens: 1,
        }],
        tokens: vec![3],
        ..StepOutcome::default()
    };
    scheduler.commit(&outcome, &mut kv);
    scheduler.offer(id, 4 * BLOCK);
    scheduler.plan(&mut kv, Time::ZERO, &mut plan);
    assert_eq!(plan.rows[0].start, BLOCK);
    (plan.rows[0].drafts, kv.stats().evictions)
}

#[test]
fn drafts_take_blank_blocks_and_evict_no_more_than_the_next_one() {
    // Blank ones for all: 16 drafts after the first of the second block take four more.
    assert_eq!(drafted(10), (16, 0));
    // For some.
    assert_eq!(drafted(8), (3 + 2 * BLOCK, 0));
    assert_eq!(drafted(7), (3 + BLOCK, 0));
    // For none: the block that the sequence's next tokens are going to need.
    assert_eq!(drafted(6), (3 + BLOCK, 1));
}
