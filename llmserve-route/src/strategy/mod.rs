//! Who of those that can, shall answer.

mod affinity;
mod key;
mod kv_aware;
mod latency;
mod least_loaded;
mod least_tokens;
mod merit;
mod named;
mod power_of_two;
mod prompt_length;
mod random;
mod round_robin;
pub(crate) mod softmax;
pub(crate) mod turns;
mod weighted;

#[cfg(test)]
pub(crate) mod testing;

pub use crate::ring::BoundedHash;
pub use affinity::Affinity;
pub use key::KeyBy;
pub use kv_aware::KvAware;
pub use latency::LatencyAware;
pub use least_loaded::LeastLoaded;
pub use least_tokens::LeastTokens;
pub use merit::{BestQuality, Cheapest};
pub use named::{NAMES, UnknownStrategy, named};
pub use power_of_two::PowerOfTwo;
pub use prompt_length::PromptLength;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use weighted::Weighted;

use std::sync::Arc;

use llmserve_core::Request;

use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::outcome::{Answering, Outcome};
use crate::replica::ReplicaInfo;

/// Picks the replica that shall answer a request.
///
/// A router calls everything but [`prepare`](Self::prepare) under its lock: no two calls overlap,
/// and nothing changes between a pick and its [`dispatched`](Self::dispatched), so that a bound
/// that is kept by each pick is kept. Hence be quick, wait for nothing, and neither call the
/// router nor drop its streams from in here. A strategy's memory is by [`Slot`], so each router
/// needs one of its own.
///
/// A panic in `prepare`, `pick` or `dispatched` ends the one request with
/// [`Error::Panicked`](llmserve_core::Error::Panicked), its part being `"routing strategy"`, and so
/// does a pick that is no candidate. A panic in another method ends nothing.
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::{Ask, Candidates, Replica, Router, Slot, Strategy};
///
/// /// Nobody gets more than `limit` requests at once; below it, the first one wins.
/// struct FillUp {
///     limit: usize,
/// }
///
/// impl Strategy for FillUp {
///     fn pick(&self, _ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
///         candidates.iter().find(|slot| candidates.outstanding(*slot) < self.limit)
///     }
/// }
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let router = Router::builder()
///     .replica(Replica::new("a", Closed))
///     .replica(Replica::new("b", Closed))
///     .strategy(FillUp { limit: 2 })
///     .build()?;
/// let _streams: Vec<_> = (0..3).map(|_| router.generate(Request::text("Hi"))).collect();
/// let outstanding: Vec<_> = router.stats().replicas.iter().map(|r| r.outstanding).collect();
/// assert_eq!(outstanding, [2, 1]);
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
pub trait Strategy: Send + Sync {
    /// The one of `candidates` that shall answer. There is at least one.
    ///
    /// Asked on the thread that calls `generate()`, and once more, on the thread that reads the
    /// stream, for each failover, with the replicas that were tried left out.
    ///
    /// None says that none of them may take the request now. It is then refused with
    /// [`Error::Overloaded`](llmserve_core::Error::Overloaded), waiting and limit both being the
    /// candidates' outstanding requests; or, when this was a failover, it ends with the error of
    /// the replica that was tried last.
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot>;

    /// What it wants to know of a request that takes time to find out, such as hashes of its
    /// prompt. Called once a request, without the lock: calls overlap. Nothing unless said
    /// otherwise.
    fn prepare(&self, request: &Request) -> Prepared {
        let _ = request;
        Prepared::default()
    }

    /// A replica came, in a slot that is free or new. Before its first request.
    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let _ = (slot, info);
    }

    /// A replica is gone: forget it. What runs there is not told about any more.
    fn left(&self, slot: Slot) {
        let _ = slot;
    }

    /// The request goes to the one in `slot`, which was picked just now. What is returned comes
    /// back with what becomes of the request.
    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
        let _ = (ask, slot);
        0
    }

    /// The first event of a request came.
    fn answering(&self, slot: Slot, answering: &Answering) {
        let _ = (slot, answering);
    }

    /// A request ended.
    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let _ = (slot, outcome);
    }
}

macro_rules! forward {
    ($($pointer:ident),*) => {$(
        impl<S: Strategy + ?Sized> Strategy for $pointer<S> {
            fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
                (**self).pick(ask, candidates)
            }
            fn prepare(&self, request: &Request) -> Prepared {
                (**self).prepare(request)
            }
            fn joined(&self, slot: Slot, info: &ReplicaInfo) {
                (**self).joined(slot, info);
            }
            fn left(&self, slot: Slot) {
                (**self).left(slot);
            }
            fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
                (**self).dispatched(ask, slot)
            }
            fn answering(&self, slot: Slot, answering: &Answering) {
                (**self).answering(slot, answering);
            }
            fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
                (**self).ended(slot, outcome);
            }
        }
    )*};
}

forward!(Arc, Box);
