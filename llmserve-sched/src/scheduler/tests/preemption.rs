//! Blocks run out.

use llmserve_core::{Admission, End, SchedRequest, Scheduler};

use super::Second;
use crate::ContinuousScheduler;
use crate::testing::{Rig, id, with};

/// Two prompts of 80 tokens in ten blocks: both fit, neither can grow.
fn two_in_ten_blocks() -> Rig {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    assert_eq!(rig.step(), [(0, 80), (1, 80)]);
    rig
}

#[test]
fn the_first_decode_step_preempts_the_second_of_two() {
    let mut rig = two_in_ten_blocks();
    assert_eq!(rig.step(), [(0, 1)]);
    assert_eq!(rig.preempted(), [1]);
    assert_eq!(rig.counts(), (1, 1));
    assert_eq!(rig.held(), 6);
}

#[test]
fn one_preempted_resumes_with_its_tokens() {
    let mut rig = two_in_ten_blocks();
    rig.step();
    for _ in 0..10 {
        assert_eq!(
            rig.step(),
            [(0, 1)],
            "six blocks are needed and four are free"
        );
    }
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 81)], "its prompt and the token it had");
    let admission = Admission {
        id: id(1),
        cached_tokens: 0,
        resumed: true,
    };
    assert_eq!(rig.plan.admitted, [admission]);
    assert!(rig.plan.rows[0].samples);
    assert_eq!(rig.step(), [(1, 1)]);
}

#[test]
fn one_preempted_finds_its_sealed_blocks_again() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 10, true);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    rig.step();
    rig.step();
    assert_eq!(rig.preempted(), [1]);
    rig.end(0, End::Done);
    // Its tail went to the first one's new block; four blocks are still what they were.
    assert_eq!(rig.step(), [(1, 17)]);
    assert_eq!(rig.plan.admitted[0].cached_tokens, 64);
}

#[test]
fn nobody_is_admitted_in_a_step_that_preempts() {
    let mut rig = two_in_ten_blocks();
    rig.submit(2, 5, 50);
    assert_eq!(rig.step(), [(0, 1)]);
    assert!(rig.admitted().is_empty());
}

#[test]
fn the_watermark_does_not_hold_back_one_preempted() {
    let mut rig = Rig::new(ContinuousScheduler::builder().watermark(0.4), 10);
    (0..3).for_each(|slot| rig.submit(slot, 16, 99));
    // All three grow, until the last yields four blocks' worth of tokens.
    while rig.step().len() == 3 {}
    assert_eq!((rig.preempted(), rig.held()), (vec![2], 8));
    rig.end(1, End::Done);
    rig.submit(3, 48, 9);
    rig.step();
    assert_eq!(
        rig.admitted(),
        [2],
        "two blocks stay free; a newcomer would have to leave four"
    );
    assert_eq!(rig.held(), 8);
}

#[test]
fn a_row_already_planned_is_taken_out_and_its_budget_returned() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(2)
        .policy(crate::Priority);
    let mut rig = Rig::new(builder, 4);
    let submit = |rig: &mut Rig, slot, tokens, priority| {
        let request = with(SchedRequest::new(id(slot), tokens, 50), |r| {
            r.priority = priority
        });
        rig.try_submit(request).expect("fits");
    };
    // The less important one is admitted first, so its row is planned first.
    submit(&mut rig, 0, 2, 9);
    rig.step();
    submit(&mut rig, 1, 2, 0);
    while rig.counts().0 < 2 {
        rig.step();
    }
    let mut steps = 0;
    while rig.preempted().is_empty() {
        rig.plan();
        if rig.preempted().is_empty() {
            rig.commit();
        }
        steps += 1;
        assert!(steps < 200);
    }
    assert_eq!(rig.preempted(), [0]);
    assert!(
        rig.plan.rows.iter().all(|row| row.id == id(1)),
        "its row is gone: {:?}",
        rig.plan
    );
    assert_eq!(rig.plan.rows.len(), 1);
    rig.commit();
    assert_eq!(rig.counts(), (1, 1));
}

#[test]
fn one_that_must_yield_its_own_blocks_does_not_stop_those_behind_it() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(crate::Priority), 2);
    rig.try_submit(with(SchedRequest::new(id(0), 15, 9), |r| r.priority = 9))
        .expect("fits");
    rig.step();
    rig.submit(1, 16, 9);
    assert_eq!(rig.step(), [(0, 1), (1, 16)]);
    // Both need a block now. vLLM ends its walk here; ours gives the second what is free again.
    assert_eq!(rig.step(), [(1, 1)]);
    assert_eq!(rig.preempted(), [0]);
}

#[test]
fn a_row_may_need_the_blocks_of_several() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 6);
    (0..3).for_each(|slot| rig.submit(slot, 32, 50));
    assert_eq!(rig.plan(), [(0, 32), (1, 32), (2, 32)]);
    let mut outcome = Rig::outcome_of(&rig.plan.rows);
    // The first gets 33 tokens at once: three blocks more, and nobody has more than two.
    outcome.rows[0].first_token = 3;
    outcome.rows[0].new_tokens = 33;
    outcome.tokens.extend(0..33);
    rig.scheduler.commit(&outcome, &mut rig.kv);
    assert_eq!(rig.step(), [(0, 33)]);
    assert_eq!(rig.preempted(), [2, 1]);
    assert_eq!(rig.scheduler.counts().preemptions, 2);
    rig.end(0, End::Done);
    assert_eq!(
        rig.step(),
        [(1, 33), (2, 33)],
        "in the order they came, not that they yielded"
    );
}

#[test]
fn one_that_yields_before_its_turn_does_not_stop_those_behind_it() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Second), 3);
    for (slot, tokens) in [(0, 16), (1, 16), (2, 8)] {
        rig.submit(slot, tokens, 9);
    }
    assert_eq!(rig.step(), [(0, 16), (1, 16), (2, 8)]);
    assert_eq!(rig.step(), [(0, 1), (2, 1)]);
    assert_eq!(rig.preempted(), [1]);
}
