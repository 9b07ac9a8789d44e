//! Policies of a simulation by name.

use llmserve_core::IdentityRoot;

use crate::identify::TokenBlocks;
use crate::index::PrefixIndex;
use crate::strategy::{KvAware, PowerOfTwo, Random, Strategy, UnknownStrategy, named};

/// A strategy, and the index that replicas shall feed with their block events, where it has one.
pub struct Policy {
    pub(super) strategy: Box<dyn Strategy>,
    pub(super) index: Option<PrefixIndex>,
}

impl Policy {
    /// A strategy that goes by what the router itself knows.
    pub fn new(strategy: impl Strategy + 'static) -> Self {
        Self {
            strategy: Box::new(strategy),
            index: None,
        }
    }

    /// A strategy that goes by `index`, which replicas feed.
    pub fn fed(strategy: impl Strategy + 'static, index: &PrefixIndex) -> Self {
        Self {
            index: Some(index.clone()),
            ..Self::new(strategy)
        }
    }

    /// The policy of this name with its defaults, drawing by `seed`: one of
    /// [`NAMES`](crate::strategy::NAMES), where `kv-aware` is fed by the replicas, or
    /// `kv-aware-approximate`, which is not. `block_tokens` are those of the replicas' blocks.
    ///
    /// ```
    /// use llmserve_route::simulation::Policy;
    /// assert!(Policy::named("kv-aware", 16, 1).is_ok());
    /// assert!(Policy::named("best", 16, 1).is_err());
    /// ```
    ///
    /// # Errors
    /// [`UnknownStrategy`].
    pub fn named(name: &str, block_tokens: usize, seed: u64) -> Result<Self, UnknownStrategy> {
        Ok(match name {
            "kv-aware" => {
                let index = PrefixIndex::new();
                let blocks = TokenBlocks::new(root(block_tokens), block_tokens);
                Self::fed(KvAware::new(index.clone(), blocks).seed(seed), &index)
            }
            "kv-aware-approximate" => Self::new(KvAware::approximate().seed(seed)),
            "power-of-two" => Self::new(PowerOfTwo::seeded(seed)),
            "random" => Self::new(Random::seeded(seed)),
            other => Self::new(named(other)?),
        })
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Where the chains of simulated replicas' blocks begin, for
/// [`TokenBlocks`](crate::TokenBlocks).
pub fn root(block_tokens: usize) -> IdentityRoot {
    IdentityRoot::new(0, "simulated", block_tokens)
}
