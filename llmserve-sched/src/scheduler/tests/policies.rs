//! Order of service.

use llmserve_core::{End, SchedRequest};

use crate::testing::{Rig, id, with};
use crate::{Candidate, ContinuousScheduler, Policy, Priority, Rank};

fn with_priority(slot: u32, tokens: usize, priority: i32) -> SchedRequest {
    with(SchedRequest::new(id(slot), tokens, 50), |r| {
        r.priority = priority
    })
}

/// The slots in the order in which they get the only seat.
fn order_of_service(policy: impl Policy + 'static, priorities: &[i32]) -> Vec<usize> {
    let mut rig = Rig::new(
        ContinuousScheduler::builder()
            .policy(policy)
            .max_num_seqs(1),
        10,
    );
    rig.submit(99, 4, 50);
    rig.step();
    for (slot, priority) in priorities.iter().enumerate() {
        rig.try_submit(with_priority(slot as u32, 4, *priority))
            .expect("fits");
    }
    rig.end(99, End::Done);
    let mut served = Vec::new();
    for _ in priorities {
        rig.step();
        served.extend(rig.admitted());
        rig.end(rig.admitted()[0] as u32, End::Done);
    }
    served
}

#[test]
fn lower_priorities_are_served_sooner() {
    // Priorities 0, 1, 2, 3.
    assert_eq!(order_of_service(Priority, &[3, 1, 2, 0]), [3, 1, 2, 0]);
}

#[test]
fn equal_priorities_are_served_in_order_of_arrival() {
    assert_eq!(
        order_of_service(Priority, &[1, 0, 1, 0, 1]),
        [1, 3, 0, 2, 4]
    );
}

#[test]
fn first_come_first_served_does_not_look_at_priorities() {
    assert_eq!(order_of_service(crate::Fcfs, &[3, 1, 2, 0]), [0, 1, 2, 3]);
}

#[test]
fn a_boxed_policy_is_a_policy() {
    let boxed: Box<dyn Policy> = Box::new(Priority);
    assert_eq!(order_of_service(boxed, &[2, 1]), [1, 0]);
}

#[test]
fn the_lowest_priority_yields_whoever_came_last() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Priority), 15);
    for (slot, priority) in [(0, 1), (1, 5), (2, 1)] {
        rig.try_submit(with_priority(slot, 80, priority))
            .expect("fits");
    }
    // In order of priority: 0, 2, 1, each with five blocks.
    assert_eq!(rig.step(), [(0, 80), (2, 80), (1, 80)]);
    assert_eq!(rig.step(), [(0, 1), (2, 1)]);
    assert_eq!(rig.preempted(), [1]);
}

#[test]
fn one_preempted_waits_behind_a_better_priority_and_before_its_own() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Priority), 10);
    for (slot, priority) in [(0, 0), (1, 1)] {
        rig.try_submit(with_priority(slot, 80, priority))
            .expect("fits");
    }
    rig.step();
    rig.step();
    assert_eq!(rig.preempted(), [1]);
    rig.try_submit(with_priority(2, 8, 1)).expect("fits");
    assert_eq!(
        rig.step(),
        [(0, 1)],
        "the preempted one comes first and needs six blocks of four"
    );
    rig.try_submit(with_priority(3, 8, 0)).expect("fits");
    assert_eq!(rig.step(), [(0, 1), (3, 8)]);
    rig.end(0, End::Done);
    assert_eq!(rig.step(), [(3, 1), (1, 81), (2, 8)]);
}

/// Takes the blocks of whoever has most.
struct Robin;

impl Policy for Robin {
    fn rank(&self, request: &SchedRequest) -> Rank {
        Rank::new(request.tokens as i64)
    }

    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        let most = candidates
            .iter()
            .enumerate()
            .max_by_key(|(_, candidate)| candidate.computed);
        most.map(|(index, _)| index)
    }
}

#[test]
fn a_policy_of_the_hosts_own_decides_who_yields() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Robin), 10);
    rig.submit(0, 96, 9);
    rig.submit(1, 64, 9);
    assert_eq!(rig.step(), [(1, 64), (0, 96)], "shortest first");
    assert_eq!(rig.step(), [(1, 1)]);
    assert_eq!(rig.preempted(), [0]);
}

/// Names somebody who is not there.
struct Absent;

impl Policy for Absent {
    fn rank(&self, _: &SchedRequest) -> Rank {
        Rank::default()
    }

    fn victim(&self, candidates: &[Candidate]) -> Option<usize> {
        Some(candidates.len())
    }
}

#[test]
fn a_victim_that_does_not_exist_leaves_it_to_the_default() {
    let mut rig = Rig::new(ContinuousScheduler::builder().policy(Absent), 10);
    rig.submit(0, 80, 9);
    rig.submit(1, 80, 9);
    rig.step();
    rig.step();
    assert_eq!(
        (rig.preempted(), rig.scheduler.policy_panics()),
        (vec![1], 0)
    );
}
