//! Residency, whatever is inside whatever and whoever fails.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use llmserve_core::{Error, EventStream, Generate, Request, Response, Routing};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::super::*;
use crate::random::Rng;
use crate::reliability::{Hedge, RetryBudget};
use crate::split::Shadow;
use crate::tests::{Script, Scripted, Step, fails, overloaded, says};
use crate::tiers::{Cascade, Tier, Tiered};
use crate::{ManualTimer, Replica, Router};

const REGIONS: [&str; 3] = ["eu", "us", "asia"];

/// What was said of a service by whoever holds it.
#[derive(Clone)]
struct Hop {
    region: Option<&'static str>,
    heeds: bool,
}

/// Who came, and the way.
type Seen = (Request, Vec<Hop>);

/// A world that is made at random, and what was seen in it.
struct Maker {
    rng: Rng,
    timer: Arc<ManualTimer>,
    /// Requests that came to somebody: those they named, and the way they came.
    seen: Arc<Mutex<Vec<Seen>>>,
    shadows: Vec<Shadow>,
    names: usize,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::seeded(seed),
            timer: Arc::default(),
            seen: Arc::default(),
            shadows: Vec::new(),
            names: 0,
        }
    }

    /// Somebody who answers, fails at once, or in the middle, or takes time.
    fn leaf(&self, way: Vec<Hop>) -> Arc<dyn Generate> {
        let (seen, timer) = (self.seen.clone(), self.timer.clone());
        let seed = self.rng.bits();
        let rng = Rng::seeded(seed);
        Scripted::new(move |request| {
            seen.lock().push((request.clone(), way.clone()));
            timer.advance(Duration::from_millis(rng.below(30) as u64));
            match rng.below(6) {
                0 => Script::PanicAtOnce,
                1 | 2 => Script::Stream(fails(overloaded())),
                3 => {
                    let mut half = says("half");
                    half.truncate(2);
                    half.push(Step::Panic);
                    Script::Stream(half)
                }
                _ => Script::Stream([vec![Step::Yield; 3], says("whole")].concat()),
            }
        })
    }

    /// A replica on the `way`, with a name of its own.
    fn replica(&mut self, depth: usize, way: &[Hop]) -> Replica {
        self.names += 1;
        let name = format!("r{}", self.names);
        let region = [None, Some("eu"), Some("us"), Some("asia")][self.rng.below(4)];
        let kind = if depth == 0 { 0 } else { self.rng.below(6) };
        // A leaf heeds nothing, and a shadow is only what it stands before.
        let heeds = kind > 1 && self.rng.below(2) == 0;
        let way = [way, &[Hop { region, heeds }]].concat();
        let service = self.service(kind, depth, way);
        let mut replica = Replica::new(name, service).identity("w");
        replica.info.region = region.map(Into::into);
        replica.info.heeds_regions = heeds;
        replica
    }

    fn service(&mut self, kind: usize, depth: usize, way: Vec<Hop>) -> Arc<dyn Generate> {
        let below = depth.saturating_sub(1);
        let of = 1 + self.rng.below(3);
        let busy = RetryBudget::default().ratio(1.0);
        let hedge = Hedge::After(Duration::from_millis(10));
        match kind {
            0 => self.leaf(way),
            1 => {
                let main = self.leaf(way.clone());
                let region = [None, Some("eu"), Some("us")][self.rng.below(3)];
                let mut copied = way;
                copied.push(Hop {
                    region,
                    heeds: false,
                });
                let mut builder = Shadow::builder(main, self.leaf(copied)).concurrent(99);
                if let Some(region) = region {
                    builder = builder.region(region);
                }
                let shadow = builder.build().unwrap();
                self.shadows.push(shadow.clone());
                Arc::new(shadow)
            }
            2 => {
                let replicas: Vec<_> = (0..of).map(|_| self.replica(below, &way)).collect();
                let router = Router::builder()
                    .replicas(replicas.into_iter().map(|replica| replica.model("m")))
                    .replica(self.replica(below, &way).model("other"))
                    .fallback("m", "other")
                    .timer(self.timer.clone())
                    .retry_budget(busy)
                    .hedge(hedge)
                    .max_attempts(9);
                Arc::new(router.build().unwrap())
            }
            3 => {
                let mode =
                    [Mode::ActiveActive, Mode::ActivePassive, Mode::NPlusOne][self.rng.below(3)];
                let mut config = FederationConfig::default().mode(mode).failover_after(1);
                let mut builder = Federation::builder().timer(self.timer.clone());
                for (at, region) in REGIONS.into_iter().enumerate() {
                    config = config.priority(region, at as u32);
                    let kind = if depth == 0 { 0 } else { self.rng.below(6) };
                    let mut there = way.clone();
                    there.push(Hop {
                        region: Some(region),
                        heeds: false,
                    });
                    let service = self.service(kind, below, there);
                    builder = builder.region(Region::new(region, service).capacity(9));
                }
                let configured = builder
                    .config(config)
                    .configure(|router| router.retry_budget(busy).hedge(hedge));
                Arc::new(configured.build().unwrap())
            }
            4 => {
                let mut builder = Tiered::builder().timer(self.timer.clone());
                for _ in 0..of {
                    builder = builder.tier(Tier::new(self.replica(below, &way)));
                }
                let configured = builder.configure(|router| router.retry_budget(busy).hedge(hedge));
                Arc::new(configured.build().unwrap())
            }
            _ => {
                let mut builder = Cascade::builder().timer(self.timer.clone());
                for _ in 0..of {
                    builder = builder.tier(Tier::new(self.replica(below, &way)));
                }
                let builder =
                    builder.check(|_: &Request, answer: &Response| answer.text() == "better");
                Arc::new(builder.build().unwrap())
            }
        }
    }
}

