//! A map from identities in many small parts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use llmserve_core::BlockIdentity;

/// Parts there are. A map grows by moving all it has, and decisions wait meanwhile: with 4 million
/// blocks a part has 256, which are moved in microseconds.
pub(super) const SHARDS: usize = 1 << 14;

/// Identities are hashes already; those of other engines may be small or in sequence.
#[derive(Default)]
pub(super) struct IdentityHasher(u64);

pub(super) type Shard<V> = HashMap<BlockIdentity, V, BuildHasherDefault<IdentityHasher>>;

fn fold(identity: u128) -> u64 {
    let folded = identity as u64 ^ ((identity >> 64) as u64).rotate_left(32);
    folded.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u128(&mut self, identity: u128) {
        self.0 = fold(identity);
    }
}

/// A map whose growth nobody has to wait for.
#[derive(Debug)]
pub(super) struct Shards<V>(Box<[Shard<V>]>);

impl<V> Shards<V> {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| HashMap::default()).collect())
    }

    fn at(identity: BlockIdentity) -> usize {
        // Bits that a part itself uses neither for its buckets nor for its tags.
        (fold(identity.as_u128()) >> 40) as usize % SHARDS
    }

    /// The part that has `identity`, if any has.
    pub(super) fn of(&mut self, identity: BlockIdentity) -> &mut Shard<V> {
        &mut self.0[Self::at(identity)]
    }

    pub(super) fn get(&self, identity: BlockIdentity) -> Option<&V> {
        self.0[Self::at(identity)].get(&identity)
    }

    /// Part number `at`.
    pub(super) fn part(&mut self, at: usize) -> &mut Shard<V> {
        &mut self.0[at]
    }

    pub(super) fn parts(&mut self) -> impl Iterator<Item = &mut Shard<V>> {
        self.0.iter_mut()
    }
}
