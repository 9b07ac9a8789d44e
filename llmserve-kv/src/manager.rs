//! The manager: the contract's calls, each a few steps over sequences and pool.

use std::sync::Arc;

use llmserve_core::{
    BlockEvent, BlockId, BlockTables, Demand, Extras, GroupId, KvError, KvLayout, KvManager,
    KvStats, OutOfBlocks, PageOp, Pinned, PrefixScope, SequenceId, TokenId,
};

use crate::allocate::{need, writes};
use crate::builder::PagedKvBuilder;
use crate::chain::Chain;
use crate::pool::Pool;
use crate::prefix::{common, findable};
use crate::publish::{is_vouched_for, keep_tail, publish, revoke, settle, tell_tail};
use crate::sequence::{Sequence, fill};
use crate::slots::Slots;
use crate::stats::Counters;

/// A paged KV cache with prefix caching and copy-on-write: the [`KvManager`] of one KV group.
///
/// What it promises beyond the contract:
///
/// * [`demand`](KvManager::demand) is exact: an allocation succeeds exactly when its demand does
///   not exceed [`available`](KvManager::available), which then drops by exactly that much.
/// * A call that fails changed nothing, down to the order of eviction.
/// * A block that somebody else holds, or that can be found, is never planned to be written.
/// * A decode step allocates no memory, the amortised growth of the sequence's own lists aside.
/// * [`BlockEvent`]s speak of identities, not of copies: `Stored` when the first sealed block of
///   an identity appears, `Removed` when the last one goes.
///
/// Positions are allocated for the step at hand: allocate up to the end of the planned row and no
/// further than it writes, for its full blocks can be hit by the rows after it. Positions beyond
/// the known tokens (drafts, or a token still being sampled) are never published.
///
/// ```
/// use llmserve_core::{BlockTables, GroupId, IdentityRoot, KvManager, PageOp, PrefixScope, SequenceId};
/// use llmserve_kv::PagedKv;
///
/// let root = IdentityRoot::new(1, "bf16", 4);
/// let mut kv = PagedKv::builder().blocks(8).block_size(4).root(root).build()?;
/// let (parent, child) = (SequenceId::new(0, 0), SequenceId::new(1, 0));
///
/// kv.open(parent, &[1, 2, 3, 4, 5, 6], PrefixScope::default())?;
/// kv.allocate(parent, 6)?;
/// kv.seal(parent, 6)?;
/// kv.fork(parent, child)?;
/// assert_eq!(kv.table(parent, GroupId::MAIN), kv.table(child, GroupId::MAIN));
///
/// // The child continues on its own: the half-filled block is copied, the full one stays shared.
/// kv.append(child, &[7])?;
/// kv.allocate(child, 7)?;
/// let mut ops = Vec::new();
/// kv.take_page_ops(&mut ops);
/// assert!(matches!(ops[..], [PageOp::Copy { slots: 2, .. }]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PagedKv {
    pub(crate) layout: KvLayout,
    /// None when prefix caching is off.
    pub(crate) chain: Option<Chain>,
    pub(crate) slots: Slots,
    pub(crate) pool: Pool,
    pub(crate) page_ops: Vec<PageOp>,
    pub(crate) counters: Counters,
    /// Blocks hit by the allocation at hand; kept for its memory.
    pub(crate) hits: Vec<BlockId>,
}

impl PagedKv {
    /// Starts building a manager.
    pub fn builder() -> PagedKvBuilder {
        PagedKvBuilder::default()
    }

    /// Whether full blocks are kept to be found by other sequences.
    pub fn prefix_caching(&self) -> bool {
        self.chain.is_some()
    }
}

impl BlockTables for PagedKv {
    fn table(&self, sequence: SequenceId, group: GroupId) -> &[BlockId] {
        if group != GroupId::MAIN {
            return &[];
        }
        self.slots
            .get(sequence)
            .map_or(&[], |sequence| sequence.table.as_slice())
    }
}

impl KvManager for PagedKv {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn open(
        &mut self,
        sequence: SequenceId,
        tokens: &[TokenId],
        scope: PrefixScope,
    ) -> Result<(), KvError> {
        self.slots.check_vacant(sequence)?;
        let mut opened = Sequence::new(scope);
        opened.extend(tokens, self.chain, self.layout.block_size);
        self.slots.insert(sequence, opened);
        Ok(())
    }

    fn is_open(&self, sequence: SequenceId) -> bool {
        self.slots.get(sequence).is_ok()
    }

    fn prefix(&self, sequence: SequenceId) -> usize {
        let sequence = self.slots.get(sequence);
        let blocks = sequence.map_or(0, |sequence| findable(&self.pool, sequence));
        blocks * self.layout.block_size
    }

