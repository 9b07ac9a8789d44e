//! One tier of several answers.

use std::sync::Arc;

use llmserve_core::{EventStream, Generate, Request};

use super::choice::{Known, TierChoice};
use super::complexity::{ByFeatures, Complexity, Estimator};
use super::tier::{Tier, TierError};
use crate::availability::Availability;
use crate::router::{Router, RouterBuilder};
use crate::timer::Timer;

/// How hard a request is taken to be that nobody can judge.
const DEFAULT_UNKNOWN: f32 = 0.5;

/// A service that asks, of several tiers, the one that suits the request. Cheap to clone.
///
/// A tier that the request names is the only one asked; limits of cost, quality, region and
/// capability rule tiers out. Of the rest the cheapest answers that keeps the request's
/// [`latency_budget`](llmserve_core::Routing::latency_budget) and
/// [handles](Tier::handles) what the [`Estimator`] says. Where none does, a wish comes before a
/// guess: first the least late, then the one that is strong enough or nearly, then the cheapest.
/// One that fails before its first event is followed by the next in that order.
///
/// | setting | default |
/// | --- | --- |
/// | [`estimator`](TieredBuilder::estimator) | [`ByFeatures::standard`] |
/// | [`unknown`](TieredBuilder::unknown) | 0.5 |
/// | tiers tried for one request | all |
///
/// It is a [`Router`], whose breakers, counts and settings it has.
///
/// ```
/// # use llmserve_core::{Error, Event, EventStream, FinishReason, Finished, Generate};
/// # use llmserve_core::{Timings, Usage};
/// # struct Brief;
/// # impl Generate for Brief {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::ready([Ok(Event::Finished(Finished {
/// #             index: 0,
/// #             reason: FinishReason::Length,
/// #             text: String::new(),
/// #             usage: Usage::default(),
/// #             timings: Timings::default(),
/// #         }))])
/// #     }
/// # }
/// use llmserve_core::{Request, Routing};
/// use llmserve_route::Replica;
/// use llmserve_route::tiers::{ByLength, Tier, Tiered};
/// let service = Tiered::builder()
///     .tier(Tier::new(Replica::new("fast", Brief).cost(0.2)))
///     .tier(Tier::new(Replica::new("quality", Brief).cost(9.0)))
///     .estimator(ByLength::new(1_000)?)
///     .build()?;
/// let asked = |request: Request| {
///     service.generate(request).wait()?;
///     let of = service.router().stats().replicas;
///     Ok::<_, Error>([of[0].dispatched, of[1].dispatched])
/// };
/// assert_eq!(asked(Request::tokens([1; 10]))?, [1, 0]);
/// assert_eq!(asked(Request::tokens([1; 900]))?, [1, 1]);
/// assert_eq!(asked(Request::tokens([1; 900]).routing(Routing::default().max_cost(1.0)))?, [2, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tiered {
    router: Router,
}

impl Tiered {
    /// Starts putting tiers together.
    pub fn builder() -> TieredBuilder {
        TieredBuilder {
            tiers: Vec::new(),
            estimator: Box::new(ByFeatures::standard()),
            unknown: DEFAULT_UNKNOWN,
            router: Router::builder(),
            max_attempts: None,
        }
    }

    /// The router that the tiers are replicas of: to drain one, and for counts.
    pub fn router(&self) -> &Router {
        &self.router
    }
}

impl Generate for Tiered {
    fn generate(&self, request: Request) -> EventStream {
        self.router.generate(request)
    }
}

/// The parts of a [`Tiered`].
#[must_use = "a service is made by build()"]
pub struct TieredBuilder {
    tiers: Vec<Tier>,
    estimator: Box<dyn Estimator>,
    unknown: f32,
    router: RouterBuilder,
    max_attempts: Option<usize>,
}

impl TieredBuilder {
    /// Adds a tier, the weakest first.
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tiers.push(tier);
        self
    }

    /// Who says how hard a request is. Default: [`ByFeatures::standard`].
    pub fn estimator(mut self, estimator: impl Estimator + 'static) -> Self {
        self.estimator = Box::new(estimator);
        self
    }

    /// How hard a request is taken to be that the estimator cannot judge, from 0 to 1; others are
    /// taken as the nearest of that. Default: 0.5.
    pub fn unknown(mut self, complexity: f32) -> Self {
        self.unknown = complexity;
        self
    }

    /// Most tiers a request is tried at; at least 1, which turns failover off. Default: all.
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// See [`RouterBuilder::timer`].
    pub fn timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.router = self.router.timer(timer);
        self
    }

    /// See [`RouterBuilder::availability`].
    pub fn availability(mut self, availability: impl Availability + 'static) -> Self {
        self.router = self.router.availability(availability);
        self
    }

    /// Other settings of the [router](Tiered::router): timeouts, pauses, hedges. Its strategy,
    /// replicas and attempts are set here.
    pub fn configure(mut self, configure: impl FnOnce(RouterBuilder) -> RouterBuilder) -> Self {
        self.router = configure(self.router);
        self
    }

    /// Checks the tiers and puts them together.
    ///
    /// # Errors
    /// [`TierError`].
    pub fn build(self) -> Result<Tiered, TierError> {
        let of = self.tiers.len();
        let known = self.tiers.iter().enumerate().map(|(at, tier)| {
            Ok(Known {
                name: tier.name().to_owned(),
                latency: tier.latency,
                handles: tier.handled(at, of)?,
            })
        });
        let choice = TierChoice {
            tiers: known.collect::<Result<_, TierError>>()?,
            estimator: self.estimator,
            unknown: Complexity::new(self.unknown),
        };
        let router = self
            .router
            .replicas(self.tiers.into_iter().map(|tier| tier.replica))
            .strategy(choice)
            .max_attempts(self.max_attempts.unwrap_or(of.max(1)))
            .build()?;
        Ok(Tiered { router })
    }
}

impl std::fmt::Debug for TieredBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TieredBuilder")
            .field("tiers", &self.tiers)
            .finish_non_exhaustive()
    }
}
