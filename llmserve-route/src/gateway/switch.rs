//! Whether the gateway wants more requests, and how many it is answering.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tells load balancers to send no more, and counts what is being answered.
///
/// Cheap to clone; all clones are the same switch.
///
/// ```
/// use llmserve_route::gateway::Switch;
/// let switch = Switch::default();
/// switch.clone().drain();
/// assert!(switch.is_draining() && switch.in_flight() == 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Switch {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    draining: AtomicBool,
    in_flight: AtomicUsize,
}

impl Switch {
    /// From now on `/ready` says no. Requests that come nevertheless are still answered: a load
    /// balancer takes its time to look.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::SeqCst);
    }

    /// Takes [`drain`](Self::drain) back.
    pub fn undrain(&self) {
        self.state.draining.store(false, Ordering::SeqCst);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::SeqCst)
    }

    /// Bodies of completions and chats whose answers have not ended.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn enter(&self) -> InFlight {
        self.state.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self.clone())
    }
}

/// One answer that has not ended.
pub(super) struct InFlight(Switch);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
