//! In proportion to targets.

use proptest::prelude::*;

use super::*;

const NEVER: LastScaled = LastScaled(None);

fn decide(config: &Horizontal, current: usize, signals: &[Signals]) -> (usize, Reason) {
    let decision = config.decide(at(1_000), current, signals, NEVER);
    (decision.replicas, decision.reason)
}

/// Whose windows and steps let everything through.
fn prompt() -> Horizontal {
    Horizontal::default()
        .between(0, 100)
        .windows(at(0), at(0))
        .steps(100, 100)
}

#[test]
fn who_asks_for_most_is_heard() {
    let now = Signals::new(at(1_000), 10);
    let config = prompt().p95(at(1));
    assert_eq!(decide(&config, 10, &[]), (10, Reason::NoSignal));
    assert_eq!(decide(&config, 10, &[now]), (10, Reason::NoSignal));
    let busy = now.utilization(1.4);
    assert_eq!(decide(&config, 10, &[busy]), (20, Reason::Utilization));
    assert_eq!(
        decide(&config, 10, &[busy.queue(120.0)]),
        (30, Reason::Queue)
    );
    assert_eq!(
        decide(&config, 10, &[busy.p95(at(4))]),
        (40, Reason::Latency)
    );
    assert_eq!(
        decide(&config, 10, &[busy.p95(at(1))]),
        (20, Reason::Utilization)
    );
    // Ten per cent off is on target; a little more is not.
    assert_eq!(
        decide(&config, 10, &[now.utilization(0.76)]),
        (10, Reason::OnTarget)
    );
    assert_eq!(
        decide(&config, 10, &[now.utilization(0.78)]),
        (12, Reason::Utilization)
    );
    // Fewer, unless one of them needs what there is; a p95 that is kept needs nothing.
    let idle = now.utilization(0.07);
    assert_eq!(decide(&config, 10, &[idle]), (1, Reason::Utilization));
    assert_eq!(
        decide(&config, 10, &[idle.queue(40.0)]),
        (10, Reason::OnTarget)
    );
    assert_eq!(
        decide(&config, 10, &[idle.p95(Duration::from_millis(5))]),
        (1, Reason::Utilization)
    );
    assert_eq!(
        decide(&config, 10, &[now.p95(Duration::from_millis(5))]),
        (10, Reason::OnTarget)
    );
    // What is no number says nothing.
    assert_eq!(
        decide(&config, 10, &[now.utilization(f64::NAN)]),
        (10, Reason::NoSignal)
    );
    assert_eq!(
        decide(&config, 10, &[now.utilization(-1.0)]),
        (10, Reason::NoSignal)
    );
    assert_eq!(
        decide(&config, 10, &[now.queue(1e300)]),
        (100, Reason::Limit)
    );
}

#[test]
fn to_none_and_back() {
    let none = Signals::new(at(1_000), 0);
    assert_eq!(
        decide(&prompt(), 0, &[none.utilization(1.0)]),
        (0, Reason::NoSignal)
    );
    assert_eq!(decide(&prompt(), 0, &[none.queue(0.0)]), (0, Reason::Queue));
    assert_eq!(decide(&prompt(), 0, &[none.queue(1.0)]), (1, Reason::Queue));
    assert_eq!(decide(&prompt(), 0, &[none.queue(9.0)]), (3, Reason::Queue));
    let idle = Signals::new(at(1_000), 2).utilization(0.0).queue(0.0);
    assert_eq!(decide(&prompt(), 2, &[idle]).0, 0);
    assert_eq!(
        decide(&prompt().between(1, 9), 2, &[idle]),
        (1, Reason::Limit)
    );
    // Outside the limits nothing else counts.
    let hold = LastScaled(Some(at(999)));
    let limits = prompt().between(3, 5);
    assert_eq!(limits.decide(at(1_000), 1, &[], hold).replicas, 3);
    assert_eq!(limits.decide(at(1_000), 9, &[], hold).replicas, 5);
}

