//! What policies do to traffic: at half the size of the defaults, with the same load of each
//! replica and the same KV for each client.

use std::sync::OnceLock;
use std::time::Duration;

use super::*;

const CLIENTS: usize = 4_000;

fn half(traffic: Traffic) -> Traffic {
    Traffic {
        clients: CLIENTS,
        think: traffic.think / 2,
        ..traffic
    }
}

fn simulation(traffic: Traffic) -> SimulationBuilder {
    Simulation::builder()
        .model(ReplicaModel {
            kv_tokens: 262_144,
            ..ReplicaModel::default()
        })
        .traffic(half(traffic))
        .requests(4 * CLIENTS as u64)
}

fn run(traffic: Traffic, name: &str) -> Report {
    let simulation = simulation(traffic).seed(3).build().unwrap();
    let report = simulation.run(Policy::named(name, 16, 3).unwrap()).unwrap();
    assert!(report.requests >= 4 * CLIENTS as u64 && report.refused == 0);
    report
}

/// Used by two tests.
fn bounded() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| run(Traffic::multi_turn(), "bounded-hash"))
}

#[test]
fn bounded_hashing_keeps_conversations_where_their_kv_is() {
    let random = run(Traffic::multi_turn(), "random");
    let bounded = bounded();
    assert!(
        bounded.mean_ttft_ms <= 0.05 * random.mean_ttft_ms,
        "{} ms, {} ms",
        bounded.mean_ttft_ms,
        random.mean_ttft_ms
    );
    assert!(
        bounded.throughput_rps >= 2.2 * random.throughput_rps,
        "{}/s, {}/s",
        bounded.throughput_rps,
        random.throughput_rps
    );
}

#[test]
fn kv_awareness_does_better_than_hashing_and_turns() {
    let turns = run(Traffic::multi_turn(), "round-robin");
    let (bounded, aware) = (bounded(), run(Traffic::multi_turn(), "kv-aware"));
    assert!(
        aware.hit_rate >= 3.8 * turns.hit_rate,
        "{}, {}",
        aware.hit_rate,
        turns.hit_rate
    );
    assert!(
        aware.throughput_rps >= 1.9 * turns.throughput_rps,
        "{}/s, {}/s",
        aware.throughput_rps,
        turns.throughput_rps
    );
    assert!(aware.mean_ttft_ms < bounded.mean_ttft_ms);
    assert!(aware.p99_ttft_ms < bounded.p99_ttft_ms);
    assert!(aware.throughput_rps > bounded.throughput_rps);
    assert!(aware.hit_rate > bounded.hit_rate);
    assert_eq!(aware.replicas.len(), 8);
}

#[test]
fn nothing_is_lost_where_nothing_is_shared() {
    let least = run(Traffic::random(), "least-loaded");
    assert_eq!(least.hit_rate, 0.0);
    for name in ["bounded-hash", "kv-aware"] {
        let report = run(Traffic::random(), name);
        assert!(
            report.throughput_rps >= 0.97 * least.throughput_rps,
            "{name}: {}/s, {}/s",
            report.throughput_rps,
            least.throughput_rps
        );
        assert!(
            report.mean_ttft_ms <= 1.03 * least.mean_ttft_ms,
            "{name}: {} ms, {} ms",
            report.mean_ttft_ms,
            least.mean_ttft_ms
        );
    }
}

#[test]
fn a_queue_everywhere_does_not_scatter_conversations() {
    // More than all replicas together can take: whoever leaves its KV for a queue that is a little
    // shorter makes all queues longer.
    let traffic = Traffic {
        think: Duration::from_secs(5),
        ..Traffic::multi_turn()
    };
    let bounded = run(traffic.clone(), "bounded-hash");
    let aware = run(traffic, "kv-aware");
    assert!(bounded.mean_ttft_ms > 1_000.0, "{}", bounded.mean_ttft_ms);
    assert!(
        aware.hit_rate > bounded.hit_rate && aware.throughput_rps > bounded.throughput_rps,
        "{}, {}; {}/s, {}/s",
        aware.hit_rate,
        bounded.hit_rate,
        aware.throughput_rps,
        bounded.throughput_rps
    );
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let small = |seed| {
        let traffic = Traffic {
            clients: 200,
            ..Traffic::multi_turn()
        };
        let simulation = simulation(Traffic::multi_turn()).traffic(traffic);
        simulation.requests(1_000).seed(seed).build().unwrap()
    };
    for name in crate::strategy::NAMES
        .into_iter()
        .chain(["kv-aware-approximate"])
    {
        let report = |seed| {
            let policy = Policy::named(name, 16, seed).unwrap();
            small(seed).run(policy).unwrap()
        };
        assert_eq!(report(1), report(1), "{name}");
        assert_ne!(report(1), report(2), "{name}");
    }
}