    fn common_prefix(&self, sequence: SequenceId, with: SequenceId) -> usize {
        let (Ok(one), Ok(other)) = (self.slots.get(sequence), self.slots.get(with)) else {
            return 0;
        };
        if !one.reuse {
            return 0;
        }
        common(one, other) * self.layout.block_size
    }

    fn releasable(&self, sequence: SequenceId) -> usize {
        let table = match self.slots.get(sequence) {
            Ok(sequence) => sequence.table.as_slice(),
            Err(_) => &[],
        };
        let own = table.iter().filter(|id| self.pool.block(**id).refs == 1);
        own.count()
    }

    fn demand(&self, sequence: SequenceId, tokens: usize) -> Result<Demand, KvError> {
        let sequence = self.slots.get(sequence)?;
        let need = need(&self.pool, sequence, tokens, |_| ());
        Ok(Demand {
            blocks: need.total(),
            cached: need.hits * self.layout.block_size,
        })
    }

    fn available(&self) -> usize {
        self.pool.available()
    }

    fn allocate(&mut self, sequence: SequenceId, tokens: usize) -> Result<usize, KvError> {
        let block_size = self.layout.block_size;
        let sequence = self.slots.get_mut(sequence)?;
        if sequence.is_within_tail(tokens, block_size) {
            sequence.planned = sequence.planned.max(tokens);
            return Ok(0);
        }
        self.hits.clear();
        let need = need(&self.pool, sequence, tokens, |id| self.hits.push(id));
        let out = OutOfBlocks {
            needed: need.total(),
            available: self.pool.available(),
        };
        if out.needed > out.available {
            return Err(out.into());
        }
        if tokens == 0 {
            return Ok(0);
        }
        tell_tail(&mut self.pool, sequence);

        let starts = sequence.table.is_empty();
        let held = sequence.table.len();
        let written = writes(sequence, tokens, block_size);
        if need.total() > 0 || !self.hits.is_empty() {
            let mut claim = self.pool.claim(&mut sequence.table);
            self.hits.iter().for_each(|&id| claim.hit(id));
            // Cannot fail after the check above; if it did, the claim gives everything back.
            claim.fresh(need.copies + need.fresh).map_err(|_| out)?;
            let (known, first) = (sequence.tokens.len(), held + need.hits);
            claim.keep(|nth| match nth.checked_sub(need.copies) {
                Some(at) => fill(known, first + at, block_size),
                None => 0,
            });
        }
        if need.copies > 0 {
            let planned = sequence.planned;
            let spares = held..held + need.copies;
            self.pool.replace_shared(
                &mut sequence.table,
                written.clone(),
                spares,
                |at, from, to| {
                    let slots = planned.saturating_sub(at * block_size).min(block_size);
                    if slots > 0 {
                        self.counters.copies += 1;
                        self.page_ops.push(PageOp::Copy {
                            group: GroupId::MAIN,
                            from,
                            to,
                            slots,
                        });
                    }
                },
            );
        }
        // What is left with a label here was trimmed into: its content is about to change.
        for at in written.clone() {
            self.pool.strip(sequence.table[at]);
        }
        for at in written {
            self.pool
                .note_fill(sequence.table[at], sequence.fill(at, block_size));
        }

        let cached = need.hits * block_size;
        if starts {
            sequence.planned = cached;
            sequence.own_from = need.hits;
            sequence.published = need.hits;
            sequence.sealed = self
                .hits
                .iter()
                .take_while(|&&id| self.pool.block(id).is_sealed())
                .count();
            // The rest of the hit is computed when the step that fills it succeeds, not now.
            sequence.computed = sequence.sealed * block_size;
            if !sequence.counted {
                sequence.counted = true;
                if self.chain.is_some() && sequence.reuse {
                    self.counters.query_tokens += sequence.tokens.len() as u64;
                    self.counters.hit_tokens += cached as u64;
                }
            }
        }
        sequence.planned = sequence.planned.max(tokens);
        publish(&mut self.pool, sequence, tokens);
        keep_tail(&mut self.pool, sequence);
        Ok(cached)
    }

    fn append(&mut self, sequence: SequenceId, tokens: &[TokenId]) -> Result<(), KvError> {
        let block_size = self.layout.block_size;
        let sequence = self.slots.get_mut(sequence)?;
        let known = sequence.tokens.len();
        let room = sequence.table.len() * block_size;
        if sequence.own_tail && known + block_size >= room {
            sequence.extend(tokens, self.chain, block_size);
            let inside = tokens.len().min(room.saturating_sub(known));
            self.pool.filled(inside);
            settle(&mut self.pool, sequence);
            return Ok(());
        }
        tell_tail(&mut self.pool, sequence);
        sequence.extend(tokens, self.chain, block_size);
        let first = known / block_size;
        let end = sequence.tokens.len().div_ceil(block_size);
        for at in first..end.min(sequence.table.len()) {
            self.pool
                .note_fill(sequence.table[at], sequence.fill(at, block_size));
        }
        settle(&mut self.pool, sequence);
        keep_tail(&mut self.pool, sequence);
        Ok(())
    }

