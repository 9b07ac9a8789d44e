//! Seats and blocks of tenants.

use llmserve_core::{End, Refusal, SchedRequest};

use crate::testing::{Rig, id, with};
use crate::{ContinuousScheduler, Fairness, SchedulerBuilder};

fn fair(seats: usize) -> SchedulerBuilder {
    let builder = ContinuousScheduler::builder().max_num_seqs(seats);
    builder.watermark(0.0).fairness(Fairness::default())
}

fn submit(rig: &mut Rig, tenant: &str, slot: u32, tokens: usize) {
    let request = with(SchedRequest::new(id(slot), tokens, 1000), |request| {
        request.tenant = Some(tenant.into());
    });
    rig.try_submit(request).expect("fits");
}

#[test]
fn a_tenant_without_a_seat_takes_one_from_a_tenant_with_more_than_its_share() {
    let mut rig = Rig::new(fair(4), 400);
    (0..6).for_each(|slot| submit(&mut rig, "a", slot, 20));
    rig.step();
    rig.step();
    assert_eq!(rig.counts(), (4, 2));
    submit(&mut rig, "b", 10, 20);
    assert_eq!(rig.step(), [(0, 1), (1, 1), (2, 1), (10, 20)]);
    assert_eq!((rig.preempted(), rig.admitted()), (vec![3], vec![10]));
    submit(&mut rig, "b", 11, 20);
    rig.step();
    assert_eq!((rig.preempted(), rig.admitted()), (vec![2], vec![11]));
    // Two each: that is what either may claim.
    submit(&mut rig, "b", 12, 20);
    (0..5).for_each(|_| {
        rig.step();
        assert!(rig.preempted().is_empty() && rig.admitted().is_empty());
    });
    // A third tenant has a claim on one.
    submit(&mut rig, "c", 20, 20);
    rig.step();
    assert_eq!(rig.admitted(), [20]);
    assert_eq!(rig.preempted().len(), 1);
}

#[test]
fn shares_are_by_weight() {
    let fairness = Fairness::default().weight("gold", 3.0);
    let mut rig = Rig::new(fair(4).fairness(fairness), 400);
    (0..4).for_each(|slot| submit(&mut rig, "a", slot, 20));
    rig.step();
    (10..14).for_each(|slot| submit(&mut rig, "gold", slot, 20));
    rig.step();
    assert_eq!(
        (rig.preempted().len(), rig.admitted()),
        (3, vec![10, 11, 12])
    );
}

#[test]
fn one_alone_may_have_all_seats_and_one_that_ended_gives_them_back() {
    let mut rig = Rig::new(fair(4), 400);
    (0..6).for_each(|slot| submit(&mut rig, "a", slot, 20));
    rig.step();
    submit(&mut rig, "b", 10, 20);
    rig.step();
    let [preempted] = rig.preempted()[..] else {
        panic!("one")
    };
    rig.end(10, End::Done);
    rig.step();
    assert_eq!(rig.admitted(), [preempted], "what it lost comes first");
}

#[test]
fn without_taking_the_next_free_seat_is_for_whoever_has_less_than_its_share() {
    let fairness = Fairness::default().reclaims(false).quantum(100_000);
    let mut rig = Rig::new(fair(4).fairness(fairness), 400);
    (0..9).for_each(|slot| submit(&mut rig, "a", slot, 20));
    rig.step();
    (10..13).for_each(|slot| submit(&mut rig, "b", slot, 20));
    rig.step();
    assert_eq!((rig.preempted(), rig.admitted()), (vec![], vec![]));
    for (ends, next) in [(0, 10), (1, 11)] {
        rig.end(ends, End::Done);
        rig.step();
        assert_eq!(rig.admitted(), [next]);
    }
    // Both have two now, and it is the turn of the first again.
    rig.end(2, End::Done);
    rig.step();
    assert_eq!(rig.admitted(), [4]);
}

#[test]
fn a_tenant_with_less_than_its_share_of_blocks_takes_them_too() {
    let mut rig = Rig::new(fair(8), 12);
    // All twelve blocks, in four parts.
    (0..4).for_each(|slot| submit(&mut rig, "a", slot, 40));
    rig.step();
    submit(&mut rig, "b", 10, 60);
    rig.step();
    assert_eq!((rig.preempted(), rig.admitted()), (vec![3, 2], vec![10]));
    submit(&mut rig, "b", 11, 40);
    rig.step();
    assert!(rig.admitted().is_empty(), "it would have seven of twelve");
}

