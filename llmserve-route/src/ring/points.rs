//! The ring: points of members, in order.

use xxhash_rust::xxh3::Xxh3;

use crate::fleet::Slot;
use crate::replica::ReplicaInfo;

/// Points a member has on the ring.
pub(super) const VIRTUAL_NODES: u32 = 256;

/// Every member's points, ascending.
#[derive(Debug, Default)]
pub(super) struct Points(Vec<(u64, u32)>);

impl Points {
    /// Adds a member.
    pub(super) fn join(&mut self, slot: Slot, info: &ReplicaInfo) {
        let index = slot.index() as u32;
        let members = self.0.len();
        let points = (0..VIRTUAL_NODES).map(|node| (point(&info.name, node), index));
        self.0.extend(points);
        self.0[members..].sort_unstable();
        // Two sorted runs, which a stable sort merges in one pass.
        self.0.sort();
    }

    /// Takes a member out.
    pub(super) fn leave(&mut self, slot: Slot) {
        self.0.retain(|(_, index)| *index as usize != slot.index());
    }

    /// The slots' indexes from `key` on around the ring, each point's once.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let at = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at(at);
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

/// A member's point number `node`. Name and number are separate inputs: joined as text, "ep1" and
/// 11 would be "ep11" and 1, and two members would share points.
fn point(name: &str, node: u32) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(&node.to_le_bytes());
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_told_apart() {
        assert_ne!(point("ep1", 11), point("ep11", 1));
        assert_ne!(point("ep", 1), point("ep", 2));
    }
}
