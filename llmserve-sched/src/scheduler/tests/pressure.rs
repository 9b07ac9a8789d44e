//! More is asked for than there is.

use std::time::Duration;

use llmserve_core::{End, Refusal, SchedRequest, Scheduler};

use crate::testing::{Rig, id, with};
use crate::{Candidate, ContinuousScheduler, Displacing, Policy, Priority, Rank, Reservation};

/// Half of what may come, always.
fn half() -> Reservation {
    Reservation {
        initial: 0.5,
        least: 0.5,
        margin: 0.0,
        ..Reservation::default()
    }
}

#[test]
fn admission_keeps_room_for_what_the_running_may_still_generate() {
    let builder = ContinuousScheduler::builder().reservation(half());
    let mut rig = Rig::as_built(builder, 12, false);
    rig.submit(0, 32, 65);
    rig.submit(1, 32, 64);
    // The second needs two blocks, and until one ends both grow by 64 tokens: half of that is four
    // blocks, and ten are left. A third needs two as well, and half of three times 64 is six.
    // Six are left then.
    assert_eq!(rig.step(), [(0, 32), (1, 32)]);
    rig.submit(2, 32, 64);
    assert_eq!(rig.step(), [(0, 1), (1, 1)]);
    assert_eq!(rig.counts(), (2, 1));
    // As the others come to their ends less is reserved for them.
    while rig.counts().1 > 0 {
        rig.step();
        assert!(rig.held() <= 12 && rig.preempted().is_empty());
        if rig.held() >= 11 {
            rig.end(0, End::Done);
        }
    }
}

#[test]
fn one_that_would_run_alone_is_admitted_whatever_is_reserved() {
    let builder = ContinuousScheduler::builder().reservation(half());
    let mut rig = Rig::as_built(builder, 4, false);
    rig.submit(0, 60, 4000);
    assert_eq!(rig.step(), [(0, 60)]);
}

#[test]
fn the_reserved_share_follows_preemptions() {
    let rules = Reservation {
        initial: 0.2,
        least: 0.1,
        decay_steps: 10,
        rise: 0.2,
        ..Reservation::default()
    };
    let mut rig = Rig::as_built(ContinuousScheduler::builder().reservation(rules), 11, false);
    rig.submit(0, 72, 20);
    rig.submit(1, 72, 20);
    rig.step();
    let mut before = rig.scheduler.reserved_share();
    assert!(before < 0.2);
    loop {
        rig.step();
        let share = rig.scheduler.reserved_share();
        if !rig.preempted().is_empty() {
            assert!(share > before + 0.15, "{before} {share}");
            break;
        }
        assert!(share < before || share == 0.1);
        before = share;
    }
    (0..2).for_each(|slot| rig.end(slot, End::Done));
    let share = rig.scheduler.reserved_share();
    assert_eq!(rig.step(), []);
    let after = rig.scheduler.reserved_share();
    assert_eq!(after, share, "an empty plan says nothing");
}

#[test]
fn the_one_with_least_to_lose_yields() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 14);
    for (slot, tokens) in [(0, 96), (1, 32), (2, 96)] {
        rig.submit(slot, tokens, 50);
    }
    rig.step();
    assert_eq!(rig.step(), [(0, 1), (2, 1)]);
    assert_eq!(rig.preempted(), [1], "neither the last nor the largest");
}

#[test]
fn what_others_hold_is_not_lost_and_not_gained() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 13, true);
    let shared: Vec<u32> = (0..80).collect();
    let with_tail = |tail: u32, len: u32| [shared.clone(), (tail..tail + len).collect()].concat();
    let submit = |rig: &mut Rig, slot, prompt: Vec<u32>| {
        rig.submit_prompt(SchedRequest::new(id(slot), prompt.len(), 50), &prompt)
            .expect("fits");
    };
    // Five blocks in common, one each of their own; and three of a third.
    submit(&mut rig, 0, with_tail(500, 16));
    submit(&mut rig, 1, with_tail(600, 16));
    submit(&mut rig, 2, (900..948).collect());
    rig.step();
    assert_eq!(rig.held(), 5 + 2 + 3);
    // All three get a block each, which were the last; sixteen tokens later they want another.
    while rig.preempted().is_empty() {
        rig.step();
    }
    assert_eq!(rig.preempted(), [1], "32 tokens against 64");
}

