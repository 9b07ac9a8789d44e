//! What a step's outcome does, in which order.

use llmserve_core::{End, KvManager, PlannedRow, RowOutcome, SchedRequest, Scheduler, StepOutcome};

use crate::ContinuousScheduler;
use crate::testing::{Call, Rig, id, with};

fn rig_with(tokens: &[usize]) -> Rig {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 100);
    for (slot, tokens) in tokens.iter().enumerate() {
        rig.submit(slot as u32, *tokens, 50);
    }
    rig
}

fn choices(slot: u32, tokens: usize, choices: usize) -> SchedRequest {
    with(SchedRequest::new(id(slot), tokens, 50), |r| {
        r.choices = choices
    })
}

#[test]
fn rows_are_sealed_then_forked_then_appended_then_ended() {
    let mut rig = rig_with(&[5]);
    rig.try_submit(choices(1, 6, 2)).expect("fits");
    rig.plan();
    rig.kv.calls.clear();
    rig.fork(1, 7, 49);
    rig.outcome.ended.push((id(0), End::Done));
    rig.outcome.ended.push((id(7), End::Failed));
    rig.commit();
    let expected = [
        Call::Seal(id(0), 5),
        Call::Seal(id(1), 6),
        Call::Fork(id(1), id(7)),
        Call::Append(id(7), 7),
        Call::Append(id(0), 0),
        Call::Append(id(1), 1),
        Call::Close(id(0)),
        Call::Revoke(id(7)),
        Call::Close(id(7)),
    ];
    assert_eq!(rig.kv.calls, expected);
    assert_eq!(rig.scheduler.kv_errors(), 0);
}

#[test]
fn a_parent_may_fork_and_end_in_one_commit() {
    let mut rig = rig_with(&[]);
    rig.try_submit(choices(0, 20, 2)).expect("fits");
    rig.plan();
    rig.fork(0, 1, 49);
    rig.outcome.ended.push((id(0), End::Done));
    rig.commit();
    assert_eq!(rig.step(), [(1, 1)]);
    assert_eq!(rig.plan.rows[0].start, 20);
    assert_eq!(rig.held(), 2);
}

#[test]
fn a_forked_choice_goes_on_where_its_parent_was() {
    let mut rig = rig_with(&[]);
    rig.try_submit(choices(0, 20, 3)).expect("fits");
    rig.plan();
    rig.fork(0, 1, 49);
    rig.fork(0, 2, 49);
    rig.commit();
    assert_eq!(rig.held(), 2, "three share the prompt's blocks");
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1)]);
    assert!(
        rig.plan
            .rows
            .iter()
            .all(|row| row.start == 20 && row.samples)
    );
    assert_eq!(rig.held(), 4, "the last block was copied twice");
}

#[test]
fn a_forked_choice_has_its_own_number_of_tokens_left() {
    let mut rig = rig_with(&[]);
    rig.try_submit(choices(0, 4, 2)).expect("fits");
    rig.plan();
    rig.fork(0, 1, 2);
    rig.commit();
    let rows: Vec<_> = (0..4).map(|_| rig.step().len()).collect();
    assert_eq!(rows, [2, 2, 1, 1]);
}

#[test]
fn a_choice_of_a_parent_that_has_ended_does_not_exist() {
    let mut rig = rig_with(&[4]);
    rig.plan();
    rig.end(0, End::Done);
    rig.fork(0, 1, 9);
    rig.commit();
    assert_eq!(rig.counts(), (0, 0));
    assert!(!rig.kv.is_open(id(1)));
}

#[test]
fn a_choice_cannot_take_a_slot_that_is_in_use() {
    let mut rig = rig_with(&[4, 4]);
    rig.plan();
    rig.fork(0, 1, 9);
    rig.fork(0, 0, 9);
    rig.commit();
    assert_eq!(rig.counts(), (2, 0));
    assert_eq!(rig.step(), [(0, 1), (1, 1)]);
}

#[test]
fn choices_that_were_not_announced_wait_for_a_seat() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_num_seqs(2), 100);
    rig.submit(0, 20, 50);
    rig.plan();
    (1..4).for_each(|child| rig.fork(0, child, 49));
    rig.commit();
    assert_eq!(rig.counts(), (2, 2));
    assert_eq!(rig.step(), [(0, 1), (1, 1)]);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 1), (2, 21)]);
    assert!(rig.plan.admitted[0].resumed);
}

#[test]
fn a_cancelled_requests_late_result_is_ignored() {
    let mut rig = rig_with(&[20, 20]);
    rig.plan();
    rig.end(0, End::Done);
    assert_eq!(rig.held(), 2, "its blocks are free");
    rig.commit();
    assert_eq!(rig.counts(), (1, 0));
    assert_eq!(rig.step(), [(1, 1)]);
    assert_eq!(rig.scheduler.kv_errors(), 0);
}

