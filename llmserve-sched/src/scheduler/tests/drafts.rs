//! Drafts take what is left over.

use llmserve_core::{End, KvManager, RowOutcome, Scheduler, StepOutcome};

use crate::ContinuousScheduler;
use crate::testing::{Call, Rig, id};

/// Runs the plan's only row, of which `accepted` drafts and one more token come out.
fn commit(rig: &mut Rig, accepted: usize) {
    let row = rig.plan.rows[0];
    let outcome = StepOutcome {
        rows: vec![RowOutcome {
            id: row.id,
            computed: row.start + 1 + accepted,
            first_token: 0,
            new_tokens: accepted + 1,
        }],
        tokens: vec![7; accepted + 1],
        ..StepOutcome::default()
    };
    rig.scheduler.commit(&outcome, &mut rig.kv);
}

fn prefilled(tokens: usize, max_new: usize, blocks: usize) -> Rig {
    let mut rig = Rig::new(ContinuousScheduler::builder(), blocks);
    rig.submit(0, tokens, max_new);
    rig.step();
    rig
}

#[test]
fn a_decode_row_is_as_long_as_its_drafts_and_one() {
    let mut rig = prefilled(20, 50, 10);
    rig.scheduler.offer(id(0), 3);
    assert_eq!(rig.plan(), [(0, 4)]);
    let row = rig.plan.rows[0];
    assert_eq!((row.start, row.drafts, row.samples), (20, 3, true));
    commit(&mut rig, 1);
    // The token after the accepted one is next; an offer is good for one plan.
    assert_eq!(rig.plan(), [(0, 1)]);
    assert_eq!((rig.plan.rows[0].start, rig.plan.rows[0].drafts), (22, 0));
}

#[test]
fn blocks_of_rejected_drafts_are_given_back_and_those_of_accepted_ones_kept() {
    let mut rig = prefilled(15, 50, 10);
    rig.scheduler.offer(id(0), 20);
    assert_eq!(rig.plan(), [(0, 21)]);
    assert_eq!(rig.held(), 3);
    commit(&mut rig, 3);
    assert_eq!(rig.held(), 2, "19 positions are computed");
    rig.scheduler.offer(id(0), 20);
    rig.plan();
    commit(&mut rig, 20);
    assert_eq!(rig.held(), 3);
    let appended = rig
        .kv
        .calls
        .iter()
        .filter(|call| matches!(call, Call::Append(..)));
    assert_eq!(
        appended.count(),
        1 + 4 + 21,
        "drafts that were rejected are never known"
    );
    rig.end(0, End::Done);
    assert_eq!(rig.held(), 0);
}

#[test]
fn drafts_are_cut_to_the_budget_that_is_left() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(8), 20);
    rig.submit(0, 4, 50);
    rig.submit(1, 4, 50);
    rig.step();
    for slot in [0, 1] {
        rig.scheduler.offer(id(slot), 4);
    }
    // Both decodes, and a prompt, come before any draft.
    rig.submit(2, 3, 50);
    assert_eq!(rig.plan(), [(0, 4), (1, 1), (2, 3)]);
}

#[test]
fn drafts_that_find_too_few_blocks_are_cut_to_those_at_hand() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 3);
    rig.submit(0, 10, 50);
    rig.submit(1, 10, 50);
    rig.step();
    rig.scheduler.offer(id(0), 30);
    rig.scheduler.offer(id(1), 20);
    // One block is free: 30 drafts need two more and take it; 20 need one and find none.
    assert_eq!(rig.plan(), [(0, 22), (1, 6)]);
    assert!(rig.preempted().is_empty());
    assert_eq!(rig.held(), 3);
}

#[test]
fn blocks_that_a_running_prefill_has_yet_to_take_are_not_for_drafts() {
    let mut rig = Rig::new(ContinuousScheduler::builder().long_prefill_threshold(16), 5);
    rig.submit(0, 10, 50);
    rig.step();
    rig.scheduler.offer(id(0), 20);
    rig.submit(1, 60, 4);
    assert_eq!(rig.plan(), [(0, 6), (1, 16)]);
    assert_eq!(rig.held(), 2);
}

#[test]
fn drafts_stop_before_the_last_token() {
    let mut rig = prefilled(4, 4, 10);
    rig.scheduler.offer(id(0), 9);
    assert_eq!(rig.plan(), [(0, 3)], "two drafts and their bonus make four");
}

#[test]
fn a_row_with_drafts_in_flight_holds_its_sequence_back() {
    let mut rig = prefilled(4, 40, 10);
    rig.scheduler.offer(id(0), 3);
    assert_eq!(rig.plan(), [(0, 4)]);
    let first = rig.plan.rows.clone();
    assert_eq!(rig.plan(), [], "nobody knows how many tokens come");
    rig.plan.rows = first;
    commit(&mut rig, 3);
    assert_eq!(rig.plan(), [(0, 1)]);
}

#[test]
fn an_offer_to_one_that_was_preempted_or_has_ended_is_forgotten() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    rig.step();
    rig.scheduler.offer(id(1), 3);
    assert_eq!(rig.step(), [(0, 1)]);
    assert_eq!(rig.preempted(), [1]);
    rig.end(0, End::Done);
    rig.scheduler.offer(id(0), 3);
    assert_eq!(rig.step(), [(1, 81)]);
    assert_eq!(rig.kv.available(), 4);
}