#[test]
fn nobody_is_preempted_more_than_three_times_while_there_are_others() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 16);
    let mut preempted = [0; 8];
    (0..8).for_each(|slot| rig.submit(slot, 16, 60));
    let mut generated = [0; 8];
    let mut steps = 0;
    while rig.counts() != (0, 0) {
        rig.step();
        for slot in rig.preempted() {
            preempted[slot] += 1;
        }
        for row in rig.plan.rows.clone() {
            let slot = row.id.slot();
            generated[slot] += usize::from(row.samples);
            if generated[slot] == 60 {
                rig.end(slot as u32, End::Done);
            }
        }
        steps += 1;
        assert!(steps < 2000);
    }
    assert!(preempted.iter().sum::<i32>() > 3, "{preempted:?}");
    assert!(preempted.iter().all(|n| *n <= 3), "{preempted:?}");
}

#[test]
fn too_many_tokens_waiting_are_refused_and_one_alone_is_not() {
    let builder = ContinuousScheduler::builder()
        .max_queue_tokens(100)
        .max_num_seqs(1);
    let mut rig = Rig::new(builder, 40);
    rig.submit(0, 150, 9);
    rig.step();
    rig.submit(1, 120, 9);
    let second = SchedRequest::new(id(2), 1, 9);
    let refusal = rig.try_submit(second.clone());
    let full = Refusal::QueueTokensFull {
        tokens: 120,
        limit: 100,
        retry_after: None,
    };
    assert_eq!(refusal, Err(full));
    rig.end(1, End::Done);
    assert_eq!(rig.try_submit(second), Ok(()));
    rig.submit(3, 99, 9);
    assert!(rig.try_submit(SchedRequest::new(id(4), 1, 9)).is_err());
}

#[test]
fn a_refusal_says_when_to_come_again() {
    let builder = ContinuousScheduler::builder().max_queue(2).max_num_seqs(1);
    let mut rig = Rig::new(builder, 40);
    // One request is served in 250 ms.
    (0..2).for_each(|slot| rig.submit(slot, 5, 9));
    for slot in 2..20 {
        rig.now += Duration::from_millis(250);
        rig.step();
        let served = rig.admitted()[0] as u32;
        if slot > 2 {
            assert_eq!(served, slot - 2);
        }
        rig.end(served, End::Done);
        rig.submit(slot, 5, 9);
    }
    let retry = |rig: &mut Rig| match rig.try_submit(SchedRequest::new(id(30), 5, 9)) {
        Err(Refusal::QueueFull { retry_after, .. }) => retry_after.expect("measured").as_millis(),
        other => panic!("{other:?}"),
    };
    let first = retry(&mut rig);
    assert!((200..=260).contains(&first), "{first}");
    let second = retry(&mut rig);
    assert!(
        (400..=520).contains(&second),
        "the first comes before it: {second}"
    );
}

#[test]
fn newcomers_may_be_held_back_for_a_fuller_batch() {
    let builder = ContinuousScheduler::builder()
        .admission_delay(Duration::from_millis(5))
        .max_batched_tokens(100);
    let mut rig = Rig::new(builder, 40);
    rig.submit(0, 10, 9);
    assert_eq!(rig.step(), []);
    rig.now = Duration::from_millis(4);
    rig.submit(1, 10, 9);
    assert_eq!(rig.step(), []);
    rig.now = Duration::from_millis(5);
    assert_eq!(rig.step(), [(0, 10), (1, 10)]);
    rig.submit(2, 10, 9);
    assert_eq!(rig.step(), [(0, 1), (1, 1)], "who runs does not wait");
    rig.submit(3, 90, 9);
    let rows = [(0, 1), (1, 1), (2, 10), (3, 88)];
    assert_eq!(rig.step(), rows, "a step is full without more");
}

