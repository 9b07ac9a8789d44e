//! What a live service tells of itself.

mod histogram;
mod layer;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Generate, Time};
use parking_lot::Mutex;

use super::error::{ScaleConfigError, wrong};
use super::signals::{Room, Signals};
use crate::router::Router;
pub use layer::Measured;
use window::Window;

/// Measures a router, or the layers before it, over a window of time, and gives the
/// [`Signals`] that an [`Autoscaler`](super::Autoscaler) or others scale by. Cheap to clone; all
/// clones are the same.
///
/// | signal | over the window |
/// | --- | --- |
/// | [`utilization`](Signals::utilization) | requests there were, on average over time, over the [capacity](crate::ReplicaInfo::capacity) there is now; over 1 where requests wait before the router. None where a replica declares no capacity |
/// | [`queue`](Signals::queue) | requests without a first event, on average over time: they wait, or their prompts are being computed. While there is no replica, also all that were turned away for that |
/// | [`p95`](Signals::p95) | of the times from a call to its first event, at most a sixteenth too much; none where there was none. What failed or was given up before that has no such time |
/// | [`demand`](Signals::demand) | requests that came, a second, those refused included |
///
/// Requests are counted where [`measure`](Self::measure) stands: around an
/// [`Admission`](crate::admission::Admission) those that wait there are counted too. One is there
/// until its reader has its end or drops it. Time is the router's, and memory is the same however
/// many requests there are.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use std::time::Duration;
/// use llmserve_route::scale::{Autoscaler, Meter, RouterTarget};
/// use llmserve_route::{Replica, Router};
/// let router = Router::builder().allow_empty(true).build()?;
/// let meter = Meter::new(router.clone(), Duration::from_secs(60))?;
/// let service = meter.measure(router.clone()); // what requests are sent to
///
/// let start = |name: &str| Ok(Replica::new(name, Engine).capacity(64));
/// let scaler = Autoscaler::builder(RouterTarget::new(router, "engine", start)).build()?;
/// // Every 15 seconds or so:
/// let signals = meter.signals();
/// scaler.observe(signals);
/// scaler.tick(signals.at)?;
/// # drop(service);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
}

struct Shared {
    router: Router,
    window: Mutex<Window>,
}

impl Meter {
    /// One for the replicas of `router`, that remembers as long as `window`.
    ///
    /// # Errors
    /// The window is 0.
    pub fn new(router: Router, window: Duration) -> Result<Self, ScaleConfigError> {
        if window.is_zero() {
            return wrong("window", 0, "nothing fits into it");
        }
        let window = Mutex::new(Window::new(window, router.now()));
        Ok(Self {
            shared: Arc::new(Shared { router, window }),
        })
    }

    /// A service whose requests are counted here: the router itself, or layers around it.
    pub fn measure(&self, service: impl Generate + 'static) -> Measured {
        Measured {
            service: Arc::new(service),
            shared: self.shared.clone(),
        }
    }

    /// What there is to tell now.
    pub fn signals(&self) -> Signals {
        let Shared { router, window } = &*self.shared;
        let now: Time = router.now();
        let room = Room::of(router);
        let told = window.lock().told(now);
        let mut queue = told.waiting;
        if room.replicas == 0 {
            // Nobody can wait where there is nobody, and yet somebody is wanted. How many were
            // turned away in the window says nothing of how many would have waited at a time.
            queue = queue.max(f64::from(u8::from(told.turned_away > 0)));
        }
        Signals {
            utilization: room.part(told.in_flight),
            queue: Some(queue),
            p95: told.p95,
            demand: told.demand,
            ..Signals::new(now, room.replicas)
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}
