//! Whether a replica may be asked, as far as its health goes.

use llmserve_core::Time;

use crate::fleet::Slot;
use crate::outcome::Outcome;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// Says of a router's replicas which may be asked now: the one predicate in which health checks and
/// circuit breakers meet.
///
/// Every method is called under the router's lock, so that calls never overlap and a permit that
/// was seen free is free when it is taken. Be quick, and do not call the router. A panic ends the
/// request at hand.
pub trait Availability: Send + Sync {
    /// A replica came. Before its first request.
    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let _ = (slot, info);
    }

    /// A replica is gone. Requests that still run there are not told about any more.
    fn left(&self, slot: Slot) {
        let _ = slot;
    }

    /// Takes those out of `set`, by [`Slot::index`], that may not be asked at `now`.
    fn retain(&self, now: Time, set: &mut ReplicaSet);

    /// When the one in `slot`, which may not be asked now, may be asked again; none where that
    /// cannot be told.
    fn retry_at(&self, slot: Slot) -> Option<Time> {
        let _ = slot;
        None
    }

    /// A request goes to the one in `slot`, which [`retain`](Self::retain) let through at this very
    /// decision. What is returned comes back as the outcome's
    /// [`permit`](crate::Outcome::permit).
    fn dispatched(&self, slot: Slot, now: Time) -> u64 {
        let _ = (slot, now);
        0
    }

    /// A health check held the one in `slot` to be well, or not: after each that left no doubt,
    /// whether anything has changed or not.
    fn checked(&self, slot: Slot, well: bool) {
        let _ = (slot, well);
    }

    /// A request at the one in `slot` ended.
    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let _ = (slot, outcome);
    }
}

/// Everybody may always be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysAvailable;

impl Availability for AlwaysAvailable {
    fn retain(&self, _now: Time, _set: &mut ReplicaSet) {}
}
