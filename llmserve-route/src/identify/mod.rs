//! From a request to the identities of its prompt's KV blocks.

mod text;
mod tokens;

pub use text::TextBlocks;
pub use tokens::TokenBlocks;

use std::sync::Arc;

use llmserve_core::{BlockIdentity, Request};

/// Says what the KV blocks of a request's prompt are, so that a router can know who has them.
///
/// Called once a request on the thread that calls the router, before its lock.
pub trait Identify: Send + Sync {
    /// The identities of the prompt's full blocks, in order. Empty: not known.
    fn identify(&self, request: &Request) -> Vec<BlockIdentity>;

    /// Tokens of a block, as exact as that is known; at least 1.
    fn block_tokens(&self) -> usize;
}

impl<I: Identify + ?Sized> Identify for Arc<I> {
    fn identify(&self, request: &Request) -> Vec<BlockIdentity> {
        (**self).identify(request)
    }

    fn block_tokens(&self) -> usize {
        (**self).block_tokens()
    }
}

impl<I: Identify + ?Sized> Identify for Box<I> {
    fn identify(&self, request: &Request) -> Vec<BlockIdentity> {
        (**self).identify(request)
    }

    fn block_tokens(&self) -> usize {
        (**self).block_tokens()
    }
}
