//! Who has which KV blocks: an index of prefixes over replicas.
//!
//! ```text
//!  engines ── BlockEvents ──► Feed ─┐        ┌─ by shard ──────────────────────┐
//!                                   ├─ seat ─►  identity ─► {(seat, tiers), …} │
//!  router ─── own dispatches ───────┘        └──────────────┬──────────────────┘
//!                                                           │ find(chain)
//!                                              for each replica how far it has it
//! ```
//!
//! A block's identity stands for all before it, so a map from identities to holders is a prefix
//! tree without nodes. Replicas evict a chain's tail first: who has a block has all before it, and
//! how far each one has a chain is found by bisection, in a handful of lookups, not by walking it.
//!
//! What is known comes from the engines' own events, or is assumed from what was sent where:
//! assumptions are credited at once, confirmed or refuted by events, and expire.

mod assumed;
mod feed;
mod find;
mod holders;
mod shards;
mod table;

pub use feed::Feed;

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{BlockEvent, BlockIdentity, Time};
use parking_lot::Mutex;

use crate::fleet::Slot;
use find::Finder;
use holders::Tiers;
use table::Table;

/// What tier a replica holds blocks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// The memory the model computes from.
    Device,
    /// The host's memory.
    Host,
    /// A disk, or somebody else's memory.
    Disk,
}

/// How many blocks at the beginning of a chain a replica has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In device memory, or assumed to be.
    pub device: usize,
    /// At least in host memory; no less than `device`.
    pub host: usize,
    /// At all; no less than `host`.
    pub disk: usize,
}

impl Overlap {
    /// What need not be computed, in blocks, where one in host memory is worth `host` and one on
    /// disk `disk` of one on the device.
    pub fn credit(&self, host: f64, disk: f64) -> f64 {
        let beyond = |more: usize, less: usize| more.saturating_sub(less) as f64;
        self.device as f64
            + host * beyond(self.host, self.device)
            + disk * beyond(self.disk, self.host)
    }
}

/// What an index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexStats {
    /// Blocks that somebody has, or had who is gone and not forgotten altogether yet.
    pub blocks: usize,
    /// Pairs of a block and a replica that was said to have it.
    pub told: usize,
    /// Pairs of a block and a replica that is assumed to have it.
    pub assumed: usize,
    /// Blocks not taken in because there were [`max_blocks`](PrefixIndex::max_blocks).
    pub dropped: u64,
    /// Assumptions that were neither confirmed nor renewed in time.
    pub expired: u64,
}

/// An index of which replica has which prefix. Cheap to clone; all clones are the same index.
///
/// Replicas are known by their [`Slot`]s; [`KvAware`](crate::KvAware), or any other strategy, tells
/// of [those that came](Self::join) and [went](Self::leave). What was removed, or what an engine
/// has [cleared](BlockEvent::Cleared), is not found from that moment on; its memory is given back
/// little by little by the calls that follow.
///
/// A replica of another kind that evicts from the middle of a chain may be thought to have up to
/// the end what it has only up to the gap, or the other way round: a preference is then wrong, and
/// no answer.
///
/// | setting | default |
/// | --- | --- |
/// | [`max_blocks`](Self::max_blocks), over all replicas | 4,194,304 |
/// | [`expire_after`](Self::expire_after), of assumptions | 600 s |
/// | [`assume_every`](Self::assume_every) | 1 block |
/// | [`max_assumed`](Self::max_assumed), a replica | 16,384 |
///
/// ```
/// use llmserve_core::{BlockEvent, Extras, IdentityRoot, Time};
/// use llmserve_route::{Slot, index::{PrefixIndex, Tier}};
/// let root = IdentityRoot::new(1, "f32", 2);
/// let first = root.first(&Extras::default(), &[1, 2]);
/// let chain = [first, first.next(&[3, 4])];
///
/// let index = PrefixIndex::new();
/// let (a, b) = (Slot::new(0, 0), Slot::new(1, 0));
/// index.join(a, "rack-1");
/// index.join(b, "rack-2");
/// // An engine tells what it has; and a request with both blocks was sent to b.
/// let feed = index.feed("rack-1", Tier::Device);
/// # fn stored(identity: llmserve_core::BlockIdentity) -> BlockEvent {
/// #     BlockEvent::Stored { identity, parent: None, tokens: Vec::new() }
/// # }
/// feed.apply(&[stored(chain[0])]);
/// index.assume(b, &chain, Time::ZERO);
/// let found: Vec<_> = index.find(&chain).iter().map(|(slot, has)| (*slot, has.device)).collect();
/// assert_eq!(found, [(a, 1), (b, 2)]);
/// ```
#[derive(Clone)]
pub struct PrefixIndex {
    state: Arc<Mutex<State>>,
}

struct State {
    table: Table,
    finder: Finder,
    expire_after: Duration,
    /// Assumptions are made for every so manyth block.
    every: usize,
}

