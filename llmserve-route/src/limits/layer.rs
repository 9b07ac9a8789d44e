//! Limits as a service around a service.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llmserve_core::error::panic_message;
use llmserve_core::{Error, EventStream, Generate, Request};

use super::limiter::Limiter;
use super::metered::Metered;
use crate::estimate::estimated_tokens;

type KeyOf = dyn Fn(&Request) -> String + Send + Sync;

/// A service that lets each caller ask for so much and no more. Cheap to clone.
///
/// A request takes [`estimated_tokens`] when it comes and is corrected when its answer is complete:
/// prompt and completions as the answer says. An answer that is cut off or dropped costs what came
/// of it; one that failed before its first event, nothing at all. The place among those at once is
/// free when the answerer is done, though the answer may not have been read.
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::limits::{Limit, Limiter, Limits, Per, Rate};
/// # struct Silent;
/// # impl Generate for Silent {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::ready([])
/// #     }
/// # }
/// let limiter = Limiter::builder()
///     .default_limit(Limit::default().requests(Rate::new(1, Per::Minute)))
///     .build()?;
/// let service = Limits::builder(Silent, limiter).build();
/// assert!(service.generate(Request::text("Hi").tenant("acme")).wait().is_ok());
/// let refused = service.generate(Request::text("Hi").tenant("acme")).wait();
/// assert!(matches!(refused, Err(Error::RateLimited { limit: 1, .. })));
/// assert!(service.generate(Request::text("Hi").tenant("other")).wait().is_ok());
/// # Ok::<(), llmserve_route::limits::LimitsError>(())
/// ```
#[derive(Clone)]
pub struct Limits {
    inner: Arc<dyn Generate>,
    limiter: Limiter,
    key: Option<Arc<KeyOf>>,
}

impl Limits {
    /// Starts putting `limiter` before `inner`.
    pub fn builder(inner: impl Generate + 'static, limiter: Limiter) -> LimitsBuilder {
        LimitsBuilder(Self {
            inner: Arc::new(inner),
            limiter,
            key: None,
        })
    }

    fn accept(&self, mut request: Request) -> Result<EventStream, Error> {
        let panicked = |part, panic: Box<dyn std::any::Any + Send>| Error::Panicked {
            part,
            message: panic_message(&*panic),
        };
        let key = match &self.key {
            None => request.tenant.clone().unwrap_or_default(),
            Some(key) => catch_unwind(AssertUnwindSafe(|| key(&request)))
                .map_err(|panic| panicked("key of a request", panic))?,
        };
        let charge = Arc::new(self.limiter.reserve(&key, estimated_tokens(&request))?);
        let ended = charge.clone();
        request.on_end.push(Arc::new(move || ended.release()));
        let metered = Metered::new(charge, &request);
        let stream = catch_unwind(AssertUnwindSafe(|| self.inner.generate(request)))
            .unwrap_or_else(|panic| EventStream::failed(panicked("service", panic)));
        Ok(EventStream::new(metered.around(stream)))
    }
}

impl Generate for Limits {
    fn generate(&self, request: Request) -> EventStream {
        self.accept(request).unwrap_or_else(EventStream::failed)
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

/// The parts of a [`Limits`].
#[must_use = "a service is made by build()"]
#[derive(Debug)]
pub struct LimitsBuilder(Limits);

impl LimitsBuilder {
    /// Whose limits a request counts for. Default: its tenant's; requests without a tenant are of
    /// one caller, whose key is the empty string.
    pub fn key(mut self, key: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        self.0.key = Some(Arc::new(key));
        self
    }

    /// Puts the parts together.
    pub fn build(self) -> Limits {
        self.0
    }
}