#[test]
fn windows_pauses_and_steps() {
    let config = Horizontal::default()
        .between(1, 50)
        .windows(at(30), at(300));
    let sample =
        |seconds: u64, utilization: f64| Signals::new(at(seconds), 10).utilization(utilization);
    // A peak within the window of 300 s holds up going down, and up needs 30 s of it.
    let (low, high) = (sample(1_000, 0.07), sample(705, 0.7));
    assert_eq!(decide(&config, 10, &[low, high]), (10, Reason::Stabilizing));
    assert_eq!(decide(&config, 10, &[high, low]), (10, Reason::Stabilizing));
    assert_eq!(
        decide(&config, 10, &[low, sample(699, 0.7)]),
        (9, Reason::Utilization)
    );
    let rising = [sample(969, 0.1), sample(975, 1.4), sample(1_000, 1.4)];
    assert_eq!(decide(&config, 10, &rising), (20, Reason::Utilization));
    let spike = [sample(975, 0.7), sample(1_000, 1.4)];
    assert_eq!(decide(&config, 10, &spike), (10, Reason::Stabilizing));
    // What is yet to come has no say.
    assert_eq!(
        decide(&config, 10, &[sample(1_001, 1.4)]),
        (10, Reason::NoSignal)
    );
    let since = |seconds: u64| LastScaled(Some(at(1_000 - seconds)));
    let after = |seconds, sample| config.decide(at(1_000), 10, &[sample], since(seconds));
    assert_eq!(after(14, sample(1_000, 1.4)).reason, Reason::Cooldown);
    assert_eq!(after(15, sample(1_000, 1.4)).replicas, 20);
    assert_eq!(after(59, low).reason, Reason::Cooldown);
    assert_eq!((after(60, low).replicas, after(60, low).wanted), (9, 1));
    // At most as many again, or four; or as is said.
    let flood = Signals::new(at(1_000), 2).queue(1e6);
    assert_eq!(decide(&config, 2, &[flood]).0, 6);
    assert_eq!(decide(&config.clone().steps(3, 1), 2, &[flood]).0, 5);
}

#[test]
fn configurations_that_cannot_be() {
    let bad = |config: Horizontal| config.check().is_err();
    assert!(!bad(Horizontal::default()));
    assert!(bad(prompt().between(3, 2)));
    assert!(bad(prompt().between(0, 0)));
    assert!(bad(prompt().utilization(0.0)));
    assert!(bad(prompt().queue(f64::NAN)));
    assert!(bad(prompt().p95(at(0))));
    assert!(bad(prompt().tolerance(1.0)));
    assert!(bad(prompt().steps(0, 1)) && bad(prompt().steps(1, 0)));
}

proptest! {
    #[test]
    fn never_outside_the_limits_nor_further_than_a_step(
        current in 0usize..40,
        min in 0usize..10,
        more in 1usize..20,
        step in 1usize..5,
        samples in prop::collection::vec((900u64..1_100, 0usize..40, -1.0f64..5.0, 0.0f64..500.0), 0..8),
        last in prop::option::of(900u64..1_000),
    ) {
        let config = Horizontal::default().between(min, min + more).steps(step, step);
        let samples: Vec<_> = samples
            .into_iter()
            .map(|(seconds, replicas, utilization, queue)| {
                Signals::new(at(seconds), replicas).utilization(utilization).queue(queue)
            })
            .collect();
        let last = LastScaled(last.map(at));
        let decision = config.decide(at(1_000), current, &samples, last);
        prop_assert!((min..=min + more).contains(&decision.replicas));
        if (min..=min + more).contains(&current) {
            prop_assert!(decision.replicas.abs_diff(current) <= step);
            let seen = samples.iter().any(|sample| sample.at <= at(1_000));
            prop_assert!(seen || decision.replicas == current);
        }
    }
}