/// Reads to the end, time going on whenever nothing comes.
fn read(mut stream: EventStream, timer: &ManualTimer) -> Result<Response, Error> {
    let mut answer = Response::default();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        match Pin::new(&mut stream).poll_next(&mut cx) {
            Poll::Ready(Some(event)) => answer.push(event?),
            Poll::Ready(None) => return Ok(answer),
            Poll::Pending => timer.advance(Duration::from_millis(5)),
        }
    }
    panic!("it never ends");
}

/// Whether a request that names `regions` may have come this way.
fn may_come(regions: &[String], way: &[Hop]) -> bool {
    let inside = |hop: &Hop| {
        hop.region
            .is_some_and(|at| regions.iter().any(|region| region == at))
    };
    regions.is_empty() || way.iter().all(|hop| hop.heeds || inside(hop))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn never_sent_elsewhere(seed in any::<u64>()) {
        let mut maker = Maker::new(seed);
        let kind = 2 + maker.rng.below(4);
        let service = maker.service(kind, 2, Vec::new());
        for number in 0..12 {
            let mut routing = Routing::default().session(number.to_string());
            for region in REGIONS {
                if maker.rng.below(3) == 0 {
                    routing = routing.region(region);
                }
            }
            let regions = routing.regions.clone();
            let request = Request::tokens([1, 2]).model("m").routing(routing);
            let _ = read(service.generate(request), &maker.timer);
            for shadow in &maker.shadows {
                // Its copies have a thread of their own, and may wait for time.
                while shadow.stats().running > 0 {
                    maker.timer.advance(Duration::from_millis(1));
                    std::thread::yield_now();
                }
            }
            for (request, way) in maker.seen.lock().drain(..) {
                // Nobody widens it on the way.
                prop_assert_eq!(&request.routing.regions, &regions);
                let said: Vec<_> = way.iter().map(|hop| (hop.region, hop.heeds)).collect();
                prop_assert!(may_come(&regions, &way), "{regions:?} came by {said:?}");
            }
        }
    }
}

#[test]
fn those_inside_are_asked() {
    // The property above would hold of services that refuse everything.
    let (mut confined, mut asked) = (0, 0);
    for seed in 0..60 {
        let mut maker = Maker::new(seed);
        let service = maker.service(3, 2, Vec::new());
        let routing = Routing::default().region("eu").region("us");
        let request = Request::tokens([1]).model("m").routing(routing);
        confined += usize::from(read(service.generate(request), &maker.timer).is_ok());
        asked += maker.seen.lock().len();
    }
    assert!(confined > 15 && asked > 60, "{confined} {asked}");
}
