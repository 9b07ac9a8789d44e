//! Who may start, and when.

use llmserve_core::{Admission, End, SchedRequest};

use crate::ContinuousScheduler;
use crate::testing::{Rig, id, with};

#[test]
fn a_newcomer_starts_after_its_cached_prefix() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 20, true);
    let prompt: Vec<u32> = (0..50).collect();
    rig.submit_prompt(SchedRequest::new(id(0), 50, 9), &prompt)
        .expect("fits");
    // The same prompt in the same step: its blocks are hit while they are being written.
    rig.submit_prompt(SchedRequest::new(id(1), 50, 9), &prompt)
        .expect("fits");
    assert_eq!(rig.step(), [(0, 50), (1, 2)]);
    let admission = |slot, cached_tokens| Admission {
        id: id(slot),
        cached_tokens,
        resumed: false,
    };
    assert_eq!(rig.plan.admitted, [admission(0, 0), admission(1, 48)]);
    assert_eq!(rig.plan.rows[1].start, 48);
    assert_eq!(rig.held(), 5);
}

#[test]
fn a_prompt_is_admitted_only_if_all_of_it_fits_not_just_a_chunk() {
    let builder = ContinuousScheduler::builder().max_batched_tokens(16);
    let mut rig = Rig::new(builder, 10);
    rig.submit(0, 16, 99);
    rig.submit(1, 150, 9);
    rig.step();
    assert_eq!(
        rig.step(),
        [(0, 1)],
        "nine free blocks, two of them needed: 150 tokens are ten"
    );
    assert_eq!(rig.counts(), (1, 1));
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 16)]);
}

#[test]
fn blocks_that_a_prefill_has_yet_to_take_are_not_promised_twice() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(32)
        .long_prefill_threshold(16);
    let mut rig = Rig::new(builder, 10);
    rig.submit(0, 96, 9);
    rig.submit(1, 80, 9);
    // Nine blocks are free after the first chunk, but five of them are spoken for.
    assert_eq!(rig.step(), [(0, 16)]);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 16)]);
}

#[test]
fn the_watermark_holds_newcomers_back_while_others_run() {
    let mut rig = Rig::new(ContinuousScheduler::builder().watermark(0.2), 10);
    rig.submit(0, 80, 9);
    rig.submit(1, 64, 9);
    assert_eq!(
        rig.step(),
        [(0, 80)],
        "four of five free blocks would leave less than two"
    );
    rig.end(0, End::Done);
    rig.submit(2, 100, 9);
    assert_eq!(rig.step(), [(1, 64)]);
    rig.end(1, End::Done);
    rig.end(2, End::Done);
    rig.submit(3, 159, 1);
    assert_eq!(rig.step(), [(3, 159)], "alone, it may take everything");
}

#[test]
fn the_watermark_is_rounded_down() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    rig.submit(0, 80, 9);
    rig.submit(1, 80, 9);
    assert_eq!(
        rig.step(),
        [(0, 80), (1, 80)],
        "a hundredth of ten blocks is none"
    );
}

#[test]
fn seats_are_never_overbooked() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_num_seqs(2), 10);
    for slot in 0..3 {
        rig.submit(slot, 4, 9);
    }
    assert_eq!(rig.step(), [(0, 4), (1, 4)]);
    assert_eq!(rig.step(), [(0, 1), (1, 1)]);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 1), (2, 4)]);
}

#[test]
fn a_request_for_choices_takes_their_seats_until_it_forks() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_num_seqs(4), 10);
    let request = with(SchedRequest::new(id(0), 16, 9), |r| {
        r.choices = 3;
        r.max_chunk = Some(8);
    });
    rig.try_submit(request).expect("fits");
    for slot in 1..4 {
        rig.submit(slot, 4, 9);
    }
    assert_eq!(rig.step(), [(0, 8), (1, 4)], "three seats and one");
    assert_eq!(rig.plan(), [(0, 8), (1, 1)]);
    // One choice ended with its first token: two seats are used, the third is free again.
    rig.fork(0, 10, 8);
    rig.commit();
    assert_eq!(rig.step(), [(0, 1), (1, 1), (10, 1), (2, 4)]);
    assert_eq!(rig.counts(), (4, 1));
}

#[test]
fn many_who_wait_are_admitted_in_the_order_they_came() {
    let mut rig = Rig::new(
        ContinuousScheduler::builder()
            .max_num_seqs(1)
            .max_queue(None),
        10,
    );
    (0..5000).for_each(|slot| rig.submit(slot, 4, 9));
    for slot in 0..5000 {
        assert_eq!(rig.step(), [(slot as usize, 4)]);
        rig.end(slot, End::Done);
    }
    assert_eq!(rig.counts(), (0, 0));
}

#[test]
fn one_that_the_kv_manager_does_not_know_stops_nobody() {
    use llmserve_core::KvManager;
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    (0..3).for_each(|slot| rig.submit(slot, 4, 9));
    rig.kv.close(id(0));
    assert_eq!(rig.step(), [(1, 4), (2, 4)]);
    rig.kv.close(id(1));
    assert_eq!(rig.step(), [(2, 1)]);
    assert_eq!((rig.counts(), rig.scheduler.kv_errors()), ((1, 0), 2));
}
