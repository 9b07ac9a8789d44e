//! What the router and the layers before it add to a call of the same endpoints.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use llmserve::Generate;
use llmserve_benches::Report;
use llmserve_core::IdentityRoot;
use llmserve_route::admission::Admission;
use llmserve_route::index::PrefixIndex;
use llmserve_route::limits::{Limit, Limiter, Limits, Per, Rate};
use llmserve_route::{
    KvAware, LeastLoaded, Replica, Router, RouterBuilder, TextBlocks, TokenBlocks,
};
use serde_json::json;

use crate::rig::{Outcome, Rig, ask};
use crate::{Args, quantile};

/// Tokens of a prompt.
const PROMPT: usize = 1_000;

/// The same calls directly and through limits, admission and a router with its breakers, turn and
/// turn about, so that whatever else the machine does is done to both. Every third is direct as
/// well: what those two differ by is what a difference may be by chance.
pub fn overhead(args: &Args, seconds: u64) -> Result<(), Box<dyn Error>> {
    let title = format!(
        "{} calls/s, of {PROMPT} tokens, direct and routed by turns, {seconds} s; microseconds",
        args.rate
    );
    let mut report = Report::new(&title, args.json);
    for (name, builder) in [
        (
            "least-loaded",
            Router::builder().strategy(LeastLoaded::new()),
        ),
        ("kv-aware, exact", Router::builder().strategy(exact())),
        (
            "kv-aware, approximate",
            Router::builder().strategy(approximate()),
        ),
    ] {
        let mut rig = Rig::new()?;
        rig.hurry()?;
        let routed = layers(&rig, builder)?;
        let direct = rig.endpoints[0].clone();
        let again = direct.clone();
        let services: [Arc<dyn Generate>; 3] =
            [Arc::new(direct), Arc::new(routed), Arc::new(again)];
        let calls = args.rate * seconds as u32;
        let pause = Duration::from_secs(1) / args.rate;
        let times = rig.clients.block_on(async {
            let began = tokio::time::Instant::now();
            let mut times = [const { Vec::new() }; 3];
            for call in 0..calls {
                tokio::time::sleep_until(began + pause * call).await;
                let which = call as usize % 3;
                let outcome = ask(&*services[which], call / 3, PROMPT).await;
                if !outcome.whole || outcome.wrong {
                    return Err(format!("a call failed: {:?}", outcome.error));
                }
                // The first are for connections and caches.
                if call > calls / 10 {
                    times[which].push(outcome);
                }
            }
            Ok(times)
        })?;
        for (what, time) in [
            ("first token", first as fn(&Outcome) -> Duration),
            ("answer", |outcome| outcome.end),
        ] {
            let of = |part| {
                times.each_ref().map(|outcomes| {
                    let times = outcomes.iter().map(time).collect();
                    quantile(times, part).as_secs_f64() * 1e6
                })
            };
            let [direct_p50, routed_p50, _] = of(0.5);
            let [direct_p99, routed_p99, again_p99] = of(0.99);
            report.row(
                &format!("{name}, {what}"),
                &[
                    ("direct_p50", json!(direct_p50)),
                    ("routed_p50", json!(routed_p50)),
                    ("added_p50", json!(routed_p50 - direct_p50)),
                    ("direct_p99", json!(direct_p99)),
                    ("routed_p99", json!(routed_p99)),
                    ("added_p99", json!(routed_p99 - direct_p99)),
                    ("by_chance_p99", json!(again_p99 - direct_p99)),
                ],
            );
        }
    }
    Ok(())
}

fn first(outcome: &Outcome) -> Duration {
    outcome.first.unwrap_or_default()
}

/// As for replicas that announce their blocks: what is assumed bridges the time until they do.
fn exact() -> KvAware {
    let blocks = TokenBlocks::new(IdentityRoot::new(1, "bench", 16), 16);
    KvAware::new(PrefixIndex::new().assume_every(16), blocks).seed(1)
}

/// As for replicas that tell nothing.
fn approximate() -> KvAware {
    KvAware::new(PrefixIndex::new(), TextBlocks::default()).seed(1)
}

/// Limits, admission, and a router over one endpoint: the one that is called directly, so that both
/// have its connections.
fn layers(rig: &Rig, builder: RouterBuilder) -> Result<Limits, Box<dyn Error>> {
    let endpoint = rig.endpoints[0].clone();
    let router = builder
        .replica(Replica::new("server 0", endpoint).identity("these weights"))
        .timeouts(crate::rig::timeouts())
        .build()?;
    let admission = Admission::builder(router, 64).build()?;
    let limit = Limit::default()
        .requests(Rate::new(1_000_000, Per::Minute))
        .tokens(Rate::new(u64::from(u32::MAX), Per::Minute))
        .concurrent(64);
    let limiter = Limiter::builder().default_limit(limit).build()?;
    Ok(Limits::builder(admission, limiter).build())
}
