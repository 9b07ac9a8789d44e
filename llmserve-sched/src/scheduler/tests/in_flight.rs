//! `plan(N + 1)` before `commit(N)`.

use llmserve_core::{End, PlannedRow, SchedRequest, Scheduler};

use super::Second;
use crate::ContinuousScheduler;
use crate::testing::{Call, Rig, id, with};

#[test]
fn a_row_that_samples_counts_one_token_more_from_when_it_is_planned() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 20, 50);
    rig.plan();
    let first = rig.plan.rows.clone();
    rig.plan();
    let second = rig.plan.rows.clone();
    let expected = PlannedRow {
        id: id(0),
        start: 20,
        len: 1,
        samples: true,
        drafts: 0,
    };
    assert_eq!(second, [expected]);
    rig.scheduler.commit(&Rig::outcome_of(&first), &mut rig.kv);
    assert_eq!(rig.plan(), [(0, 1)]);
    assert_eq!(rig.plan.rows[0].start, 21);
    rig.scheduler.commit(&Rig::outcome_of(&second), &mut rig.kv);
    assert_eq!(rig.kv.calls.last(), Some(&Call::Append(id(0), 0)));
    assert_eq!(rig.scheduler.kv_errors(), 0);
}

#[test]
fn chunks_in_flight_are_not_planned_twice() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(8), 10);
    rig.submit(0, 20, 50);
    let rows: Vec<_> = (0..4).flat_map(|_| rig.plan()).collect();
    assert_eq!(rows, [(0, 8), (0, 8), (0, 4), (0, 1)]);
}

#[test]
fn nothing_is_planned_beyond_the_last_token_on_its_way() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 20, 2);
    assert_eq!(rig.plan(), [(0, 20)]);
    assert_eq!(rig.plan(), [(0, 1)]);
    assert_eq!(rig.plan(), [], "its two tokens are in flight");
}

#[test]
fn a_sequence_that_has_all_its_tokens_waits_for_its_end() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 20, 1);
    assert_eq!(rig.step(), [(0, 20)]);
    assert_eq!(rig.step(), []);
    assert_eq!(rig.counts(), (1, 0));
}

#[test]
fn a_result_in_flight_for_one_preempted_is_still_appended() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    rig.plan();
    let first = rig.plan.rows.clone();
    assert_eq!(
        rig.plan(),
        [(0, 1)],
        "planned while the prompts are in flight"
    );
    assert_eq!(rig.preempted(), [1]);
    let second = rig.plan.rows.clone();
    rig.kv.calls.clear();
    rig.scheduler.commit(&Rig::outcome_of(&first), &mut rig.kv);
    let expected = [
        Call::Seal(id(0), 80),
        Call::Append(id(0), 0),
        Call::Append(id(1), 1),
    ];
    assert_eq!(
        rig.kv.calls, expected,
        "appended, and nothing sealed that it does not hold"
    );
    rig.scheduler.commit(&Rig::outcome_of(&second), &mut rig.kv);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 81)], "it resumes where it was");
    assert!(rig.plan.rows[0].samples);
}

#[test]
fn one_preempted_is_not_resumed_before_its_result_is_in() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    rig.plan();
    let first = rig.plan.rows.clone();
    rig.plan();
    assert_eq!(rig.preempted(), [1]);
    rig.end(0, End::Done);
    assert_eq!(rig.plan(), []);
    rig.scheduler.commit(&Rig::outcome_of(&first), &mut rig.kv);
    assert_eq!(rig.plan(), [(1, 81)]);
}

#[test]
fn a_prefill_in_flight_that_was_hit_outlives_its_preemption() {
    let mut rig = Rig::caching(ContinuousScheduler::builder().policy(Second), 9, true);
    let prompt: Vec<u32> = (0..200).collect();
    rig.submit_prompt(SchedRequest::new(id(0), 32, 50), &prompt[100..132])
        .expect("fits");
    rig.submit_prompt(SchedRequest::new(id(1), 65, 50), &prompt[..65])
        .expect("fits");
    rig.submit_prompt(SchedRequest::new(id(2), 80, 50), &prompt[..80])
        .expect("fits");
    assert_eq!(
        rig.plan(),
        [(0, 32), (1, 65), (2, 16)],
        "the third starts from the second's"
    );
    let first = rig.plan.rows.clone();
    assert_eq!(rig.plan(), [(0, 1), (2, 1)]);
    assert_eq!(rig.preempted(), [1]);
    let second = rig.plan.rows.clone();
    rig.scheduler.commit(&Rig::outcome_of(&first), &mut rig.kv);
    rig.scheduler.commit(&Rig::outcome_of(&second), &mut rig.kv);
    assert_eq!(rig.scheduler.kv_errors(), 0);
    rig.end(2, End::Done);
    rig.end(0, End::Done);
    assert_eq!(
        rig.plan(),
        [(1, 2)],
        "it finds what it wrote, sealed by the one that hit it"
    );
}

#[test]
fn one_that_will_fork_waits_for_its_fork() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    let request = with(SchedRequest::new(id(0), 20, 50), |r| r.choices = 2);
    rig.try_submit(request).expect("fits");
    rig.plan();
    let first = rig.plan.rows.clone();
    assert_eq!(
        rig.plan(),
        [],
        "the block it writes next is about to be shared"
    );
    let mut outcome = Rig::outcome_of(&first);
    outcome.forks.push(llmserve_core::Fork {
        parent: id(0),
        child: id(1),
        tokens: vec![5],
        max_new_tokens: 49,
    });
    rig.scheduler.commit(&outcome, &mut rig.kv);
    assert_eq!(rig.plan(), [(0, 1), (1, 1)]);
}

#[test]
fn the_choice_of_a_preempted_parent_waits_with_it() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 50);
    let request = with(SchedRequest::new(id(1), 80, 50), |r| r.choices = 2);
    rig.try_submit(request).expect("fits");
    rig.plan();
    let first = rig.plan.rows.clone();
    rig.plan();
    assert_eq!(rig.preempted(), [1]);
    let mut outcome = Rig::outcome_of(&first);
    outcome.forks.push(llmserve_core::Fork {
        parent: id(1),
        child: id(2),
        tokens: vec![5],
        max_new_tokens: 49,
    });
    rig.scheduler.commit(&outcome, &mut rig.kv);
    assert_eq!(rig.counts(), (1, 2));
    rig.end(0, End::Done);
    rig.plan();
    assert_eq!(rig.admitted(), [1]);
    rig.end(1, End::Done);
    assert_eq!(rig.plan(), [(2, 81)]);
    assert_eq!(rig.scheduler.kv_errors(), 0);
}

#[test]
fn as_many_plans_may_be_in_flight_as_can_be_remembered() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 100);
    rig.submit(0, 20, 500);
    let planned = (0..100).filter(|_| !rig.plan().is_empty()).count();
    assert_eq!(planned, 64);
}
