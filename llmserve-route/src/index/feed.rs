//! Where an engine tells what it has.

use std::sync::Arc;

use llmserve_core::BlockEvent;

use super::holders::Tiers;
use super::{PrefixIndex, Tier};

/// One replica's way to tell an index what it has in one tier.
#[derive(Clone, Debug)]
pub struct Feed {
    index: PrefixIndex,
    name: Arc<str>,
    tiers: Tiers,
}

impl Feed {
    pub(super) fn new(index: PrefixIndex, name: Arc<str>, tier: Tier) -> Self {
        let tiers = match tier {
            Tier::Device => Tiers::DEVICE,
            Tier::Host => Tiers::HOST,
            Tier::Disk => Tiers::DISK,
        };
        Self { index, name, tiers }
    }

    /// Takes events in, in order.
    pub fn apply(&self, events: &[BlockEvent]) {
        self.index.apply(&self.name, self.tiers, events);
    }
}
