//! Who may answer: limits, names and stand-ins.

use super::*;
use crate::random::Rng;
use crate::{Availability, BuildError, Replica, ReplicaSet};
use llmserve_core::{Routing, Time};

/// Answers with its own name and the model it was asked for.
fn telling(name: &'static str) -> Replica {
    let service = Scripted::new(move |request| {
        let model = request.model.as_deref().unwrap_or("any");
        Script::Stream(says(&format!("{name}:{model}")))
    });
    Replica::new(name, service)
}

fn text(router: &Router, request: Request) -> Result<String, Error> {
    let answer = router.generate(request).wait()?;
    Ok(answer.text().to_owned())
}

#[test]
fn aliases_are_sent_on_as_the_model() {
    let router = Router::builder()
        .replica(telling("a").model("llama-70b").alias("large", "llama-70b"))
        .replica(telling("b").model("large"))
        .strategy(crate::RoundRobin::new())
        .build()
        .unwrap();
    let ask = || text(&router, Request::text("").model("large")).unwrap();
    assert_eq!([ask(), ask()], ["a:llama-70b", "b:large"]);
    let unknown = text(&router, Request::text("").model("tiny"));
    assert_eq!(
        unknown,
        Err(Error::UnknownModel {
            name: "tiny".into(),
            known: "large, llama-70b".into()
        })
    );
}

#[test]
fn another_model_stands_in() {
    let router = Router::builder()
        .replica(telling("eu").model("good").region("eu"))
        .replica(telling("us").model("fair").region("us"))
        .replica(Replica::new("down", Scripted::always(fails(Error::ShutDown))).model("best"))
        .fallback("best", "good")
        .fallback("good", "fair")
        .build()
        .unwrap();
    let ask = |model: &str, regions: &[&str]| {
        let mut routing = Routing::default();
        for region in regions {
            routing = routing.region(*region);
        }
        text(&router, Request::text("").model(model).routing(routing))
    };
    // After a failure, after a limit, and never against residency.
    assert_eq!(ask("best", &[]).unwrap(), "eu:good");
    assert_eq!(ask("good", &["us"]).unwrap(), "us:fair");
    assert_eq!(ask("best", &["us"]).unwrap(), "us:fair");
    assert_eq!(
        ask("best", &["mars"]),
        Err(Error::NoReplica {
            reason: "of 1 that serve \"best\": 1 outside the request's regions".into(),
            retry_after: None
        })
    );
    let cycle = Router::builder()
        .replica(telling("a"))
        .fallback("x", "y")
        .fallback("y", "x");
    assert!(matches!(
        cycle.build(),
        Err(BuildError::FallbackCycle { .. })
    ));
}

#[test]
fn what_cannot_be_declared() {
    let err = |replica: Replica| Router::builder().replica(replica).build().err();
    let bad = |field, value: &str| {
        Some(BuildError::BadValue {
            name: "a".into(),
            field,
            value: value.into(),
        })
    };
    assert_eq!(err(telling("a").capacity(0)), bad("capacity", "0"));
    assert_eq!(err(telling("a").context(0)), bad("context", "0"));
    assert_eq!(err(telling("a").cost(-1.0)), bad("cost", "-1"));
    assert_eq!(err(telling("a").cost(f64::NAN)), bad("cost", "NaN"));
    assert_eq!(
        err(telling("a").quality(f32::INFINITY)),
        bad("quality", "inf")
    );
    assert!(matches!(
        err(telling("a").model("m").alias("x", "y")),
        Some(BuildError::AliasOfNothing { .. })
    ));
    assert!(matches!(
        err(telling("a").alias("", "y")),
        Some(BuildError::EmptyModel { .. })
    ));
}

#[test]
fn limits_say_how_many_they_ruled_out() {
    let router = Router::builder()
        .replica(telling("a").context(3).cost(1.0).quality(0.5))
        .replica(telling("b").capability("tools").cost(3.0).tier("fast"))
        .replica(telling("c").quality(0.9))
        .build()
        .unwrap();
    let ask = |routing: Routing| text(&router, Request::tokens([1, 2]).routing(routing));
    let none = |reason: &str| {
        Err(Error::NoReplica {
            reason: reason.into(),
            retry_after: None,
        })
    };
    let routing = Routing::default;
    assert_eq!(ask(routing().need("tools")).unwrap(), "b:any");
    assert_eq!(ask(routing().tier("fast")).unwrap(), "b:any");
    assert_eq!(ask(routing().max_cost(1.0)).unwrap(), "a:any");
    assert_eq!(ask(routing().min_quality(0.6)).unwrap(), "c:any");
    assert_eq!(
        ask(routing().max_cost(f64::NAN)),
        none("of 3: 3 above its maximum cost")
    );
    assert_eq!(
        ask(routing().need("tools").need("vision").max_cost(9.0)),
        none("of 3: 2 without a capability it needs, 1 without a capability it needs")
    );
    assert_eq!(
        ask(routing().max_cost(2.0).min_quality(0.7)),
        none("of 3: 2 above its maximum cost, 1 below its minimum quality")
    );
    let long = Request::tokens([1, 2, 3]).routing(routing().max_cost(2.0));
    assert_eq!(
        text(&router, long),
        none("of 3: 1 with too short a context, 2 above its maximum cost")
    );
}

