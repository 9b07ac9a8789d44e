use std::sync::Arc;

use super::{Place, Queue};
use crate::fairness::Fairness;
use crate::policy::Rank;
use proptest::prelude::*;

fn place(rank: i64, newcomer: bool, order: u64) -> Place {
    Place {
        rank: Rank::new(rank),
        newcomer,
        order,
        slot: order as usize,
    }
}

fn tenant(name: &str) -> Option<Arc<str>> {
    Some(name.into())
}

#[test]
fn preempted_ones_come_first_within_their_rank_only() {
    let mut queue = Queue::new(None, None, 8);
    let expected = [
        place(0, true, 9),
        place(1, false, 7),
        place(1, false, 8),
        place(1, true, 2),
        place(2, false, 1),
    ];
    let line = queue.join(None);
    for at in [3, 0, 4, 2, 1] {
        queue.insert(line, expected[at], 1);
    }
    for place in expected {
        assert_eq!(queue.next(1), Some((line, place)));
        queue.pass(line, place, 1);
    }
    assert_eq!(queue.next(1), None);
    queue.remove(line, &expected[0], 1);
    assert_eq!(queue.next(2), Some((line, expected[1])));
    assert_eq!((queue.len(), queue.tokens(), queue.resumed()), (4, 4, 3));
}

/// Serves the queue to its end, each costing `cost`, and tells the lines in order.
fn serve(queue: &mut Queue, cost: usize) -> Vec<usize> {
    let mut served = Vec::new();
    while let Some((line, place)) = queue.next(1) {
        queue.remove(line, &place, 1);
        queue.admitted(line, cost, 0);
        served.push(line);
    }
    served
}

fn fair(quantum: usize) -> Queue {
    Queue::new(Some(Fairness::default().quantum(quantum)), None, 8)
}

#[test]
fn tenants_take_turns_whatever_they_have_queued() {
    let mut queue = fair(10);
    let (a, b) = (
        queue.join(tenant("a").as_ref()),
        queue.join(tenant("b").as_ref()),
    );
    (0..6).for_each(|order| queue.insert(a, place(0, true, order), 1));
    queue.insert(b, place(0, true, 6), 1);
    queue.insert(b, place(0, true, 7), 1);
    assert_eq!(serve(&mut queue, 10), [a, b, a, b, a, a, a, a]);
}

#[test]
fn a_tenant_of_twice_the_weight_is_served_twice_as_much() {
    let fairness = Fairness::default().quantum(10).weight("b", 2.0);
    let mut queue = Queue::new(Some(fairness), None, 8);
    let (a, b) = (
        queue.join(tenant("a").as_ref()),
        queue.join(tenant("b").as_ref()),
    );
    for order in 0..30 {
        queue.insert(a, place(0, true, order), 1);
        queue.insert(b, place(0, true, 100 + order), 1);
    }
    let served = serve(&mut queue, 10);
    let of_b = served[..30].iter().filter(|line| **line == b).count();
    assert_eq!(of_b, 20);
}

#[test]
fn what_was_generated_while_another_waited_is_paid_later() {
    let mut queue = fair(10);
    let (a, b) = (
        queue.join(tenant("a").as_ref()),
        queue.join(tenant("b").as_ref()),
    );
    queue.generated(a, 1000);
    queue.insert(a, place(0, true, 0), 1);
    queue.generated(a, 1000);
    (1..5).for_each(|order| queue.insert(b, place(0, true, order), 1));
    // Until here nobody else waited. Three turns' worth:
    queue.generated(a, 40);
    assert_eq!(serve(&mut queue, 10), [b, b, b, b, a]);
}

#[test]
fn debts_end_when_nobody_waits() {
    let mut queue = fair(10);
    let (a, b) = (
        queue.join(tenant("a").as_ref()),
        queue.join(tenant("b").as_ref()),
    );
    queue.insert(b, place(0, true, 0), 1);
    queue.generated(a, 1_000_000);
    queue.remove(b, &place(0, true, 0), 1);
    queue.insert(a, place(0, true, 1), 1);
    queue.insert(b, place(0, true, 2), 1);
    assert_eq!(serve(&mut queue, 10), [a, b]);
}

