//! A KV manager written for clarity: whole prefixes as keys, no speed.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use llmserve_core::{
    BlockEvent, BlockId, BlockTables, Demand, GroupId, KvError, KvLayout, KvManager, KvStats,
    OutOfBlocks, PageOp, PrefixScope, SequenceId, TokenId,
};

/// A change that was asked for, for tests of the order of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Allocate(SequenceId, usize),
    Seal(SequenceId, usize),
    Fork(SequenceId, SequenceId),
    Append(SequenceId, TokenId),
    Revoke(SequenceId),
    Release(SequenceId),
    Close(SequenceId),
}

#[derive(Clone, Debug)]
struct Owner {
    tokens: Vec<TokenId>,
    table: Vec<BlockId>,
    computed: usize,
    reuse: bool,
}

#[derive(Debug)]
pub(crate) struct FakeKv {
    layout: KvLayout,
    caching: bool,
    owners: BTreeMap<SequenceId, Owner>,
    refs: Vec<usize>,
    /// Blocks nobody holds, next to be taken first.
    idle: VecDeque<BlockId>,
    /// What a block holds: all tokens up to its end.
    content: Vec<Option<Vec<TokenId>>>,
    /// Whether a step that filled it has succeeded.
    sealed: Vec<bool>,
    pub(crate) calls: Vec<Call>,
    /// Prefixes looked up, and compared.
    pub(crate) lookups: Cell<usize>,
    ops: Vec<PageOp>,
}

impl FakeKv {
    pub(crate) fn new(blocks: usize, block_size: usize, caching: bool) -> Self {
        Self {
            layout: KvLayout {
                block_size,
                blocks: vec![blocks],
            },
            caching,
            owners: BTreeMap::new(),
            refs: vec![0; blocks],
            idle: (0..blocks as u32).map(BlockId).collect(),
            content: vec![None; blocks],
            sealed: vec![false; blocks],
            calls: Vec::new(),
            lookups: Cell::new(0),
            ops: Vec::new(),
        }
    }

    fn owner(&mut self, id: SequenceId) -> Result<&mut Owner, KvError> {
        self.owners.get_mut(&id).ok_or(KvError::UnknownSequence(id))
    }

    fn hits(&self, owner: &Owner) -> Vec<BlockId> {
        let mut hits = Vec::new();
        if !owner.table.is_empty() || !owner.reuse {
            return hits;
        }
        let mut end = self.layout.block_size;
        while end < owner.tokens.len() {
            let prefix = &owner.tokens[..end];
            let found = self
                .content
                .iter()
                .position(|c| c.as_deref() == Some(prefix));
            let Some(block) = found else { break };
            hits.push(BlockId(block as u32));
            end += self.layout.block_size;
        }
        hits
    }

    /// The block the next token goes to, if others hold it too. A full one is shared because it
    /// was hit, maybe while a row in flight fills it: it is not written again.
    fn to_copy(&self, owner: &Owner, tokens: usize) -> Option<usize> {
        let at = owner.computed / self.layout.block_size;
        let block = owner.table.get(at)?.index();
        let partial = !owner.computed.is_multiple_of(self.layout.block_size);
        let partial = partial && self.content[block].is_none();
        (partial && tokens > owner.computed && self.refs[block] > 1).then_some(at)
    }

    fn take(&mut self) -> BlockId {
        let block = self.idle.pop_front().expect("the caller has counted");
        self.content[block.index()] = None;
        self.sealed[block.index()] = false;
        self.refs[block.index()] = 1;
        block
    }

    fn put(&mut self, block: BlockId) {
        self.refs[block.index()] -= 1;
        if self.refs[block.index()] == 0 {
            if self.sealed[block.index()] {
                self.idle.push_back(block);
            } else {
                // Nobody is left to say that its step succeeded.
                self.content[block.index()] = None;
                self.idle.push_front(block);
            }
        }
    }

    /// Names the full blocks among positions `0..upto` whose tokens are known.
    fn publish(&mut self, id: SequenceId, upto: usize, sealed: bool) {
        if !self.caching {
            return;
        }
        let owner = &self.owners[&id];
        let (size, known) = (self.layout.block_size, owner.tokens.len().min(upto));
        for (at, block) in owner.table.iter().enumerate().take(known / size) {
            self.content[block.index()] = Some(owner.tokens[..(at + 1) * size].to_vec());
            self.sealed[block.index()] |= sealed;
        }
    }
}

impl BlockTables for FakeKv {
    fn table(&self, sequence: SequenceId, _group: GroupId) -> &[BlockId] {
        self.owners.get(&sequence).map_or(&[], |owner| &owner.table)
    }
}

impl KvManager for FakeKv {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn open(
        &mut self,
        id: SequenceId,
        tokens: &[TokenId],
        scope: PrefixScope,
    ) -> Result<(), KvError> {
        if self.owners.contains_key(&id) {
            return Err(KvError::AlreadyOpen(id));
        }
        let owner = Owner {
            tokens: tokens.to_vec(),
            table: Vec::new(),
            computed: 0,
            reuse: scope.reuse,
        };
        self.owners.insert(id, owner);
        Ok(())
    }

    fn is_open(&self, id: SequenceId) -> bool {
        self.owners.contains_key(&id)
    }

    fn prefix(&self, id: SequenceId) -> usize {
        self.lookups.set(self.lookups.get() + 1);
        let hits = self
            .owners
            .get(&id)
            .map_or(0, |owner| self.hits(owner).len());
        hits * self.layout.block_size
    }