#[test]
fn who_was_left_behind_when_others_were_let_in_is_not_held_back_again() {
    let builder = ContinuousScheduler::builder()
        .admission_delay(Duration::from_millis(5))
        .max_num_seqs(8)
        .max_batched_tokens(100);
    let mut rig = Rig::new(builder, 40);
    rig.submit(0, 60, 9);
    assert_eq!(rig.step(), []);
    rig.submit(1, 60, 9);
    rig.submit(2, 5, 9);
    rig.now = Duration::from_millis(5);
    assert_eq!(rig.step(), [(0, 60), (1, 40)], "a full step");
    rig.now = Duration::from_millis(6);
    assert_eq!(rig.step(), [(0, 1), (1, 20), (2, 5)]);
    rig.submit(3, 5, 9);
    rig.now = Duration::from_millis(7);
    assert_eq!(rig.step().len(), 3, "whoever comes next waits anew");
}

#[test]
fn one_preempted_is_not_held_back() {
    let builder = ContinuousScheduler::builder().admission_delay(Duration::from_secs(1));
    let mut rig = Rig::new(builder, 10);
    rig.submit(0, 80, 50);
    rig.submit(1, 80, 50);
    rig.step();
    rig.now = Duration::from_secs(1);
    rig.step();
    rig.step();
    assert_eq!(rig.preempted(), [1]);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(1, 81)]);
}

#[test]
fn one_whose_deadline_has_passed_is_not_admitted() {
    let mut rig = Rig::new(ContinuousScheduler::builder(), 10);
    let request = |slot, deadline| {
        with(SchedRequest::new(id(slot), 5, 9), |request| {
            request.deadline = Some(Duration::from_millis(deadline));
        })
    };
    rig.try_submit(request(0, 10)).expect("fits");
    rig.try_submit(request(1, 11)).expect("fits");
    rig.now = Duration::from_millis(10);
    assert_eq!(rig.step(), [(1, 5)]);
    rig.end(0, End::Done);
    assert_eq!(rig.counts(), (1, 0));
}

fn prioritised(slot: u32, tokens: usize, priority: i32) -> SchedRequest {
    with(SchedRequest::new(id(slot), tokens, 50), |r| {
        r.priority = priority
    })
}

#[test]
fn a_waiting_one_displaces_a_running_one_of_lower_priority_from_its_seat() {
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(2)
        .policy(Displacing(Priority));
    let mut rig = Rig::new(builder, 40);
    for (slot, priority) in [(0, 3), (1, 1)] {
        rig.try_submit(prioritised(slot, 5, priority))
            .expect("fits");
    }
    rig.step();
    rig.try_submit(prioritised(2, 5, 2)).expect("fits");
    assert_eq!(rig.step(), [(1, 1), (2, 5)]);
    assert_eq!((rig.preempted(), rig.admitted()), (vec![0], vec![2]));
    rig.try_submit(prioritised(3, 5, 2)).expect("fits");
    assert_eq!(rig.step(), [(1, 1), (2, 1)], "an equal one waits");
    rig.end(1, End::Done);
    rig.end(2, End::Done);
    assert_eq!(rig.step(), [(3, 5), (0, 6)]);
}

