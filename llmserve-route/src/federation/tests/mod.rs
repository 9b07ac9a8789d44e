//! Regions that fail, come back, fill up and must not be asked.

mod residency;

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Error, Generate, Request, Routing};
use parking_lot::Mutex;

use super::*;
use crate::tests::{Script, Scripted, Step, fails, overloaded, says};
use crate::{AlwaysAvailable, ManualTimer};

/// Regions that say their names, and fail while they are among those that are down.
struct World {
    federation: Federation,
    timer: Arc<ManualTimer>,
    down: Arc<Mutex<Vec<&'static str>>>,
}

const NAMES: [&str; 3] = ["eu", "us", "asia"];

fn world(config: FederationConfig, change: impl Fn(&str, Region) -> Region) -> World {
    let timer = Arc::new(ManualTimer::default());
    let down: Arc<Mutex<Vec<&str>>> = Arc::default();
    let mut builder = Federation::builder().config(config).timer(timer.clone());
    for name in NAMES {
        let down = down.clone();
        let service = Scripted::new(move |_| {
            let fails_now = down.lock().contains(&name);
            Script::Stream(if fails_now {
                fails(overloaded())
            } else {
                says(name)
            })
        });
        builder = builder.region(change(name, Region::new(name, service)));
    }
    // What is tested is favour, not breakers.
    let federation = builder
        .configure(|router| {
            let budget = crate::reliability::RetryBudget::default().ratio(1.0);
            router.availability(AlwaysAvailable).retry_budget(budget)
        })
        .build()
        .unwrap();
    World {
        federation,
        timer,
        down,
    }
}

impl World {
    fn ask(&self, routing: Routing) -> Result<String, Error> {
        let answer = self.federation.generate(Request::text("").routing(routing));
        Ok(answer.wait()?.text().to_owned())
    }

    /// Who answers somebody in the EU.
    fn ask_in_eu(&self) -> String {
        self.ask(Routing::default().origin("eu")).unwrap()
    }
}

fn near_eu() -> FederationConfig {
    FederationConfig::default()
        .latency_ms("eu", "us", 90.0)
        .latency_ms("eu", "asia", 200.0)
}

#[test]
fn near_first_until_it_is_loaded() {
    let world = world(near_eu(), |_, region| region.capacity(10));
    assert_eq!(world.ask_in_eu(), "eu");
    // Without an origin all are equal, and take turns.
    let turns: Vec<_> = (0..3)
        .map(|_| world.ask(Routing::default()).unwrap())
        .collect();
    assert!(
        NAMES.iter().all(|name| turns.contains(&(*name).to_owned())),
        "{turns:?}"
    );
    // The us is 0.45 worse: it is chosen when more than that part of the eu is in use.
    let origin = || Request::text("").routing(Routing::default().origin("eu"));
    let held: Vec<_> = (0..7)
        .map(|_| world.federation.generate(origin()))
        .collect();
    let outstanding = world.federation.stats().replicas;
    let outstanding: Vec<_> = outstanding.iter().map(|r| r.outstanding).collect();
    assert_eq!(outstanding, [6, 1, 0]);
    drop(held);
    assert_eq!(world.federation.stats().outstanding(), 0);
}

#[test]
fn cost_and_priority_have_their_weights() {
    let cost = |name: &str, region: Region| match name {
        "eu" => region.cost(4.0),
        "us" => region.cost(1.0),
        _ => region,
    };
    let only = |latency, cost, priority| ScoreWeights {
        latency,
        load: 0.0,
        cost,
        priority,
    };
    let config = near_eu().priority("eu", 2).priority("us", 1);
    let of = |weights| world(config.clone().weights(weights), cost).ask_in_eu();
    assert_eq!(of(only(1.0, 0.0, 0.0)), "eu");
    assert_eq!(of(only(1.0, 1.0, 0.0)), "us");
    assert_eq!(of(only(0.0, 0.0, 1.0)), "asia");
}

#[test]
fn the_passive_stand_by() {
    let config = near_eu()
        .mode(Mode::ActivePassive)
        .priority("us", 1)
        .priority("asia", 2);
    let world = world(config, |_, region| region.capacity(1));
    let from_asia = || Routing::default().origin("asia");
    // Near or not.
    assert_eq!(world.ask(from_asia()).unwrap(), "eu");
    let first = world.federation.generate(Request::text(""));
    assert_eq!(world.ask(from_asia()).unwrap(), "us");
    drop(first);
    world.federation.drain("eu").unwrap();
    world.down.lock().push("us");
    assert_eq!(world.ask(from_asia()).unwrap(), "asia");
    let stays = world.ask(Routing::default().region("eu"));
    assert!(matches!(stays, Err(Error::NoReplica { .. })), "{stays:?}");
}