#[test]
fn who_heeds_regions_is_asked_and_decides() {
    let inner = Router::builder()
        .replica(telling("eu").region("eu"))
        .replica(telling("somewhere"))
        .build()
        .unwrap();
    let router = Router::builder()
        .replica(Replica::new("inner", inner).heeds_regions())
        .replica(telling("nowhere"))
        .build()
        .unwrap();
    let ask = |region| {
        let routing = Routing::default().region(region);
        text(&router, Request::text("").routing(routing))
    };
    assert_eq!(ask("eu").unwrap(), "eu:any");
    let refused = ask("us");
    assert!(
        matches!(refused, Err(Error::NoReplica { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_router_without_a_region_decides_and_one_with_a_region_must_be_in_it() {
    let inner = Router::builder()
        .replica(telling("eu").region("eu"))
        .replica(telling("us").region("us"))
        .replica(telling("somewhere"))
        .build()
        .unwrap();
    let shared: Arc<dyn Generate> = Arc::new(inner.clone());
    let ask = |replica: Replica, region: Option<&str>| {
        let router = Router::builder().replica(replica).build().unwrap();
        let routing = Routing::default();
        let routing = match region {
            Some(region) => routing.region(region),
            None => routing,
        };
        text(&router, Request::text("").routing(routing)).ok()
    };
    let said = |text: &str| Some(text.to_owned());
    for (replica, eu, us) in [
        (Replica::new("r", inner.clone()), true, true),
        (Replica::new("r", Arc::new(inner.clone())), true, true),
        (Replica::new("r", inner.clone()).region("eu"), true, false),
        (
            Replica::new("r", inner.clone())
                .region("eu")
                .heeds_regions(),
            true,
            true,
        ),
        (
            Replica::new("r", inner.clone())
                .heeds_regions()
                .region("eu"),
            true,
            true,
        ),
        // Nobody can tell what this is.
        (Replica::new("r", shared.clone()), false, false),
        (Replica::new("r", shared.clone()).region("us"), false, true),
        (Replica::new("r", shared).heeds_regions(), true, true),
    ] {
        let told = format!("{replica:?}");
        let (in_eu, in_us) = (
            ask(replica.clone(), Some("eu")),
            ask(replica.clone(), Some("us")),
        );
        assert_eq!(in_eu, said("eu:any").filter(|_| eu), "{told}");
        assert_eq!(in_us, said("us:any").filter(|_| us), "{told}");
        assert_eq!(ask(replica.clone(), Some("asia")), None, "{told}");
        assert!(ask(replica, None).is_some(), "{told}");
    }
    let tiers = crate::tiers::Tiered::builder()
        .tier(crate::tiers::Tier::new(telling("eu").region("eu")))
        .build()
        .unwrap();
    let tiers = Replica::new("r", tiers);
    assert_eq!(ask(tiers.clone(), Some("eu")), said("eu:any"));
    assert_eq!(ask(tiers, Some("us")), None);
}

/// Lets nobody be asked before their times.
struct Until(Vec<Time>);

impl Availability for Until {
    fn retain(&self, now: Time, set: &mut ReplicaSet) {
        for (index, until) in self.0.iter().enumerate() {
            if now < *until {
                set.remove(index);
            }
        }
    }
    fn retry_at(&self, slot: Slot) -> Option<Time> {
        self.0.get(slot.index()).copied()
    }
}

#[test]
fn the_unavailable_say_when_to_come_back() {
    let clock = Arc::new(crate::ManualTimer::default());
    let router = Router::builder()
        .replicas([telling("a"), telling("b")])
        .availability(Until([9, 5].map(Duration::from_secs).into()))
        .timer(clock.clone())
        .build()
        .unwrap();
    clock.advance(Duration::from_secs(2));
    assert_eq!(
        text(&router, Request::text("")),
        Err(Error::NoReplica {
            reason: "of 2: 2 unavailable".into(),
            retry_after: Some(Duration::from_secs(3))
        })
    );
    clock.advance(Duration::from_secs(3));
    assert_eq!(text(&router, Request::text("")).unwrap(), "b:any");
}

/// A replica of a random fleet, and a plain account of it.
struct Plain {
    models: Option<Vec<usize>>,
    region: Option<usize>,
    tools: bool,
    context: Option<usize>,
    cost: Option<f64>,
    quality: Option<f32>,
    tier: Option<usize>,
    draining: bool,
}

#[test]
fn random_fleets_are_narrowed_as_the_plain_account_says() {
    const NAMES: [&str; 3] = ["x", "y", "z"];
    let rng = Rng::seeded(11);
    let maybe = |bound: usize| Some(rng.below(bound + 1)).filter(|drawn| *drawn < bound);
    for round in 0..300 {
        let fleet: Vec<Plain> = (0..1 + rng.below(6))
            .map(|_| Plain {
                models: (rng.below(3) > 0).then(|| vec![rng.below(3), rng.below(3)]),
                region: maybe(2),
                tools: rng.below(2) == 0,
                context: maybe(4).map(|context| context + 1),
                cost: maybe(3).map(|cost| cost as f64),
                quality: maybe(3).map(|quality| quality as f32),
                tier: maybe(2).filter(|_| round % 3 == 0),
                draining: rng.below(6) == 0,
            })
            .collect();
        let router = Router::builder()
            .replicas(fleet.iter().enumerate().map(|(at, plain)| {
                let name = format!("r{at}");
                let mut replica = Replica::new(&name, Scripted::always(says(&name)));
                for model in plain.models.iter().flatten() {
                    replica = replica.model(NAMES[*model]);
                }
                replica.info.region = plain.region.map(|region| NAMES[region].into());
                if plain.tools {
                    replica = replica.capability("tools");
                }
                replica.info.context = plain.context;
                replica.info.cost = plain.cost;
                replica.info.quality = plain.quality;
                replica.info.tier = plain.tier.map(|tier| NAMES[tier].into());
                replica
            }))
            .strategy(crate::Random::seeded(round))
            .build()
            .unwrap();
        for (at, plain) in fleet.iter().enumerate() {
            if plain.draining {
                router.drain(&format!("r{at}")).unwrap();
            }
        }
        for _ in 0..8 {
            let model = maybe(3);
            let regions: Vec<_> = (0..rng.below(3)).map(|_| rng.below(3)).collect();
            let tools = rng.below(3) == 0;
            let tokens = rng.below(4);
            let (max_cost, min_quality) = (maybe(3), maybe(3));
            let tier = maybe(2);
            let mut routing = Routing::default();
            for region in &regions {
                routing = routing.region(NAMES[*region]);
            }
            if tools {
                routing = routing.need("tools");
            }
            routing.max_cost = max_cost.map(|cost| cost as f64);
            routing.min_quality = min_quality.map(|quality| quality as f32);
            routing.tier = tier.map(|tier| NAMES[tier].into());
            let mut request = Request::tokens(vec![1; tokens]).routing(routing);
            request.model = model.map(|model| NAMES[model].into());

            let serves = |p: &Plain| match (&p.models, model) {
                (Some(models), Some(model)) => models.contains(&model),
                _ => true,
            };
            let tiers = fleet.iter().any(|p| p.tier.is_some());
            let may = |p: &Plain| {
                serves(p)
                    && (regions.is_empty() || p.region.is_some_and(|r| regions.contains(&r)))
                    && (!tools || p.tools)
                    && p.context.is_none_or(|context| tokens < context)
                    && max_cost.is_none_or(|most| p.cost.is_some_and(|c| c <= most as f64))
                    && min_quality.is_none_or(|q| p.quality.is_some_and(|has| has >= q as f32))
                    && (tier.is_none() || !tiers || p.tier == tier)
                    && !p.draining
            };
            // Everybody who may is found, one after another, and then nobody.
            let expected: Vec<_> = (0..fleet.len()).filter(|at| may(&fleet[*at])).collect();
            let prepared = router.prepare(&request).unwrap();
            let mut found = Vec::new();
            let error = loop {
                match router.assign(&request, &prepared, &found) {
                    Ok(assigned) => found.push(assigned.slot()),
                    Err(error) => break error,
                }
            };
            let mut found: Vec<_> = found.into_iter().map(Slot::index).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "round {round}");
            match error {
                Error::UnknownModel { .. } => assert!(!fleet.iter().any(serves)),
                Error::NoReplica { .. } => assert!(fleet.iter().any(serves)),
                other => panic!("{other}"),
            }
        }
    }
}
