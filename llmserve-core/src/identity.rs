//! What a sealed KV block *is*: 128 bits that are equal exactly when the keys and values are.
//!
//! ```text
//!  root = H(weights fingerprint, KV dtype and layout, block size)
//!  id₀  = H(root, extras, tokens of block 0)     extras: tenant salt, adapter, modality
//!  idₙ  = H(idₙ₋₁, tokens of block n)
//! ```
//!
//! Stable across processes and machines, so that an index, a router and a shared tier all mean
//! the same thing by the same number. The hash is XXH3-128: fast and well distributed, but not
//! secret. Whoever looks a block up in memory compares tokens and extras as well.

use crate::ids::TokenId;
use xxhash_rust::xxh3::Xxh3;

/// The chained 128-bit identity of a full KV block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIdentity(u128);

impl BlockIdentity {
    /// The identity as a number, for the wire and for indexes.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// An identity received from elsewhere.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The identity of the block of `tokens` that follows this one.
    pub fn next(self, tokens: &[TokenId]) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&self.0.to_le_bytes());
        update_tokens(&mut hasher, tokens);
        Self(hasher.digest128())
    }
}

impl std::fmt::Debug for BlockIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where every chain of one model, KV layout and block size starts.
///
/// ```
/// use llmserve_core::{Extras, IdentityRoot};
/// let root = IdentityRoot::new(0x5eed, "f32", 4);
/// let a = root.first(&Extras::default(), &[1, 2, 3, 4]);
/// let salted = root.first(&Extras::default().tenant("acme"), &[1, 2, 3, 4]);
/// assert_ne!(a, salted);
/// assert_eq!(a.next(&[5, 6, 7, 8]), a.next(&[5, 6, 7, 8]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRoot(u128);

impl IdentityRoot {
    /// `fingerprint` names the weights, `layout` the KV dtype and its arrangement.
    pub fn new(fingerprint: u128, layout: &str, block_size: usize) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&fingerprint.to_le_bytes());
        hasher.update(&(layout.len() as u64).to_le_bytes());
        hasher.update(layout.as_bytes());
        hasher.update(&(block_size as u64).to_le_bytes());
        Self(hasher.digest128())
    }

    /// The identity of a sequence's first block.
    pub fn first(self, extras: &Extras, tokens: &[TokenId]) -> BlockIdentity {
        let mut hasher = Xxh3::new();
        hasher.update(&self.0.to_le_bytes());
        hasher.update(&(extras.0.len() as u64).to_le_bytes());
        hasher.update(&extras.0);
        update_tokens(&mut hasher, tokens);
        BlockIdentity(hasher.digest128())
    }
}

fn update_tokens(hasher: &mut Xxh3, tokens: &[TokenId]) {
    // Chunks through the stack: the bytes must be little-endian everywhere.
    for chunk in tokens.chunks(16) {
        let mut bytes = [0u8; 64];
        for (slot, token) in bytes.chunks_exact_mut(4).zip(chunk) {
            slot.copy_from_slice(&token.to_le_bytes());
        }
        hasher.update(&bytes[..chunk.len() * 4]);
    }
}

/// What besides tokens makes KV differ: tagged, canonical, compared byte for byte on a hit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extras(Vec<u8>);

impl Extras {
    /// KV of one tenant is never read by another.
    pub fn tenant(self, tenant: &str) -> Self {
        self.tagged(1, tenant.as_bytes())
    }

    /// KV computed through an adapter (LoRA and the like).
    pub fn adapter(self, adapter: &str) -> Self {
        self.tagged(2, adapter.as_bytes())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn tagged(mut self, tag: u8, value: &[u8]) -> Self {
        self.0.push(tag);
        self.0
            .extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_identity_matters() {
        let root = IdentityRoot::new(7, "bf16", 4);
        let none = Extras::default();
        let base = root.first(&none, &[1, 2, 3, 4]);
        assert_ne!(
            base,
            IdentityRoot::new(8, "bf16", 4).first(&none, &[1, 2, 3, 4])
        );
        assert_ne!(
            base,
            IdentityRoot::new(7, "f32", 4).first(&none, &[1, 2, 3, 4])
        );
        assert_ne!(
            base,
            IdentityRoot::new(7, "bf16", 8).first(&none, &[1, 2, 3, 4])
        );
        assert_ne!(base, root.first(&none, &[1, 2, 3, 5]));
        assert_ne!(base, root.first(&none.clone().tenant("a"), &[1, 2, 3, 4]));
        assert_ne!(
            root.first(&none.clone().tenant("a"), &[1]),
            root.first(&none.clone().adapter("a"), &[1])
        );
        assert_ne!(base.next(&[1]), base.next(&[1]).next(&[1]));
    }

    #[test]
    fn identities_are_stable_across_processes() {
        // A change here orphans every shared tier in the field: it must be deliberate.
        let root = IdentityRoot::new(1, "f32", 4);
        let id = root
            .first(&Extras::default().tenant("t"), &[1, 2, 3, 4])
            .next(&[5, 6, 7, 8]);
        assert_eq!(format!("{id:?}"), format!("{:032x}", id.as_u128()));
        assert_eq!(BlockIdentity::from_u128(id.as_u128()), id);
    }
}