#[test]
fn a_tenant_is_forgotten_with_its_last_sequence_and_debt() {
    let mut queue = fair(10);
    let a = queue.join(tenant("a").as_ref());
    let b = queue.join(tenant("b").as_ref());
    (0..3).for_each(|order| queue.insert(b, place(0, true, order), 1));
    queue.generated(a, 15);
    queue.leave(a);
    assert_eq!(queue.names.len(), 2, "it has debts");
    assert_eq!(serve(&mut queue, 10), [b, b, b]);
    queue.insert(b, place(0, true, 3), 1);
    assert_eq!(queue.names.len(), 1);
    let c = queue.join(tenant("c").as_ref());
    assert_eq!(
        (c, queue.lines[c].credit),
        (a, 0),
        "its number is given out again"
    );
}

#[test]
fn cached_tokens_cost_less() {
    let mut queue = fair(10);
    let (a, b) = (
        queue.join(tenant("a").as_ref()),
        queue.join(tenant("b").as_ref()),
    );
    for order in 0..4 {
        queue.insert(a, place(0, true, order), 1);
        queue.insert(b, place(0, true, 10 + order), 1);
    }
    let mut served = Vec::new();
    while let Some((line, place)) = queue.next(1) {
        queue.remove(line, &place, 1);
        // All of what `a` asks for is cached: a tenth of the cost.
        let (computed, cached) = if line == a { (0, 10) } else { (10, 0) };
        queue.admitted(line, computed, cached);
        served.push(line);
    }
    assert_eq!(served[..5], [a, a, a, a, b]);
}

#[test]
fn one_overtaken_often_enough_is_next() {
    let mut queue = Queue::new(None, Some(3), 8);
    let line = queue.join(None);
    queue.insert(line, place(9, true, 0), 1);
    let mut before = 0;
    for order in 1.. {
        queue.insert(line, place(1, true, order), 1);
        let (_, next) = queue.next(order).expect("two wait");
        queue.remove(line, &next, 1);
        if next.order == 0 {
            break;
        }
        before += 1;
    }
    assert_eq!(before, 3);
}

proptest! {
    /// The bound that keeps a tenant from starving: between the arrival of its request and its
    /// admission no other tenant is served more than one turn and one request.
    #[test]
    fn a_tenant_waits_for_at_most_one_turn_of_each_other(
        floods in prop::collection::vec((1..60usize, 1..400usize), 1..6),
        served_before in 0..80usize,
        cost in 1..400usize,
        quantum in 1..300usize,
    ) {
        let mut queue = fair(quantum);
        let mut costs = Vec::new();
        let mut order = 0;
        for (index, (requests, cost)) in floods.iter().enumerate() {
            let line = queue.join(tenant(&format!("flood {index}")).as_ref());
            for _ in 0..*requests {
                queue.insert(line, place(0, true, order), 1);
                order += 1;
            }
            costs.resize(line + 1, 0);
            costs[line] = *cost;
        }
        let serve = |queue: &mut Queue, costs: &[usize]| {
            let (line, place) = queue.next(1)?;
            queue.remove(line, &place, 1);
            queue.admitted(line, costs[line], 0);
            Some(line)
        };
        for _ in 0..served_before {
            serve(&mut queue, &costs);
        }
        let one = queue.join(tenant("one").as_ref());
        costs.resize(one + 1, cost);
        costs[one] = cost;
        queue.insert(one, place(0, true, order), 1);
        let mut service = vec![0; costs.len()];
        loop {
            let line = serve(&mut queue, &costs).expect("it waits");
            if line == one {
                break;
            }
            service[line] += costs[line];
            prop_assert!(service[line] < quantum + costs[line], "{} of {:?}", line, costs);
        }
    }

    /// The bound that keeps a request from starving behind its own tenant's: `w` before it and
    /// `patience` after it.
    #[test]
    fn a_request_is_overtaken_only_so_often(
        ranks in prop::collection::vec((0..5i64, 0..3usize), 1..120),
        patience in 0..20usize,
    ) {
        let mut queue = Queue::new(None, Some(patience), 8);
        let line = queue.join(None);
        let (mut left, mut due) = (0, Vec::new());
        let mut arrivals = ranks.into_iter();
        loop {
            let arrived = arrivals.next();
            if let Some((rank, _)) = arrived {
                let order = due.len() as u64;
                due.push(left + queue.len() + patience);
                queue.insert(line, place(rank, true, order), 1);
            }
            for _ in 0..arrived.map_or(1, |(_, serve)| serve) {
                let Some((_, next)) = queue.next(1) else { break };
                queue.remove(line, &next, 1);
                prop_assert!(left <= due[next.order as usize]);
                left += 1;
            }
            if arrived.is_none() && queue.len() == 0 {
                break;
            }
        }
    }
}
