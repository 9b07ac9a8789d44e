//! Who is next, beyond a rank that never changes.

use std::time::Duration;

use llmserve_core::{End, SchedRequest};

use crate::policy::{MaxNewTokens, ShortestPredicted};
use crate::testing::{Rig, id, with};
use crate::{ContinuousScheduler, EarliestDeadline, Fairness, LongestPrefix, Policy};

/// One seat, taken by slot 9999.
fn busy(policy: impl Policy + 'static, fairness: Option<Fairness>) -> Rig {
    let builder = ContinuousScheduler::builder()
        .max_num_seqs(1)
        .policy(policy)
        .fairness(fairness);
    let mut rig = Rig::caching(builder, 200, true);
    rig.submit(9999, 5, 50);
    rig.step();
    rig
}

/// Ends whoever has the seat and serves the next `count`, each to its end.
fn serve(rig: &mut Rig, count: usize) -> Vec<usize> {
    rig.end(9999, End::Done);
    let mut served = Vec::new();
    for _ in 0..count {
        rig.step();
        served.extend(rig.admitted());
        rig.end(rig.admitted()[0] as u32, End::Done);
    }
    served
}

fn prompt(rig: &mut Rig, slot: u32, prompt: &[u32]) {
    rig.submit_prompt(SchedRequest::new(id(slot), prompt.len(), 9), prompt)
        .expect("fits");
}

#[test]
fn the_earliest_deadline_is_served_first_and_none_last() {
    let mut rig = busy(EarliestDeadline, None);
    for (slot, deadline) in [(0, None), (1, Some(90)), (2, Some(30)), (3, None)] {
        let request = with(SchedRequest::new(id(slot), 5, 9), |request| {
            request.deadline = deadline.map(Duration::from_secs);
        });
        rig.try_submit(request).expect("fits");
    }
    assert_eq!(serve(&mut rig, 4), [2, 1, 0, 3]);
}

#[test]
fn the_shortest_work_is_served_first() {
    let mut rig = busy(ShortestPredicted::by(MaxNewTokens), None);
    for (slot, tokens, max_new) in [(0, 50, 50), (1, 5, 60), (2, 20, 30), (3, 1, 200)] {
        rig.submit(slot, tokens, max_new);
    }
    assert_eq!(serve(&mut rig, 4), [2, 1, 0, 3]);
}

#[test]
fn what_tenants_were_served_predicts_what_they_will_be() {
    let mut rig = busy(<ShortestPredicted>::default(), None);
    let request = |slot, tenant: &str| {
        with(SchedRequest::new(id(slot), 5, 100), |request| {
            request.tenant = Some(tenant.into());
        })
    };
    rig.end(9999, End::Done);
    for (slot, tenant, tokens) in [(0, "essays", 30), (1, "labels", 2)] {
        rig.try_submit(request(slot, tenant)).expect("fits");
        (0..tokens).for_each(|_| _ = rig.step());
        rig.end(slot, End::Done);
    }
    rig.submit(9999, 5, 50);
    rig.step();
    rig.try_submit(request(2, "essays")).expect("fits");
    rig.try_submit(request(3, "labels")).expect("fits");
    assert_eq!(serve(&mut rig, 2), [3, 2]);
}

#[test]
fn the_longest_cached_prefix_is_served_first() {
    let mut rig = busy(LongestPrefix, None);
    let shared: Vec<u32> = (100..164).collect();
    prompt(&mut rig, 50, &shared);
    assert_eq!(serve(&mut rig, 1), [50]);
    rig.submit(9999, 5, 50);
    rig.step();
    prompt(&mut rig, 0, &[7; 40]);
    prompt(&mut rig, 1, &[&shared[..16], &[8; 10]].concat());
    prompt(&mut rig, 2, &[9; 40]);
    prompt(&mut rig, 3, &[&shared[..48], &[8; 10]].concat());
    assert_eq!(serve(&mut rig, 4), [3, 1, 0, 2]);
}

#[test]
fn a_prefix_that_came_to_be_cached_while_one_waited_counts() {
    let mut rig = busy(LongestPrefix, None);
    let twin = |last: u32| [(100..148).collect(), vec![last]].concat();
    prompt(&mut rig, 0, &twin(1));
    prompt(&mut rig, 1, &[7; 40]);
    prompt(&mut rig, 2, &twin(2));
    assert_eq!(serve(&mut rig, 3), [0, 2, 1]);
}

#[test]
fn in_a_long_queue_the_longest_prefix_is_first_come_first_served() {
    let mut rig = busy(LongestPrefix, None);
    let shared: Vec<u32> = (100..148).collect();
    prompt(&mut rig, 500, &shared);
    assert_eq!(serve(&mut rig, 1), [500]);
    rig.submit(9999, 5, 50);
    rig.step();
    (0..129).for_each(|slot| rig.submit(slot, 3, 9));
    prompt(&mut rig, 200, &shared);
    let served = serve(&mut rig, 4);
    assert_eq!(served, [0, 1, 200, 2], "until 128 wait");
    // And back: what was reviewed does not outlast the short queue.
    rig.submit(9999, 5, 50);
    prompt(&mut rig, 201, &[&shared[..32], &[1; 9]].concat());
    rig.step();
    assert_eq!(rig.admitted(), [201]);
    for slot in 202..210 {
        prompt(&mut rig, slot, &[&shared[..32], &[slot; 9]].concat());
    }
    rig.end(201, End::Done);
    rig.step();
    assert_eq!(rig.admitted(), [3], "more than 128 again");
}