#[test]
fn a_cancelled_requests_id_can_be_used_again() {
    let mut rig = rig_with(&[20]);
    let late = rig.plan();
    assert_eq!(late, [(0, 20)]);
    rig.end(0, End::Done);
    // The very same id, then the slot's next owner: the late row is neither's.
    rig.submit(0, 30, 50);
    let before = rig.kv.calls.len();
    rig.commit();
    assert_eq!(rig.kv.calls.len(), before);
    assert_eq!(rig.step(), [(0, 30)]);
    rig.end(0, End::Done);
    let next = with(SchedRequest::new(id(0), 40, 50), |r| {
        r.id = llmserve_core::SequenceId::new(0, 1)
    });
    rig.try_submit(next).expect("a free slot");
    rig.commit();
    assert_eq!(rig.step(), [(0, 40)]);
}

#[test]
fn one_that_ends_while_it_waits_leaves_the_queue() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_num_seqs(1), 100);
    (0..3).for_each(|slot| rig.submit(slot, 4, 50));
    rig.step();
    rig.end(1, End::Done);
    assert_eq!(rig.counts(), (1, 1));
    assert!(!rig.kv.is_open(id(1)));
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(2, 4)]);
}

#[test]
fn one_that_failed_loses_its_claim_to_what_it_wrote() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 100, true);
    let prompt: Vec<u32> = (0..64).collect();
    rig.submit_prompt(SchedRequest::new(id(0), 64, 9), &prompt)
        .expect("fits");
    rig.plan();
    rig.end(0, End::Failed);
    rig.submit_prompt(SchedRequest::new(id(1), 64, 9), &prompt)
        .expect("fits");
    assert_eq!(rig.step(), [(1, 64)], "nothing is hit");
    rig.end(1, End::Failed);
    rig.submit_prompt(SchedRequest::new(id(2), 64, 9), &prompt)
        .expect("fits");
    assert_eq!(
        rig.step(),
        [(2, 16)],
        "what was sealed before the failure is hit"
    );
}

#[test]
fn one_that_ends_with_a_row_in_flight_loses_that_rows_blocks_too() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 100, true);
    let prompt: Vec<u32> = (0..64).collect();
    rig.submit_prompt(SchedRequest::new(id(0), 64, 9), &prompt)
        .expect("fits");
    rig.plan();
    rig.end(0, End::Done);
    rig.submit_prompt(SchedRequest::new(id(1), 64, 9), &prompt)
        .expect("fits");
    assert_eq!(rig.step(), [(1, 64)]);
}

#[test]
fn what_a_host_did_not_compute_is_planned_again() {
    let mut rig = rig_with(&[20]);
    rig.plan();
    let row = RowOutcome {
        id: id(0),
        computed: 12,
        first_token: 0,
        new_tokens: 0,
    };
    let outcome = StepOutcome {
        rows: vec![row],
        ..StepOutcome::default()
    };
    rig.scheduler.commit(&outcome, &mut rig.kv);
    rig.plan();
    let expected = PlannedRow {
        id: id(0),
        start: 12,
        len: 8,
        samples: true,
        drafts: 0,
    };
    assert_eq!(rig.plan.rows, [expected]);
}

#[test]
fn several_new_tokens_close_the_gap_by_as_many() {
    let mut rig = rig_with(&[20]);
    rig.plan();
    let mut outcome = Rig::outcome_of(&rig.plan.rows);
    outcome.tokens = vec![1, 2, 3];
    outcome.rows[0].new_tokens = 3;
    rig.scheduler.commit(&outcome, &mut rig.kv);
    assert_eq!(rig.step(), [(0, 3)]);
}

#[test]
fn an_outcome_that_makes_no_sense_harms_nobody() {
    let mut rig = rig_with(&[20]);
    rig.plan();
    let row = |slot, first_token, new_tokens| RowOutcome {
        id: id(slot),
        computed: 9999,
        first_token,
        new_tokens,
    };
    let outcome = StepOutcome {
        rows: vec![row(5, 0, 1), row(0, 7, 1), row(0, 0, 1), row(77, 0, 0)],
        tokens: vec![1],
        forks: Vec::new(),
        ended: vec![(id(5), End::Failed), (id(123_456), End::Done)],
    };
    rig.scheduler.commit(&outcome, &mut rig.kv);
    assert_eq!(rig.counts(), (1, 0));
    assert_eq!(rig.step(), [], "it has no gap: its token was lost");
    rig.end(0, End::Done);
    assert_eq!(rig.held(), 0);
}
