//! What a replica has been given and has not finished, counted where it is decided.
//!
//! A count that waits for the replica's own report is stale by a round trip, and every router
//! that reads it sends its next request to the same idle-looking replica. So a dispatch is
//! counted under the lock it was decided under, before the replica hears of it.

use crate::replica::ReplicaInfo;

/// One member's counters. Plain numbers: they change under the router's lock only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) outstanding: u32,
    /// Most that may be outstanding; `u32::MAX` for any number.
    pub(crate) capacity: u32,
    pub(crate) tokens: u64,
    pub(crate) dispatched: u64,
    pub(crate) failed: u64,
}

impl Load {
    /// An idle member's.
    pub(crate) fn of(info: &ReplicaInfo) -> Self {
        let capacity = info.capacity.and_then(|most| u32::try_from(most).ok());
        Self {
            capacity: capacity.unwrap_or(u32::MAX),
            ..Self::default()
        }
    }
}
