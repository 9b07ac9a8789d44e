//! The cheapest tries first.

mod checks;
mod climb;

pub use checks::{AllOf, MeanLogprob, MinimumTokens, QualityCheck, Whole};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llmserve_core::{EventStream, Generate, Request};

use super::tier::{Tier, TierError};
use crate::ask::Ask;
use crate::availability::Availability;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::router::{Router, RouterBuilder};
use crate::strategy::Strategy;
use crate::timer::Timer;
use climb::Climb;

/// A service that asks the cheapest tier first, looks at its answer, and asks the next where that
/// is not good enough. Cheap to clone.
///
/// A [`QualityCheck`] decides whether to go on, not what may be said: the last tier's answer is
/// passed on as it comes, unchecked, and where nobody further up can answer, the last answer there
/// is is given after all. So it is with a tier that fails, or whose context is too short for the
/// prompt, before its first event or in the middle: the next is asked. All other errors are the
/// request's.
///
/// Answers that are checked are held back until they are complete. `usage` counts the tokens of
/// all runs, those of answers thrown away included, and timings are what the reader saw. Tiers that
/// a limit of the request rules out are skipped; the next is not asked where it would end after the
/// request's [`latency_budget`](llmserve_core::Routing::latency_budget), as far as the tiers'
/// [latencies](Tier::latency) are known, nor after its deadline.
///
/// | setting | default |
/// | --- | --- |
/// | [`check`](CascadeBuilder::check) | [`Whole`] |
///
/// ```
/// # use llmserve_core::{Event, EventStream, Finished, FinishReason, Generate, Started};
/// # use llmserve_core::{Timings, TokenEvent, Usage};
/// # struct Says(&'static str);
/// # impl Generate for Says {
/// #     fn generate(&self, _request: llmserve_core::Request) -> EventStream {
/// #         EventStream::ready([
/// #             Ok(Event::Started(Started::default())),
/// #             Ok(Event::Token(TokenEvent { index: 0, id: 1, text: self.0.into(), logprobs: None })),
/// #             Ok(Event::Finished(Finished {
/// #                 index: 0,
/// #                 reason: FinishReason::Stop,
/// #                 text: String::new(),
/// #                 usage: Usage { prompt_tokens: 4, cached_tokens: 0, completion_tokens: 1 },
/// #                 timings: Timings::default(),
/// #             })),
/// #         ])
/// #     }
/// # }
/// use llmserve_core::{Request, Response};
/// use llmserve_route::Replica;
/// use llmserve_route::tiers::{Cascade, Tier};
/// let service = Cascade::builder()
///     .tier(Tier::new(Replica::new("small", Says("I don't know")).cost(0.2)))
///     .tier(Tier::new(Replica::new("large", Says("42")).cost(9.0)))
///     .check(|_: &Request, answer: &Response| !answer.text().contains("don't know"))
///     .build()?;
/// let answer = service.generate(Request::text("6 x 7?")).wait()?;
/// assert_eq!((answer.text(), answer.choices[0].usage.completion_tokens), ("42", 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Cascade {
    pub(super) inner: Arc<Inner>,
}

/// What the handles and streams of a cascade share.
pub(super) struct Inner {
    /// Who may answer, who is well, and what is counted.
    pub(super) router: Router,
    pub(super) timer: Arc<dyn Timer>,
    pub(super) check: Box<dyn QualityCheck>,
    pub(super) rungs: Vec<Rung>,
}

/// A tier, in its place.
pub(super) struct Rung {
    pub(super) latency: Option<std::time::Duration>,
    pub(super) rejected: AtomicU64,
}

/// The lowest rung there is.
struct Lowest;

impl Strategy for Lowest {
    fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        candidates.nth(0)
    }
}

impl Cascade {
    /// Starts putting tiers together.
    pub fn builder() -> CascadeBuilder {
        CascadeBuilder {
            tiers: Vec::new(),
            check: Box::new(Whole),
            router: Router::builder(),
            timer: Arc::new(crate::SystemTimer::new()),
        }
    }