    fn seal(&mut self, id: SequenceId, computed: usize) -> Result<(), KvError> {
        let block_size = self.layout.block_size;
        let sequence = self.slots.get_mut(id)?;
        let invalid = |reason| {
            Err(KvError::Invalid {
                sequence: id,
                reason,
            })
        };
        if computed > sequence.table.len() * block_size {
            return invalid("positions were sealed beyond its blocks");
        }
        // Positions written without an allocation for them: harmless only where nobody reads.
        let mut unplanned = writes(sequence, computed, block_size);
        if !unplanned.all(|at| self.pool.is_private(sequence.table[at])) {
            return invalid("positions were sealed that no allocation made safe to write");
        }
        if !is_vouched_for(&self.pool, sequence, computed) {
            return invalid("the step that computed its cached prefix failed");
        }
        sequence.computed = sequence.computed.max(computed);
        sequence.planned = sequence.planned.max(computed);
        settle(&mut self.pool, sequence);
        Ok(())
    }

    fn revoke(&mut self, sequence: SequenceId) -> Result<(), KvError> {
        let sequence = self.slots.get_mut(sequence)?;
        tell_tail(&mut self.pool, sequence);
        revoke(&mut self.pool, sequence);
        Ok(())
    }

    fn trim(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), KvError> {
        let block_size = self.layout.block_size;
        let sequence = self.slots.get_mut(sequence)?;
        tell_tail(&mut self.pool, sequence);
        self.pool
            .give_back(&mut sequence.table, tokens.div_ceil(block_size));
        let last = tokens / block_size;
        if last < sequence.table.len() {
            let id = sequence.table[last];
            // A block of its own that was promised in full and will not be filled.
            if last >= sequence.own_from && !self.pool.block(id).is_sealed() {
                self.pool.strip(id);
            }
        }
        sequence.cut(tokens, block_size);
        if last < sequence.table.len() {
            self.pool
                .note_fill(sequence.table[last], sequence.fill(last, block_size));
        }
        Ok(())
    }

    fn fork(&mut self, parent: SequenceId, child: SequenceId) -> Result<(), KvError> {
        self.slots.get(parent)?;
        self.slots.check_vacant(child)?;
        let parent = self.slots.get_mut(parent)?;
        tell_tail(&mut self.pool, parent);
        let table = self.pool.share(&parent.table);
        let forked = parent.fork(table, self.layout.block_size);
        self.slots.insert(child, forked);
        Ok(())
    }

    fn release(&mut self, sequence: SequenceId) -> Result<(), KvError> {
        let sequence = self.slots.get_mut(sequence)?;
        tell_tail(&mut self.pool, sequence);
        self.pool.give_back(&mut sequence.table, 0);
        sequence.restart();
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) {
        if let Some(mut closed) = self.slots.remove(sequence) {
            tell_tail(&mut self.pool, &mut closed);
            self.pool.give_back(&mut closed.table, 0);
        }
    }

    fn pin(&mut self, tokens: &[TokenId], extras: &Extras) -> Result<Pinned, KvError> {
        let Some(chain) = self.chain else {
            return Ok(Pinned::default());
        };
        let identities = chain.identities(extras, tokens, self.layout.block_size);
        let extras = Arc::new(extras.clone());
        let cached = self.pool.sealed_front(&identities, &extras, tokens);
        self.pool.pin(&identities, &cached)?;
        Ok(Pinned {
            blocks: identities.len(),
            cached: cached.len(),
        })
    }

    fn unpin(&mut self, tokens: &[TokenId], extras: &Extras) {
        if let Some(chain) = self.chain {
            let identities = chain.identities(extras, tokens, self.layout.block_size);
            self.pool.unpin(&identities);
        }
    }

    fn cached_blocks(&self, tokens: &[TokenId], extras: &Extras) -> usize {
        let Some(chain) = self.chain else {
            return 0;
        };
        let identities = chain.identities(extras, tokens, self.layout.block_size);
        let extras = Arc::new(extras.clone());
        self.pool.sealed_front(&identities, &extras, tokens).len()
    }

    fn reset(&mut self) -> Result<(), KvError> {
        let held = self.pool.len() - self.pool.available();
        if held > 0 {
            return Err(KvError::Held { held });
        }
        self.pool.clear();
        Ok(())
    }

    fn take_page_ops(&mut self, out: &mut Vec<PageOp>) {
        out.append(&mut self.page_ops);
    }

    fn take_events(&mut self, out: &mut Vec<BlockEvent>) {
        if let Some(events) = self.pool.events() {
            out.append(events);
        }
    }

    fn stats(&self) -> KvStats {
        self.counters.with(&self.pool)
    }
}
