//! Copies of requests to a service whose answers nobody reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use llmserve_core::{EventStream, Generate, Request};

use super::copies::Copies;
use crate::random::{Rng, mix};
use crate::strategy::KeyBy;

/// Copies that may run at once.
const DEFAULT_CONCURRENT: usize = 4;

/// A service that answers, and sends some requests to another one as well, whose answers are
/// counted and dropped. Cheap to clone.
///
/// Copies are sent and read on a thread of their own, that begins with the first copy and ends with
/// the last handle, which cancels what runs: whatever the other service does, the answer is neither
/// later nor another. Nothing waits: a copy that finds all places taken is not sent.
///
/// Which requests are copied is a matter of their session or tenant, so that conversations are
/// copied whole or not at all; chance decides where they name neither. Not copied is
/// - a request that names regions, unless the other service [is in one](ShadowBuilder::region) of
///   them or [heeds them itself](ShadowBuilder::heeds_regions);
/// - a request with [processors](llmserve_core::Request::processors): they are the host's own code,
///   and may remember what they have seen.
///
/// | setting | default |
/// | --- | --- |
/// | [`fraction`](ShadowBuilder::fraction) | 1 |
/// | [`concurrent`](ShadowBuilder::concurrent) | 4 |
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Silent;
/// # impl Generate for Silent {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::ready([])
/// #     }
/// # }
/// # struct Panics;
/// # impl Generate for Panics {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         panic!("a bug of the new version")
/// #     }
/// # }
/// use llmserve_route::split::Shadow;
/// let service = Shadow::builder(Silent, Panics).fraction(0.5).build()?;
/// assert!(service.generate(Request::text("Hi")).wait().is_ok());
/// # Ok::<(), llmserve_route::split::ShadowError>(())
/// ```
#[derive(Clone)]
pub struct Shadow {
    inner: Arc<Inner>,
}

struct Inner {
    main: Arc<dyn Generate>,
    fraction: f64,
    region: Option<String>,
    heeds_regions: bool,
    random: Rng,
    copies: Copies,
}

/// What is wrong with a shadow's parts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShadowError {
    /// No part of the requests.
    #[error("the fraction of requests that are copied is {value}; it must be from 0 to 1")]
    BadFraction {
        /// The fraction.
        value: f64,
    },
    /// No copy could ever run.
    #[error("no copy may run at once; at least 1 is needed")]
    NoPlaces,
}

/// What became of copies. Numbers read while requests run are no snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowStats {
    /// Copies sent.
    pub sent: u64,
    /// Copies that run.
    pub running: usize,
    /// Copies whose answer is complete.
    pub finished: u64,
    /// Copies that failed, panics included.
    pub failed: u64,
    /// Copies not sent because too many ran.
    pub full: u64,
    /// Requests not copied because of their regions.
    pub elsewhere: u64,
    /// Requests not copied because of their processors.
    pub unfit: u64,
}

impl Shadow {
    /// Starts putting `copy` beside `main`, which answers.
    pub fn builder(main: impl Generate + 'static, copy: impl Generate + 'static) -> ShadowBuilder {
        ShadowBuilder {
            main: Arc::new(main),
            copy: Arc::new(copy),
            fraction: 1.0,
            concurrent: DEFAULT_CONCURRENT,
            region: None,
            heeds_regions: false,
            seed: None,
        }
    }

    /// What became of the copies.
    pub fn stats(&self) -> ShadowStats {
        self.inner.copies.counts().stats()
    }
}

impl Inner {
    /// The copy of `request`, if there is to be one.
    fn copy_of(&self, request: &Request) -> Option<Request> {
        let chance = match KeyBy::Session.key(request) {
            // Salted, so that a split by the same key before it has no say in this one.
            Some(key) => (mix(key ^ 0x5AD0_0000) >> 11) as f64 / (1u64 << 53) as f64,
            None => self.random.unit(),
        };
        if chance >= self.fraction {
            return None;
        }
        let counts = self.copies.counts();
        let regions = &request.routing.regions;
        let here = |region: &String| regions.contains(region);
        if !(regions.is_empty() || self.heeds_regions || self.region.as_ref().is_some_and(here)) {
            counts.elsewhere.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if !request.processors.is_empty() {
            counts.unfit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if !self.copies.take_place() {
            counts.full.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut copy = request.clone();
        // Those are about the answer.
        copy.on_end.clear();
        Some(copy)
    }
}

impl Generate for Shadow {
    fn generate(&self, request: Request) -> EventStream {
        if let Some(copy) = self.inner.copy_of(&request) {
            self.inner.copies.send(copy);
        }
        self.inner.main.generate(request)
    }
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadow")
            .field("fraction", &self.inner.fraction)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The parts of a [`Shadow`].
#[must_use = "a service is made by build()"]
pub struct ShadowBuilder {
    main: Arc<dyn Generate>,
    copy: Arc<dyn Generate>,
    fraction: f64,
    concurrent: usize,
    region: Option<String>,
    heeds_regions: bool,
    seed: Option<u64>,
}

impl ShadowBuilder {
    /// The part of the requests that are copied, from 0 to 1. Default: 1.
    pub fn fraction(mut self, fraction: f64) -> Self {
        self.fraction = fraction;
        self
    }

    /// Most copies at once; at least 1. Default: 4.
    pub fn concurrent(mut self, copies: usize) -> Self {
        self.concurrent = copies;
        self
    }

    /// Where the service for copies runs. Default: in no region, so that requests that name
    /// regions are not copied.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The service for copies heeds a request's regions itself: see
    /// [`ReplicaInfo::heeds_regions`](crate::ReplicaInfo::heeds_regions). Default: it does not.
    pub fn heeds_regions(mut self) -> Self {
        self.heeds_regions = true;
        self
    }

    /// What chance follows from. Default: the system's randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub fn build(self) -> Result<Shadow, ShadowError> {
        if !(0.0..=1.0).contains(&self.fraction) {
            return Err(ShadowError::BadFraction {
                value: self.fraction,
            });
        }
        if self.concurrent == 0 {
            return Err(ShadowError::NoPlaces);
        }
        let inner = Inner {
            main: self.main,
            fraction: self.fraction,
            region: self.region,
            heeds_regions: self.heeds_regions,
            random: self.seed.map_or_else(Rng::new, Rng::seeded),
            copies: Copies::new(self.copy, self.concurrent),
        };
        Ok(Shadow {
            inner: Arc::new(inner),
        })
    }
}

impl std::fmt::Debug for ShadowBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShadowBuilder")
            .field("fraction", &self.fraction)
            .field("concurrent", &self.concurrent)
            .finish_non_exhaustive()
    }
}