#[test]
fn a_waiting_one_displaces_as_many_as_its_blocks_take() {
    let mut rig = Rig::new(
        ContinuousScheduler::builder().policy(Displacing(Priority)),
        10,
    );
    for (slot, tokens, priority) in [(0, 30, 5), (1, 60, 4), (2, 60, 0)] {
        rig.try_submit(prioritised(slot, tokens, priority))
            .expect("fits");
    }
    assert_eq!(rig.step(), [(2, 60), (1, 60), (0, 30)]);
    rig.try_submit(prioritised(3, 100, 4)).expect("fits");
    assert_eq!(
        rig.step().len(),
        3,
        "seven blocks: those of the first would not do"
    );
    assert!(rig.preempted().is_empty());
    rig.end(3, End::Done);
    rig.try_submit(prioritised(4, 90, 3)).expect("fits");
    assert_eq!(rig.step(), [(2, 1), (4, 90)]);
    assert_eq!(rig.preempted(), [0, 1]);
}

#[test]
fn nobody_is_displaced_for_one_that_room_is_then_reserved_against() {
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(2)
        .policy(Displacing(Priority));
    let mut rig = Rig::as_built(builder, 250, false);
    let long = |slot, priority| {
        with(prioritised(slot, 160, priority), |r| {
            r.max_new_tokens = 4096;
        })
    };
    let short = with(prioritised(1, 160, 9), |r| r.max_new_tokens = 16);
    rig.try_submit(long(0, 1)).expect("fits");
    rig.try_submit(short).expect("fits");
    rig.step();
    rig.step();
    assert_eq!(rig.scheduler.counts().running, 2);
    rig.try_submit(long(2, 5)).expect("fits");
    assert_eq!(rig.step().len(), 2);
    assert!(rig.preempted().is_empty());
}

#[test]
fn what_is_reserved_for_the_displaced_counts_as_room() {
    let builder = ContinuousScheduler::builder().policy(Displacing(Priority));
    let mut rig = Rig::as_built(builder, 150, false);
    let long = |slot, priority| {
        with(prioritised(slot, 160, priority), |r| {
            r.max_new_tokens = 4096;
        })
    };
    rig.try_submit(long(0, 9)).expect("fits");
    rig.step();
    rig.try_submit(long(1, 0)).expect("fits");
    assert_eq!(rig.step(), [(1, 160)]);
    assert_eq!((rig.preempted(), rig.admitted()), (vec![0], vec![1]));
}

#[test]
fn one_that_was_displaced_three_times_is_left_alone() {
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(1)
        .policy(Displacing(Priority));
    let mut rig = Rig::new(builder, 40);
    rig.try_submit(prioritised(0, 5, 9)).expect("fits");
    rig.step();
    for slot in 1..=3 {
        rig.try_submit(prioritised(slot, 5, 0)).expect("fits");
        rig.step();
        assert_eq!(rig.preempted(), [0]);
        rig.end(slot, End::Done);
        rig.step();
        assert_eq!(rig.admitted(), [0]);
    }
    rig.try_submit(prioritised(4, 5, 0)).expect("fits");
    rig.step();
    assert!(rig.preempted().is_empty());
}

/// Panics wherever it may.
struct Panicking;

impl Policy for Panicking {
    fn rank(&self, _: &SchedRequest) -> Rank {
        Rank::default()
    }

    fn window(&self) -> usize {
        100
    }

    fn displacing(&self) -> bool {
        true
    }

    fn review(&self, _: &Candidate) -> Rank {
        panic!("review")
    }

    fn displaces(&self, _: Rank, _: &Candidate) -> bool {
        panic!("displaces")
    }

    fn served(&mut self, _: &crate::policy::Served<'_>) {
        panic!("served")
    }

    fn patience(&self) -> Option<usize> {
        panic!("patience")
    }
}

#[test]
fn a_policy_that_panics_everywhere_is_first_come_first_served() {
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(1)
        .policy(Panicking);
    let mut rig = Rig::new(builder, 40);
    (0..3).for_each(|slot| rig.submit(slot, 5, 9));
    for slot in 0..3 {
        assert_eq!(rig.step(), [(slot, 5)]);
        assert_eq!(rig.step(), [(slot, 1)]);
        rig.end(slot as u32, End::Done);
    }
    assert!(rig.scheduler.policy_panics() > 8);
    assert_eq!(rig.scheduler.counts().preemptions, 0);
}