    /// Takes a tier out for a while: see [`Router::drain`].
    ///
    /// # Errors
    /// No tier has this name.
    pub fn drain(&self, tier: &str) -> Result<(), crate::UnknownReplica> {
        self.inner.router.drain(tier)
    }

    /// Takes a tier back: see [`Router::undrain`].
    ///
    /// # Errors
    /// No tier has this name.
    pub fn undrain(&self, tier: &str) -> Result<(), crate::UnknownReplica> {
        self.inner.router.undrain(tier)
    }

    /// What each tier was asked, and how often in vain.
    pub fn stats(&self) -> CascadeStats {
        let replicas = self.inner.router.stats().replicas;
        let rungs = replicas.into_iter().zip(&self.inner.rungs);
        CascadeStats {
            rungs: rungs
                .map(|(replica, rung)| RungStats {
                    name: replica.name,
                    outstanding: replica.outstanding,
                    asked: replica.dispatched,
                    failed: replica.failed,
                    rejected: rung.rejected.load(Ordering::Relaxed),
                })
                .collect(),
        }
    }
}

impl Generate for Cascade {
    fn generate(&self, request: Request) -> EventStream {
        match Climb::begin(self.inner.clone(), request) {
            Ok(climb) => EventStream::new(climb),
            Err(error) => EventStream::failed(error),
        }
    }
}

impl std::fmt::Debug for Cascade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cascade")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A cascade's counters, the cheapest tier first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CascadeStats {
    /// One for each tier.
    pub rungs: Vec<RungStats>,
}

/// One tier's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RungStats {
    /// The tier's name.
    pub name: String,
    /// Requests that it answers now.
    pub outstanding: usize,
    /// Requests it was ever asked.
    pub asked: u64,
    /// How many of them failed with an error of the tier's own.
    pub failed: u64,
    /// How many of its answers were not good enough.
    pub rejected: u64,
}

/// The parts of a [`Cascade`].
#[must_use = "a service is made by build()"]
pub struct CascadeBuilder {
    tiers: Vec<Tier>,
    check: Box<dyn QualityCheck>,
    router: RouterBuilder,
    timer: Arc<dyn Timer>,
}

impl CascadeBuilder {
    /// Adds a tier, the cheapest first.
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tiers.push(tier);
        self
    }

    /// Whether an answer is good enough. Default: [`Whole`].
    pub fn check(mut self, check: impl QualityCheck + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// What time it is. Default: a [`SystemTimer`](crate::SystemTimer) of its own.
    pub fn timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = timer;
        self
    }

    /// See [`RouterBuilder::availability`].
    pub fn availability(mut self, availability: impl Availability + 'static) -> Self {
        self.router = self.router.availability(availability);
        self
    }

    /// Checks the tiers and puts them together.
    ///
    /// # Errors
    /// [`TierError`].
    pub fn build(self) -> Result<Cascade, TierError> {
        let of = self.tiers.len();
        for (at, tier) in self.tiers.iter().enumerate() {
            tier.handled(at, of)?;
        }
        for pair in self.tiers.windows(2) {
            let costs = pair[0].replica.info.cost.zip(pair[1].replica.info.cost);
            if let Some((cost, next)) = costs
                && cost > next
            {
                return Err(TierError::NotCheapestFirst {
                    name: pair[0].name().to_owned(),
                    cost,
                    next: pair[1].name().to_owned(),
                });
            }
        }
        let rungs = self.tiers.iter().map(|tier| Rung {
            latency: tier.latency,
            rejected: AtomicU64::new(0),
        });
        let rungs = rungs.collect();
        let router = self
            .router
            .replicas(self.tiers.into_iter().map(|tier| tier.replica))
            .strategy(Lowest)
            .timer(self.timer.clone())
            .build()?;
        Ok(Cascade {
            inner: Arc::new(Inner {
                router,
                timer: self.timer,
                check: self.check,
                rungs,
            }),
        })
    }
}

impl std::fmt::Debug for CascadeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CascadeBuilder")
            .field("tiers", &self.tiers)
            .finish_non_exhaustive()
    }
}