#[test]
fn no_request_is_overtaken_for_ever_by_longer_prefixes() {
    let mut rig = busy(LongestPrefix, None);
    let shared: Vec<u32> = (100..132).collect();
    prompt(&mut rig, 500, &shared);
    serve(&mut rig, 1);
    rig.submit(9999, 5, 50);
    rig.step();
    prompt(&mut rig, 0, &[7; 40]);
    let mut overtaken = 0;
    prompt(&mut rig, 1, &[&shared[..], &[1]].concat());
    for slot in 2.. {
        prompt(&mut rig, slot, &[&shared[..], &[slot]].concat());
        if serve(&mut rig, 1) == [0] {
            break;
        }
        overtaken += 1;
    }
    assert_eq!(overtaken, 128);
}

#[test]
fn a_twin_waits_for_the_one_who_computes_their_prefix() {
    let builder = ContinuousScheduler::builder()
        .max_batched_tokens(100)
        .long_prefill_threshold(32);
    let mut rig = Rig::caching(builder, 40, true);
    let shared: Vec<u32> = (100..180).collect();
    prompt(&mut rig, 0, &[&shared[..], &[1; 5]].concat());
    prompt(&mut rig, 1, &[&shared[..], &[2; 5]].concat());
    prompt(&mut rig, 2, &[3; 20]);
    // The second could begin at 32 and compute what the first computes in its next step.
    assert_eq!(rig.step(), [(0, 32), (2, 20)]);
    assert_eq!(rig.step(), [(0, 32), (2, 1)]);
    assert_eq!(rig.step(), [(0, 21), (2, 1), (1, 5)]);
    assert_eq!(rig.plan.admitted[0].cached_tokens, 80);
}

#[test]
fn twins_of_one_step_need_not_wait() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 40, true);
    let shared: Vec<u32> = (100..180).collect();
    for slot in 0..3 {
        prompt(&mut rig, slot, &[&shared[..], &[slot; 5]].concat());
    }
    assert_eq!(rig.step(), [(0, 85), (1, 5), (2, 5)]);
}

#[test]
fn a_twin_does_not_wait_for_one_who_is_slower() {
    let mut rig = Rig::caching(ContinuousScheduler::builder(), 40, true);
    let shared: Vec<u32> = (100..180).collect();
    let slow = with(SchedRequest::new(id(0), 80, 9), |r| r.max_chunk = Some(8));
    rig.submit_prompt(slow, &shared).expect("fits");
    prompt(&mut rig, 1, &shared);
    assert_eq!(rig.step(), [(0, 8), (1, 80)]);
}

#[test]
fn a_tenant_with_a_thousand_costs_one_with_one_a_single_turn() {
    for (fairness, most) in [(Some(Fairness::default().quantum(10)), 1), (None, 1000)] {
        let mut rig = busy(crate::Fcfs, fairness);
        for slot in 0..1000 {
            let request = with(SchedRequest::new(id(slot), 10, 9), |request| {
                request.tenant = Some("many".into());
            });
            rig.try_submit(request).expect("fits");
        }
        let few = with(SchedRequest::new(id(5000), 10, 9), |request| {
            request.tenant = Some("few".into());
        });
        rig.try_submit(few).expect("fits");
        let served = serve(&mut rig, 1001);
        let before = served.iter().position(|slot| *slot == 5000);
        assert_eq!(before, Some(most));
    }
}

#[test]
fn within_a_tenant_the_policy_decides() {
    let fairness = Fairness::default().quantum(5);
    let mut rig = busy(ShortestPredicted::by(MaxNewTokens), Some(fairness));
    for (slot, tenant, max_new) in [
        (0, "a", 9),
        (1, "a", 3),
        (2, "b", 8),
        (3, "b", 100),
        (4, "a", 6),
    ] {
        let request = with(SchedRequest::new(id(slot), 5, max_new), |request| {
            request.tenant = Some(tenant.into());
        });
        rig.try_submit(request).expect("fits");
    }
    assert_eq!(serve(&mut rig, 5), [1, 2, 4, 3, 0]);
}

#[test]
fn twins_that_wait_are_not_looked_up_in_every_plan() {
    let builder = ContinuousScheduler::builder().max_batched_tokens(32);
    let mut rig = Rig::caching(builder, 400, true);
    let twin = |last: u32| [(1000..1320).collect(), vec![last]].concat();
    (0..40).for_each(|slot| prompt(&mut rig, slot, &twin(slot)));
    // The first takes ten steps; the others were looked up once.
    rig.step();
    rig.step();
    let lookups = rig.kv.lookups.get();
    for _ in 2..10 {
        assert_eq!(rig.step(), [(0, 32)]);
    }
    assert!(rig.kv.lookups.get() < lookups + 20, "{lookups}");
    let rows = rig.step();
    assert_eq!(rows[..2], [(0, 1), (1, 1)], "what they share is there");
    assert_eq!(rows.len(), 32);
}