#[test]
fn a_region_that_failed_comes_back_when_it_has_been_well() {
    let seconds = Duration::from_secs;
    let config = near_eu().failover_after(2).failback_after(seconds(60));
    let world = world(config, |_, region| region);
    let asked = || world.federation.stats().replicas[0].dispatched;
    world.down.lock().push("eu");
    // Two failures, each answered elsewhere; then it is not asked any more.
    assert_eq!(
        [world.ask_in_eu(), world.ask_in_eu(), world.ask_in_eu()],
        ["us"; 3]
    );
    assert_eq!(asked(), 2);
    // It is well again, but nobody can tell for how long.
    world.down.lock().clear();
    world.timer.advance(seconds(59));
    assert_eq!(world.ask_in_eu(), "us");
    // Who may be answered there only, is.
    assert_eq!(world.ask(Routing::default().region("eu")).unwrap(), "eu");
    world.timer.advance(seconds(1));
    assert_eq!(world.ask_in_eu(), "eu");
    // A failure while it is out begins the time anew.
    world.down.lock().push("eu");
    assert_eq!([world.ask_in_eu(), world.ask_in_eu()], ["us"; 2]);
    world.timer.advance(seconds(40));
    assert!(world.ask(Routing::default().region("eu")).is_err());
    world.down.lock().clear();
    world.timer.advance(seconds(59));
    assert_eq!(world.ask_in_eu(), "us");
    world.timer.advance(seconds(1));
    assert_eq!(world.ask_in_eu(), "eu");
    // So it is with one that was drained; and taking back what was not drained changes nothing.
    world.federation.undrain("eu").unwrap();
    assert_eq!(world.ask_in_eu(), "eu");
    world.federation.drain("eu").unwrap();
    assert_eq!(world.ask_in_eu(), "us");
    world.federation.undrain("eu").unwrap();
    assert_eq!(world.ask_in_eu(), "us");
    world.timer.advance(seconds(60));
    assert_eq!(world.ask_in_eu(), "eu");
    assert!(world.federation.drain("mars").is_err());
}

#[test]
fn one_failure_alone_changes_nothing() {
    let world = world(near_eu().failover_after(2), |_, region| region);
    for _ in 0..5 {
        world.down.lock().push("eu");
        assert_eq!(world.ask_in_eu(), "us");
        world.down.lock().clear();
        assert_eq!(world.ask_in_eu(), "eu");
    }
}

#[test]
fn whichever_is_lost_the_others_can_take_it() {
    let sizes = |name: &str, region: Region| match name {
        "eu" => region.capacity(5),
        "us" => region.capacity(3),
        _ => region.capacity(2),
    };
    let world = world(near_eu().mode(Mode::NPlusOne), sizes);
    let hold = || world.federation.generate(Request::text(""));
    let mut held: Vec<_> = (0..5).map(|_| hold()).collect();
    let refused = hold().wait();
    assert!(
        matches!(refused, Err(Error::Overloaded { .. })),
        "{refused:?}"
    );
    held.pop();
    // The largest is lost; what it had fits into the others.
    world.federation.drain("eu").unwrap();
    let there = world.federation.stats().replicas[0].outstanding;
    drop(held);
    let moved: Vec<_> = (0..there + 1).map(|_| hold()).collect();
    let stats = world.federation.stats();
    assert_eq!(
        (stats.outstanding(), stats.replicas[0].outstanding),
        (moved.len(), 0)
    );
}

#[test]
fn what_cannot_be_a_federation() {
    let hung = || Scripted::always(vec![Step::Hang]);
    let build = |config: FederationConfig, capacity: Option<usize>| {
        let mut builder = Federation::builder().config(config);
        for name in ["eu", "us"] {
            let region = Region::new(name, hung());
            builder = builder.region(match capacity {
                Some(capacity) => region.capacity(capacity),
                None => region,
            });
        }
        builder.build().err()
    };
    let config = FederationConfig::default;
    assert_eq!(build(config(), None), None);
    let unknown = |field| {
        Some(FederationError::UnknownRegion {
            field,
            name: "mars".into(),
            known: "eu, us".into(),
        })
    };
    assert_eq!(
        build(config().latency_ms("eu", "mars", 1.0), None),
        unknown("latency_ms")
    );
    assert_eq!(
        build(config().priority("mars", 1), None),
        unknown("priority")
    );
    let bad = |error| matches!(error, Some(FederationError::BadValue { .. }));
    assert!(bad(build(config().latency_ms("eu", "us", f64::NAN), None)));
    assert!(bad(build(config().failover_after(0), None)));
    let weights = ScoreWeights {
        load: -1.0,
        ..ScoreWeights::default()
    };
    assert!(bad(build(config().weights(weights), None)));
    let reserve = config().mode(Mode::NPlusOne);
    assert_eq!(build(reserve.clone(), Some(4)), None);
    assert!(matches!(
        build(reserve.clone(), None),
        Some(FederationError::NoReserve { .. })
    ));
    let one = Federation::builder()
        .region(Region::new("eu", hung()).capacity(4))
        .config(reserve);
    assert!(matches!(
        one.build().err(),
        Some(FederationError::NoReserve { .. })
    ));
}
