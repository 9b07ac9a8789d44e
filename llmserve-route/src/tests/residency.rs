//! Data residency, against everything that chooses.

use std::collections::BTreeSet;

use super::*;
use crate::index::PrefixIndex;
use crate::pipeline::{Balanced, BetterOfTwo, Filter, Part, Pick, Pipeline, PrefixCached};
use crate::pipeline::{Quality, Queue, Softmax};
use crate::random::Rng;
use crate::reliability::{Backoff, RetryBudget};
use crate::strategy::{NAMES, named};
use crate::{Replica, ReplicaSet, TextBlocks};
use llmserve_core::Routing;

/// A filter and a pick that would send everything anywhere.
struct Reckless;
impl Part for Reckless {}
impl Filter for Reckless {
    fn filter(&self, _: &Ask<'_>, candidates: &Candidates<'_>, set: &mut ReplicaSet) {
        candidates
            .fleet()
            .members()
            .for_each(|(slot, _)| set.insert(slot.index()));
    }
}
impl Pick for Reckless {
    fn pick(&self, _: &Ask<'_>, of: &Candidates<'_>, _: &[(Slot, f64)]) -> Option<Slot> {
        of.fleet().members().map(|(slot, _)| slot).last()
    }
}

/// Every ready-made strategy and some pipelines, and what each is called.
fn everybody() -> Vec<(String, Box<dyn Strategy>)> {
    let mut all: Vec<(String, Box<dyn Strategy>)> = NAMES
        .iter()
        .map(|name| ((*name).to_owned(), named(name).expect("it is in the list")))
        .collect();
    let parts = || {
        Pipeline::builder()
            .filter(Balanced::default())
            .score(1.0, Queue)
            .score(2.0, Quality)
            .score(3.0, PrefixCached::new(PrefixIndex::new()))
            .identify(TextBlocks::new(8))
    };
    for (name, builder) in [
        ("pipeline, best", parts()),
        ("pipeline, softmax", parts().pick(Softmax::new(1.0))),
        ("pipeline, two", parts().pick(BetterOfTwo::new())),
        ("pipeline, reckless filter", parts().filter(Reckless)),
        ("pipeline, reckless pick", parts().pick(Reckless)),
    ] {
        all.push((name.to_owned(), Box::new(builder.build().expect("valid"))));
    }
    all
}

#[test]
fn residency_is_never_violated() {
    const REGIONS: [&str; 3] = ["eu", "us", "asia"];
    let rng = Rng::seeded(77);
    for (name, strategy) in everybody() {
        let strategy: Arc<dyn Strategy> = strategy.into();
        for _ in 0..30 {
            let size = 1 + rng.below(7);
            let broken = rng.below(4);
            let mut services = Vec::new();
            let mut builder = Router::builder()
                .strategy(strategy.clone())
                .max_attempts(1 + rng.below(size + 1))
                .backoff(Backoff::default().base(Duration::ZERO))
                .retry_budget(RetryBudget::default().ratio(10.0))
                .fallback("m", "n");
            for at in 0..size {
                // Some fail, so that requests go elsewhere.
                let fails_too = rng.below(4) < broken;
                let service = Scripted::always(match (fails_too, rng.below(2)) {
                    (true, 0) => fails(overloaded()),
                    (true, _) => vec![Step::Panic],
                    (false, _) => says("fine"),
                });
                let mut replica = Replica::new(format!("r{at}"), service.clone());
                for model in ["m", "n"] {
                    if rng.below(3) > 0 {
                        replica = replica.model(model);
                    }
                }
                let region = REGIONS.get(rng.below(4)).copied();
                if let Some(region) = region {
                    replica = replica.region(region);
                }
                services.push((service, region));
                builder = builder.replica(replica.quality(at as f32).cost(at as f64));
            }
            let router = builder.build().expect("valid");
            for turn in 0..12 {
                match rng.below(12) {
                    0 => drop(router.drain(&format!("r{}", rng.below(size)))),
                    1 => drop(router.undrain(&format!("r{}", rng.below(size)))),
                    2 => drop(router.remove(&format!("r{}", rng.below(size)))),
                    _ => {}
                }
                let mut routing = Routing::default().session(format!("s{}", turn % 3));
                let mut allowed = BTreeSet::new();
                for region in REGIONS {
                    if rng.below(2) == 0 {
                        routing = routing.region(region);
                        allowed.insert(region);
                    }
                }
                let before: Vec<_> = services
                    .iter()
                    .map(|(service, _)| service.calls())
                    .collect();
                let model = if rng.below(2) == 0 { "m" } else { "n" };
                let text = format!("prompt number {}", turn % 4);
                let request = Request::text(text).model(model).routing(routing);
                let _ = router.generate(request).wait();
                for ((service, region), before) in services.iter().zip(before) {
                    let may = region.is_some_and(|region| allowed.contains(region));
                    assert!(
                        allowed.is_empty() || may || service.calls() == before,
                        "{name} sent {region:?} what may go to {allowed:?} only"
                    );
                }
            }
            assert_idle(&router);
            for (slot, _) in router.fleet().members() {
                strategy.left(slot);
            }
        }
    }
}
