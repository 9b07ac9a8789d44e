//! What is kept, and what is let go of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use llmserve_core::error::guarded;
use llmserve_core::{Error, KeepPrefix, Keeping, KeptPrefix, Prefix};

use super::super::census::{NodeId, SharedPrefix};
use super::Shared;

/// The beginnings that are kept because many prompts share them.
#[derive(Default)]
pub(super) struct Kept {
    guards: HashMap<NodeId, KeptPrefix>,
    /// What could not be kept, and how many prompts shared it then. Asked again when twice as many do.
    refused: HashMap<NodeId, (Prefix, u32)>,
    /// Somebody is changing what is kept.
    busy: bool,
}

impl Kept {
    pub(super) fn len(&self) -> usize {
        self.guards.len()
    }
}

/// What is kept under a name: its guard, and the mark on its beginning.
pub(super) struct Registered {
    guard: Option<KeptPrefix>,
    node: NodeId,
    shared: std::sync::Weak<Shared>,
}

impl Registered {
    pub(super) fn keeping(&self) -> Keeping {
        match &self.guard {
            Some(guard) => guard.keeping(),
            None => Keeping::Ready { tokens: 0 },
        }
    }

    pub(super) fn wait(&self) -> Result<usize, Error> {
        self.guard.as_ref().map_or(Ok(0), KeptPrefix::wait)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.census.lock().unmark(self.node);
        }
    }
}

impl Shared {
    /// None for an empty prefix.
    pub(super) fn keep_registered(self: &Arc<Self>, prefix: &Prefix) -> Option<Arc<Registered>> {
        let node = {
            let mut census = self.census.lock();
            let node = census.add(prefix, 0)?;
            census.mark(node);
            node
        };
        let guard = self
            .keeper
            .as_ref()
            .map(|keeper| keep(&**keeper, prefix.clone()));
        Some(Arc::new(Registered {
            guard,
            node,
            shared: Arc::downgrade(self),
        }))
    }

    /// Counts what an earlier process knew, and keeps the best of it.
    pub(super) fn recall(self: &Arc<Self>, shared: &[SharedPrefix]) {
        {
            let mut census = self.census.lock();
            // The longest first: who had it had those it begins with, and is counted there as well.
            let mut shared: Vec<&SharedPrefix> = shared.iter().collect();
            shared.sort_by_key(|shared| std::cmp::Reverse(shared.bytes));
            for shared in shared {
                census.recall(shared);
            }
            census.stay_within();
        }
        if !shared.is_empty() {
            self.review();
        }
    }

    /// Keeps what most prompts share, in the place of what fewer do.
    pub(super) fn review(self: &Arc<Self>) {
        let Some(keeper) = &self.keeper else { return };
        let held: HashSet<NodeId> = {
            let mut kept = self.kept.lock();
            if self.automatic == 0 || std::mem::replace(&mut kept.busy, true) {
                return;
            }
            kept.guards.keys().copied().collect()
        };
        // The census is not held while keepers are called, nor is what is kept.
        let (best, old) = {
            let mut census = self.census.lock();
            let best = census.best(self.automatic, &held);
            let wanted: HashSet<NodeId> = best.iter().map(|worth| worth.node).collect();
            let mut kept = self.kept.lock();
            kept.refused.retain(|node, _| wanted.contains(node));
            let gone: Vec<NodeId> = held.difference(&wanted).copied().collect();
            let mut old = Vec::new();
            for node in gone {
                census.unmark(node);
                old.extend(kept.guards.remove(&node));
            }
            let mut new = Vec::new();
            for worth in best {
                let prefix = &worth.shared.prefix;
                match kept.guards.get(&worth.node).map(KeptPrefix::keeping) {
                    // What was refused after all makes room, and is not asked for again at once.
                    Some(Keeping::Failed(_)) => {
                        census.unmark(worth.node);
                        old.extend(kept.guards.remove(&worth.node));
                        let refused = (prefix.clone(), worth.shared.requests);
                        kept.refused.insert(worth.node, refused);
                    }
                    Some(_) => {}
                    None if kept
                        .refused
                        .get(&worth.node)
                        .is_some_and(|(refused, then)| {
                            refused == prefix && worth.shared.requests / 2 < *then
                        }) => {}
                    None => {
                        kept.refused.remove(&worth.node);
                        census.mark(worth.node);
                        new.push(worth);
                    }
                }
            }
            (new, old)
        };
        // First let go, then keep: there may be room for so many only.
        drop(old);
        for worth in best {
            let guard = keep(&**keeper, worth.shared.prefix);
            self.kept.lock().guards.insert(worth.node, guard);
        }
        let mut kept = self.kept.lock();
        kept.busy = false;
        self.counters.keeps(kept.guards.len());
    }
}

/// A keeper is the host's code.
fn keep(keeper: &dyn KeepPrefix, prefix: Prefix) -> KeptPrefix {
    guarded(|| keeper.keep(prefix)).unwrap_or_else(|message| {
        KeptPrefix::failed(Error::Panicked {
            part: "prefix keeper",
            message,
        })
    })
}