#[test]
fn who_has_more_blocks_than_its_share_yields_whoever_came_last() {
    let mut rig = Rig::new(fair(8), 9);
    // Six of nine blocks, and one; two are left for the third blocks of three.
    (0..3).for_each(|slot| submit(&mut rig, "a", slot, 30));
    submit(&mut rig, "b", 10, 8);
    rig.step();
    assert_eq!(rig.counts(), (4, 0));
    while rig.preempted().is_empty() {
        rig.step();
    }
    assert_eq!(rig.preempted(), [2], "the other would lose far less");
}

/// How many of `b` are admitted before the large one of `a`.
fn overtakers(large: usize) -> usize {
    let fairness = Fairness::default().reclaims(false);
    let mut rig = Rig::new(fair(64).fairness(fairness), 12);
    submit(&mut rig, "b", 99, 64);
    rig.step();
    submit(&mut rig, "a", 98, large);
    let mut overtakers = 0;
    for slot in 0..80 {
        // There is always a small one, and always room for it.
        submit(&mut rig, "b", slot, 16);
        rig.step();
        for admitted in rig.admitted() {
            if admitted == 98 {
                return overtakers;
            }
            overtakers += 1;
            rig.end(admitted as u32, End::Done);
        }
        if overtakers == 32 {
            rig.end(99, End::Done);
        }
    }
    panic!("it starves: {overtakers}");
}

#[test]
fn one_that_lacks_blocks_lets_others_pass_but_not_for_ever() {
    assert_eq!(overtakers(160), 32);
}

fn try_submit(rig: &mut Rig, tenant: &str, slot: u32, tokens: usize) -> Result<(), Refusal> {
    let request = with(SchedRequest::new(id(slot), tokens, 1000), |request| {
        request.tenant = Some(tenant.into());
    });
    rig.try_submit(request)
}

#[test]
fn a_tenant_that_floods_the_queue_leaves_room_for_others() {
    let mut rig = Rig::new(fair(1).max_queue(100), 400);
    let accepted = |rig: &mut Rig, tenant: &str, first: u32| {
        let mut slots = first..first + 200;
        slots
            .position(|slot| try_submit(rig, tenant, slot, 5).is_err())
            .expect("bounded")
    };
    assert_eq!(accepted(&mut rig, "a", 0), 80, "four times the rest");
    let refusal = try_submit(&mut rig, "a", 500, 5);
    let full = Refusal::ShareFull {
        waiting: 80,
        limit: 80,
        unit: "requests of this tenant",
        retry_after: None,
    };
    assert_eq!(refusal, Err(full));
    // Each of the others finds room, and leaves some.
    assert_eq!(accepted(&mut rig, "b", 1000), 16);
    assert_eq!(accepted(&mut rig, "c", 2000), 4);
    assert_eq!(rig.counts(), (0, 100));
    let refusal = try_submit(&mut rig, "d", 3000, 5);
    assert!(matches!(refusal, Err(Refusal::QueueFull { .. })));
}

#[test]
fn a_tenant_with_many_prompt_tokens_waiting_leaves_room_for_others() {
    let mut rig = Rig::new(fair(1).max_queue_tokens(1000), 400);
    let accepted = |rig: &mut Rig, tenant: &str, first: u32| {
        let mut slots = first..first + 200;
        slots
            .position(|slot| try_submit(rig, tenant, slot, 10).is_err())
            .expect("bounded")
    };
    assert_eq!(accepted(&mut rig, "a", 0), 80);
    assert_eq!(try_submit(&mut rig, "b", 1000, 200), Ok(()), "it fits");
    assert!(try_submit(&mut rig, "c", 2000, 10).is_err());
}

#[test]
fn without_fairness_a_tenant_may_fill_the_queue() {
    let mut rig = Rig::new(ContinuousScheduler::builder().max_queue(100), 400);
    (0..100).for_each(|slot| submit(&mut rig, "a", slot, 5));
    assert!(try_submit(&mut rig, "b", 100, 5).is_err());
}

#[test]
fn what_the_displaced_have_yet_to_prefill_is_room() {
    // Ten blocks: a prompt of eight of which one is computed, and one block for each of two.
    let mut rig = Rig::new(fair(8).max_batched_tokens(16), 10);
    submit(&mut rig, "a", 0, 16);
    rig.step();
    submit(&mut rig, "a", 1, 100);
    rig.step();
    assert_eq!(rig.counts(), (2, 0));
    // Two of ten blocks are taken by both, five are promised to the second.
    submit(&mut rig, "b", 10, 60);
    rig.step();
    assert_eq!((rig.preempted(), rig.admitted()), (vec![1], vec![10]));
}
