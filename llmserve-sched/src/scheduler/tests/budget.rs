//! One budget for all, shared fairly.

use crate::ContinuousScheduler;
use crate::testing::{Rig, id, with};
use llmserve_core::SchedRequest;

#[test]
fn a_long_prefill_threshold_leaves_budget_to_the_next() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(1024)
        .long_prefill_threshold(400);
    let mut rig = Rig::new(builder, 1000);
    for slot in 0..3 {
        rig.submit(slot, 800, 10);
    }
    assert_eq!(rig.step(), [(0, 400), (1, 400), (2, 224)]);
    assert_eq!(rig.step(), [(0, 400), (1, 400), (2, 224)]);
    let samples: Vec<_> = rig.plan.rows.iter().map(|row| row.samples).collect();
    assert_eq!(samples, [true, true, false]);
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 352)]);
}

#[test]
fn with_chunks_a_prompt_takes_what_is_left_of_the_budget() {
    let mut rig = Rig::new(
        ContinuousScheduler::builder().max_batched_tokens(1024),
        1000,
    );
    for (slot, tokens) in [800, 800, 10, 10].into_iter().enumerate() {
        rig.submit(slot as u32, tokens, 10);
    }
    assert_eq!(rig.step(), [(0, 800), (1, 224)]);
    assert_eq!(rig.step(), [(0, 1), (1, 576), (2, 10), (3, 10)]);
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_that_can_hold_it() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(1024)
        .chunked_prefill(false);
    let mut rig = Rig::new(builder, 1000);
    for (slot, tokens) in [800, 800, 10, 10].into_iter().enumerate() {
        rig.submit(slot as u32, tokens, 10);
    }
    assert_eq!(rig.step(), [(0, 800)], "nobody overtakes the second");
    assert_eq!(rig.step(), [(0, 1), (1, 800), (2, 10), (3, 10)]);
}

#[test]
fn without_chunks_a_request_may_still_ask_for_chunks_itself() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(100)
        .chunked_prefill(false);
    let mut rig = Rig::new(builder, 100);
    let request = with(SchedRequest::new(id(0), 90, 1), |r| r.max_chunk = Some(40));
    rig.try_submit(request).expect("fits");
    rig.submit(1, 70, 1);
    assert_eq!(rig.step(), [(0, 40)], "the second does not fit beside it");
    assert_eq!(rig.step(), [(0, 40)]);
    assert_eq!(rig.step(), [(0, 10), (1, 70)]);
}

#[test]
fn a_requests_own_chunk_limits_its_rows() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 100);
    let request = with(SchedRequest::new(id(0), 20, 4), |r| r.max_chunk = Some(7));
    rig.try_submit(request).expect("fits");
    let rows: Vec<_> = (0..5).map(|_| rig.step()[0].1).collect();
    assert_eq!(rows, [7, 7, 6, 1, 1]);
}

#[test]
fn a_budget_smaller_than_the_running_is_shared_in_turns() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(3), 100);
    for slot in 0..5 {
        rig.submit(slot, 1, 100);
    }
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1)]);
    // Those who run come first: while they use the budget up nobody else is admitted.
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1)]);

    let builder = ContinuousScheduler::builder().max_batched_tokens(4);
    let mut rig = Rig::new(builder, 100);
    // Prompts of which two fit a step run together once their prefill is over.
    for slot in 0..2 {
        rig.submit(slot, 2, 100);
    }
    assert_eq!(rig.step(), [(0, 2), (1, 2)]);
    for slot in 2..4 {
        rig.submit(slot, 6, 100);
    }
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 2)]);
    // Half of what decodes leave is for whoever comes.
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    // Four run, one has a gap of five: it takes what is left, and never twice before the others.
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
}

#[test]
fn forked_choices_beyond_the_budget_take_turns() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(2), 100);
    let request = with(SchedRequest::new(id(0), 2, 100), |r| r.choices = 5);
    rig.try_submit(request).expect("fits");
    rig.plan();
    (1..5).for_each(|child| rig.fork(0, child, 99));
    rig.commit();
    let served: Vec<_> = (0..5)
        .flat_map(|_| rig.step())
        .map(|(slot, _)| slot)
        .collect();
    assert_eq!(served, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn a_turn_that_ends_meanwhile_passes_to_the_next() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(2), 100);
    let request = with(SchedRequest::new(id(0), 2, 100), |r| r.choices = 4);
    rig.try_submit(request).expect("fits");
    rig.plan();
    (1..4).for_each(|child| rig.fork(0, child, 99));
    rig.commit();
    assert_eq!(rig.step(), [(0, 1), (1, 1)]);
    rig.end(2, llmserve_core::End::Done);
    assert_eq!(rig.step(), [(3, 1), (0, 1)]);
}

#[test]
fn a_long_prompt_stalls_those_who_come_after_it_for_one_step() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(100), 1000);
    rig.submit(0, 1000, 10);
    assert_eq!(rig.step(), [(0, 100)]);
    rig.submit(1, 30, 100);
    assert_eq!(rig.step(), [(0, 70), (1, 30)], "the rest is for the first");
    rig.submit(2, 80, 100);
    assert_eq!(rig.step(), [(0, 49), (1, 1), (2, 50)]);
    // Nobody waits, and there are two prompts: they take turns.
    assert_eq!(rig.step(), [(0, 98), (1, 1), (2, 1)]);
    assert_eq!(rig.step(), [(2, 29), (0, 70), (1, 1)]);
    // Each that comes is in the next step, and none that runs misses one.
    for slot in 3..9 {
        rig.submit(slot, 30, 100);
        let rows = rig.step();
        assert_eq!(rows.iter().map(|(_, len)| len).sum::<usize>(), 100);
        assert_eq!(rows.len(), slot as usize + 1, "{rows:?}");
    }
}

#[test]
fn however_many_long_prompts_run_who_comes_is_in_the_next_step() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_batched_tokens(64), 4000);
    let mut computed = [0; 4];
    (0..4).for_each(|slot| rig.submit(slot, 2000, 10));
    for slot in 4..60 {
        let rows = rig.step();
        for (slot, len) in rows {
            if slot < 4 {
                computed[slot] += len;
            }
        }
        if slot > 8 {
            assert_eq!(rig.admitted(), [slot as usize - 1]);
        }
        if slot > 9 {
            rig.end(slot - 2, llmserve_core::End::Done);
        }
        rig.submit(slot, 8, 100);
    }
    let least = computed.iter().min().expect("four");
    let most = computed.iter().max().expect("four");
    assert!(*least > 300 && most - least < 200, "{computed:?}");
}