/// A request for a part that nobody shares, behind `shared`.
fn request(arrival: u64, shared: &[Part], own: u64) -> SimulatedRequest {
    SimulatedRequest {
        arrival: Duration::from_millis(arrival),
        prompt: [shared, &[(own, 100).into()]].concat(),
        answer: (own + 1, 10).into(),
        session: None,
    }
}

#[test]
fn a_trace_is_replayed_to_its_last_request() {
    let simulation = Simulation::builder().replicas(2).build().unwrap();
    let shared = [Part::from((1, 1_600))];
    let trace = vec![
        request(0, &shared, 10),
        // Long after the first has ended.
        request(5_000, &shared, 20),
        request(5_000, &[], 30),
        // Nobody has room for it, however long it waits.
        request(6_000, &[Part::from((2, usize::MAX))], 40),
    ];
    let replay = |name: &str, trace: Vec<_>| {
        let policy = Policy::named(name, 16, 1).unwrap();
        simulation.replay(trace, policy)
    };
    let aware = replay("kv-aware", trace.clone()).unwrap();
    assert_eq!((aware.requests, aware.refused), (3, 1));
    assert_eq!(aware.hit_rate, 1_600.0 / 3_500.0);
    // 1,700 tokens at 8,000 a second, alone.
    assert_eq!(aware.ttft_quantiles_ms[100], 212.5);
    let turns = replay("round-robin", trace.clone()).unwrap();
    assert_eq!(turns.hit_rate, 0.0);
    let backwards = vec![trace[1].clone(), trace[0].clone()];
    assert_eq!(
        replay("random", backwards),
        Err(SimulationError::OutOfOrder { index: 1 })
    );
    assert_eq!(replay("random", Vec::new()).unwrap().requests, 0);
}

#[test]
fn what_cannot_be_simulated_is_told() {
    let model = ReplicaModel::default();
    for wrong in [
        ReplicaModel {
            prefill_tokens_per_s: 0.0,
            ..model
        },
        ReplicaModel {
            prefill_tokens_per_s: f64::NAN,
            ..model
        },
        ReplicaModel {
            decode_ms: -1.0,
            ..model
        },
        ReplicaModel {
            decode_ms: 0.0,
            row_ms: 0.0,
            ..model
        },
        ReplicaModel {
            chunk_tokens: 0,
            ..model
        },
        ReplicaModel {
            block_tokens: 0,
            ..model
        },
        ReplicaModel {
            max_sequences: 0,
            ..model
        },
        ReplicaModel {
            kv_tokens: 15,
            ..model
        },
    ] {
        let error = Simulation::builder().model(wrong).build().err();
        assert!(
            matches!(error, Some(SimulationBuildError::Model(_))),
            "{wrong:?}"
        );
    }
    for wrong in [
        Traffic {
            clients: 0,
            ..Traffic::random()
        },
        Traffic {
            turns: (0, 1),
            ..Traffic::random()
        },
        Traffic {
            turns: (2, 1),
            ..Traffic::random()
        },
        Traffic {
            message_tokens: 0.0,
            ..Traffic::random()
        },
        Traffic {
            answer_tokens: f64::INFINITY,
            ..Traffic::random()
        },
        Traffic {
            systems: usize::MAX,
            ..Traffic::random()
        },
    ] {
        let error = Simulation::builder().traffic(wrong.clone()).build().err();
        assert!(
            matches!(error, Some(SimulationBuildError::Traffic(_))),
            "{wrong:?}"
        );
    }
    let nobody = Simulation::builder().replicas(0).build().err();
    assert_eq!(nobody, Some(SimulationBuildError::Replicas));
}