impl PrefixIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                table: Table::new(4 << 20, 16 << 10),
                finder: Finder::default(),
                expire_after: Duration::from_secs(600),
                every: 1,
            })),
        }
    }

    /// Most blocks it holds, over all replicas. Those beyond are not taken in, and counted.
    pub fn max_blocks(self, blocks: usize) -> Self {
        self.state.lock().table.max_blocks = blocks;
        self
    }

    /// How long an assumption holds that is neither confirmed nor renewed. Shorter where engines
    /// tell what they have: then it only bridges the time until they do.
    pub fn expire_after(self, after: Duration) -> Self {
        self.state.lock().expire_after = after;
        self
    }

    /// Assumes of a chain that was sent somewhere only every `blocks`th block, and the last one: as
    /// much cheaper, and as much less exact where prompts differ in the middle. 0 is taken as 1.
    pub fn assume_every(self, blocks: usize) -> Self {
        self.state.lock().every = blocks.max(1);
        self
    }

    /// Most blocks a replica is assumed to have at once, the longest untouched being forgotten
    /// first: about what its KV cache holds, divided by [`assume_every`](Self::assume_every).
    pub fn max_assumed(self, blocks: usize) -> Self {
        self.state.lock().table.max_assumed = blocks;
        self
    }

    /// A replica has this slot from now on, and what a [feed](Self::feed) of its name has told. One
    /// that had the slot is forgotten.
    pub fn join(&self, slot: Slot, name: &str) {
        self.state.lock().table.join(slot, name);
    }

    /// Forgets a replica, and what its feeds tell from now on.
    pub fn leave(&self, slot: Slot) {
        self.state.lock().table.leave(slot);
    }

    /// Where the engine of this name tells what it has in `tier`: for
    /// `on_block_events(move |events| feed.apply(events))`. It may be made, and told, before the
    /// replica joins.
    pub fn feed(&self, name: &str, tier: Tier) -> Feed {
        let name = name.into();
        self.state.lock().table.seat(&name);
        Feed::new(self.clone(), name, tier)
    }

    /// Assumes that the one in `slot` has, or will soon have, all of `chain`.
    pub fn assume(&self, slot: Slot, chain: &[BlockIdentity], now: Time) {
        let mut state = self.state.lock();
        let State {
            table,
            expire_after,
            every,
            ..
        } = &mut *state;
        table.expire(now, *expire_after);
        table.assume(slot, chain, *every, now);
        table.sweep();
    }

    /// Assumes it, where it has the first `depth` blocks already: some of it at once, the rest by
    /// [`continue_assuming`](Self::continue_assuming).
    pub(crate) fn assume_soon(&self, slot: Slot, chain: &[BlockIdentity], depth: usize, now: Time) {
        let mut state = self.state.lock();
        let State {
            table,
            expire_after,
            every,
            ..
        } = &mut *state;
        table.expire(now, *expire_after);
        table.assume_soon(slot, chain, *every, depth, now);
        table.sweep();
    }

    /// Goes on with what was to be assumed soon.
    pub(crate) fn continue_assuming(&self) {
        /// Blocks a call: decisions wait meanwhile.
        const AT_ONCE: usize = 32;
        self.state.lock().table.continue_assuming(AT_ONCE);
    }

    /// Those that have the first block of `chain` at least, and how much of it, by slot.
    pub fn find(&self, chain: &[BlockIdentity]) -> Vec<(Slot, Overlap)> {
        let mut found = Vec::new();
        self.find_each(chain, None, |slot, overlap| found.push((slot, overlap)));
        found.sort_unstable_by_key(|(slot, _)| *slot);
        found
    }

    /// What [`find`](Self::find) finds, in any order and without a list; at `now`, when what
    /// has expired is forgotten.
    pub(crate) fn find_each(
        &self,
        chain: &[BlockIdentity],
        now: Option<Time>,
        each: impl FnMut(Slot, Overlap),
    ) {
        let mut state = self.state.lock();
        let State {
            table,
            finder,
            expire_after,
            every,
        } = &mut *state;
        if let Some(now) = now {
            table.expire(now, *expire_after);
        }
        finder.find(table, chain, *every, each);
    }

    /// How much it holds.
    pub fn stats(&self) -> IndexStats {
        self.state.lock().table.stats()
    }

    fn apply(&self, name: &str, tiers: Tiers, events: &[BlockEvent]) {
        /// Events taken in at once: decisions wait meanwhile.
        const AT_ONCE: usize = 256;
        for events in events.chunks(AT_ONCE) {
            let table = &mut self.state.lock().table;
            let Some(mut seat) = table.seated(name) else {
                return;
            };
            for event in events {
                seat = table.apply(seat, tiers, event);
            }
            table.sweep();
        }
    }
}

impl Default for PrefixIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PrefixIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PrefixIndex").field(&self.stats()).finish()
    }
}

#[cfg(test)]
mod tests;
