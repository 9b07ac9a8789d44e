//! How a sequence's blocks get their identities.

use llmserve_core::{BlockIdentity, Extras, IdentityRoot, TokenId};

/// Gives each full block of a sequence its identity from the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    root: IdentityRoot,
    /// Bits of the identity that survive: with few of them everything collides.
    #[cfg(test)]
    pub(crate) mask: u128,
}

impl Chain {
    pub(crate) fn new(root: IdentityRoot) -> Self {
        Self {
            root,
            #[cfg(test)]
            mask: u128::MAX,
        }
    }

    /// The identities of the whole blocks of `tokens`.
    pub(crate) fn identities(
        self,
        extras: &Extras,
        tokens: &[TokenId],
        block_size: usize,
    ) -> Vec<BlockIdentity> {
        let mut parent = None;
        let blocks = tokens.chunks_exact(block_size).map(|block| {
            let identity = self.identity(parent, extras, block);
            parent = Some(identity);
            identity
        });
        blocks.collect()
    }

    /// The identity of the block of `tokens` after `parent`, or of a first block.
    pub(crate) fn identity(
        self,
        parent: Option<BlockIdentity>,
        extras: &Extras,
        tokens: &[TokenId],
    ) -> BlockIdentity {
        let identity = match parent {
            Some(parent) => parent.next(tokens),
            None => self.root.first(extras, tokens),
        };
        #[cfg(test)]
        let identity = BlockIdentity::from_u128(identity.as_u128() & self.mask);
        identity
    }
}
