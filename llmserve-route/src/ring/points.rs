//! The ring: points of members, in order.

use xxhash_rust::xxh3::Xxh3;

use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// Points a member has on the ring.
pub(super) const VIRTUAL_NODES: u32 = 256;

/// Every member's points, ascending.
#[derive(Debug, Default)]
pub(crate) struct Points(Vec<(u64, u32)>);

impl Points {
    /// Adds a member.
    pub(crate) fn join(&mut self, slot: Slot, info: &ReplicaInfo) {
        let index = slot.index() as u32;
        let members = self.0.len();
        let points = (0..VIRTUAL_NODES).map(|node| (point(&info.name, node), index));
        self.0.extend(points);
        self.0[members..].sort_unstable();
        // Two sorted runs, which a stable sort merges in one pass.
        self.0.sort();
    }

    /// Takes a member out.
    pub(crate) fn leave(&mut self, slot: Slot) {
        self.0.retain(|(_, index)| *index as usize != slot.index());
    }

    /// The slots' indexes from `key` on around the ring, each point's once.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let at = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at(at);
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }

    /// The candidate that has `key`, as one of so many owners: the least loaded of those that keep
    /// the bound, `load + 1 ≤ ceil(factor · (total + 1) / n)`; past the owners, the first that does.
    pub(crate) fn within(
        &self,
        key: u64,
        candidates: &Candidates<'_>,
        factor: f64,
        owners: usize,
    ) -> Option<Slot> {
        let load = |slot| candidates.outstanding(slot);
        let (n, total) = (candidates.len(), candidates.total_outstanding());
        let bound = (factor * (total + 1) as f64 / n as f64).ceil();
        let fits = |slot| (load(slot) + 1) as f64 <= bound;
        let mut seen = ReplicaSet::new();
        let mut found: Option<Slot> = None;
        let mut visited = 0;
        for index in self.from(key) {
            if !candidates.set().contains(index) || seen.contains(index) {
                continue;
            }
            seen.insert(index);
            visited += 1;
            let slot = candidates.fleet().slot(index);
            if fits(slot) && found.is_none_or(|found| load(slot) < load(found)) {
                found = Some(slot);
            }
            if (visited >= owners && found.is_some()) || visited == n {
                break;
            }
        }
        // Somebody always fits: were all at the bound, they would have more than there is.
        found
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