    fn common_prefix(&self, one: SequenceId, other: SequenceId) -> usize {
        self.lookups.set(self.lookups.get() + 1);
        let (one, other) = (&self.owners[&one].tokens, &self.owners[&other].tokens);
        let equal = one.iter().zip(other).take_while(|(a, b)| a == b).count();
        match self.caching {
            true => equal / self.layout.block_size * self.layout.block_size,
            false => 0,
        }
    }

    fn releasable(&self, id: SequenceId) -> usize {
        let table = self.table(id, GroupId::MAIN).iter();
        table.filter(|block| self.refs[block.index()] == 1).count()
    }

    fn demand(&self, id: SequenceId, tokens: usize) -> Result<Demand, KvError> {
        let owner = self.owners.get(&id).ok_or(KvError::UnknownSequence(id))?;
        let hits = self.hits(owner);
        let idle = hits.iter().filter(|b| self.refs[b.index()] == 0).count();
        let held = owner.table.len() + hits.len();
        let new = self.layout.blocks_for(tokens).saturating_sub(held);
        Ok(Demand {
            blocks: new + idle + usize::from(self.to_copy(owner, tokens).is_some()),
            cached: hits.len() * self.layout.block_size,
        })
    }

    fn available(&self) -> usize {
        self.idle.len()
    }

    fn allocate(&mut self, id: SequenceId, tokens: usize) -> Result<usize, KvError> {
        let (needed, available) = (self.demand(id, tokens)?.blocks, self.available());
        if needed > available {
            return Err(OutOfBlocks { needed, available }.into());
        }
        self.calls.push(Call::Allocate(id, tokens));
        let mut owner = self.owners[&id].clone();
        let hits = self.hits(&owner);
        for block in &hits {
            self.idle.retain(|idle| idle != block);
            self.refs[block.index()] += 1;
        }
        let cached = hits.len() * self.layout.block_size;
        if let Some(at) = self.to_copy(&owner, tokens) {
            let to = self.take();
            let from = std::mem::replace(&mut owner.table[at], to);
            self.put(from);
            self.ops.push(PageOp::Copy {
                group: GroupId::MAIN,
                from,
                to,
                slots: owner.computed % self.layout.block_size,
            });
        }
        owner.computed = owner.computed.max(cached);
        owner.table.extend(hits);
        while owner.table.len() < self.layout.blocks_for(tokens) {
            owner.table.push(self.take());
        }
        self.owners.insert(id, owner);
        self.publish(id, tokens, false);
        Ok(cached)
    }

    fn append(&mut self, id: SequenceId, tokens: &[TokenId]) -> Result<(), KvError> {
        self.owner(id)?.tokens.extend_from_slice(tokens);
        self.calls
            .extend(tokens.iter().map(|token| Call::Append(id, *token)));
        Ok(())
    }

    fn seal(&mut self, id: SequenceId, computed: usize) -> Result<(), KvError> {
        let size = self.layout.block_size;
        let owner = self.owner(id)?;
        if computed > owner.table.len() * size {
            let reason = "sealed beyond its blocks";
            return Err(KvError::Invalid {
                sequence: id,
                reason,
            });
        }
        owner.computed = computed;
        self.calls.push(Call::Seal(id, computed));
        self.publish(id, computed, true);
        Ok(())
    }

    fn revoke(&mut self, id: SequenceId) -> Result<(), KvError> {
        let size = self.layout.block_size;
        let owner = self.owner(id)?;
        let unsealed = owner.table[(owner.computed / size).min(owner.table.len())..].to_vec();
        for block in unsealed {
            if !self.sealed[block.index()] {
                self.content[block.index()] = None;
            }
        }
        self.calls.push(Call::Revoke(id));
        Ok(())
    }

    fn trim(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
        let keep = self.layout.blocks_for(tokens);
        let owner = self.owner(id)?;
        owner.tokens.truncate(tokens);
        owner.computed = owner.computed.min(tokens);
        let spare = owner.table.split_off(keep.min(owner.table.len()));
        spare.into_iter().rev().for_each(|block| self.put(block));
        Ok(())
    }

    fn fork(&mut self, parent: SequenceId, child: SequenceId) -> Result<(), KvError> {
        let copy = self.owner(parent)?.clone();
        if self.owners.contains_key(&child) {
            return Err(KvError::AlreadyOpen(child));
        }
        for block in &copy.table {
            self.refs[block.index()] += 1;
        }
        self.owners.insert(child, copy);
        self.calls.push(Call::Fork(parent, child));
        Ok(())
    }

    fn release(&mut self, id: SequenceId) -> Result<(), KvError> {
        let owner = self.owner(id)?;
        owner.computed = 0;
        let table = std::mem::take(&mut owner.table);
        table.into_iter().rev().for_each(|block| self.put(block));
        self.calls.push(Call::Release(id));
        Ok(())
    }

    fn close(&mut self, id: SequenceId) {
        if let Some(owner) = self.owners.remove(&id) {
            owner
                .table
                .into_iter()
                .rev()
                .for_each(|block| self.put(block));
            self.calls.push(Call::Close(id));
        }
    }

    fn reset(&mut self) -> Result<(), KvError> {
        let held = self.stats().held_blocks;
        if held > 0 {
            return Err(KvError::Held { held });
        }
        self.content.fill(None);
        Ok(())
    }

    fn take_page_ops(&mut self, out: &mut Vec<PageOp>) {
        out.append(&mut self.ops);
    }

    fn take_events(&mut self, _out: &mut Vec<BlockEvent>) {}

    fn stats(&self) -> KvStats {
        KvStats {
            total_blocks: self.refs.len(),
            held_blocks: self.refs.len() - self.idle.len(),
            ..KvStats::default()
        }
    }
}
