//! What the manager knows of one sequence.
//!
//! ```text
//!  tokens      t t t t t t t t t t t t t t t t            known so far
//!  identities  [ id 0 ][ id 1 ][ id 2 ][ id 3 ]           one for each full block of tokens
//!  table       [  5   ][  2   ][  9   ][  1   ][  7   ]
//!               sealed ▲      computed ▲       ▲ planned
//! ```
//!
//! Everything is kept incrementally: a decode step adds one token and, once a block, one hash.

use std::sync::Arc;

use llmserve_core::{BlockIdentity, Extras, PrefixScope, TokenId};

use crate::chain::Chain;
use crate::pool::Table;

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<TokenId>,
    /// Identities of the full blocks of `tokens`; empty when prefix caching is off.
    pub(crate) identities: Vec<BlockIdentity>,
    pub(crate) table: Table,
    pub(crate) extras: Arc<Extras>,
    pub(crate) reuse: bool,
    /// Whether its lookup is in the hit statistics already.
    pub(crate) counted: bool,
    /// Positions that hold valid keys and values, as far as was told.
    pub(crate) computed: usize,
    /// Positions that steps planned so far compute; the next write comes at or after it.
    pub(crate) planned: usize,
    /// Blocks before this one were filled by others. This sequence never labels them, so it
    /// cannot vouch for a block whose writer failed.
    pub(crate) own_from: usize,
    /// Leading blocks this sequence labelled or found labelled.
    pub(crate) published: usize,
    /// Leading blocks known to be sealed.
    pub(crate) sealed: usize,
    /// Whether the last block of the table is this sequence's alone and cannot be found: it is
    /// written without looking at it, and what the pool knows of its fill may lag behind.
    pub(crate) own_tail: bool,
}

impl Sequence {
    pub(crate) fn new(scope: PrefixScope) -> Self {
        Self {
            tokens: Vec::new(),
            identities: Vec::new(),
            table: Table::default(),
            extras: Arc::new(scope.extras),
            reuse: scope.reuse,
            counted: false,
            computed: 0,
            planned: 0,
            own_from: 0,
            published: 0,
            sealed: 0,
            own_tail: false,
        }
    }

    /// The same tokens over `table`, which shares this sequence's blocks. The copy counts on what
    /// this one was told is computed and what it hit; steps of this one that are in flight are not
    /// the copy's.
    pub(crate) fn fork(&self, table: Table, block_size: usize) -> Self {
        let computed = self.computed.min(self.tokens.len());
        let planned = computed.max(self.taken(block_size));
        let whole = planned / block_size;
        Self {
            tokens: self.tokens.clone(),
            identities: self.identities.clone(),
            table,
            extras: Arc::clone(&self.extras),
            reuse: self.reuse,
            counted: true,
            computed,
            planned,
            own_from: whole,
            published: self.published.min(whole),
            sealed: self.sealed.min(whole),
            own_tail: false,
        }
    }

    /// Whether a row that ends at position `end` fits into the last block and nothing is to be done
    /// for it but to remember it: what most rows of a decode step are.
    #[inline]
    pub(crate) fn is_within_tail(&self, end: usize, block_size: usize) -> bool {
        let room = self.table.len() * block_size;
        self.own_tail
            && end <= room
            && self.planned + block_size >= room
            && self.published >= (end / block_size).min(self.identities.len())
    }

    /// Adds known tokens and hashes the blocks they complete.
    pub(crate) fn extend(&mut self, tokens: &[TokenId], chain: Option<Chain>, block_size: usize) {
        self.tokens.extend_from_slice(tokens);
        let Some(chain) = chain else { return };
        let first = self.identities.len();
        for block in self.tokens[first * block_size..].chunks_exact(block_size) {
            let parent = self.identities.last().copied();
            self.identities
                .push(chain.identity(parent, &self.extras, block));
        }
    }

    /// Forgets everything from position `tokens` on, except the blocks.
    pub(crate) fn cut(&mut self, tokens: usize, block_size: usize) {
        let whole = tokens / block_size;
        self.tokens.truncate(tokens);
        self.identities.truncate(whole);
        self.computed = self.computed.min(tokens);
        self.planned = self.planned.min(tokens);
        self.own_from = self.own_from.min(whole);
        self.published = self.published.min(whole);
        self.sealed = self.sealed.min(whole);
    }

    /// Positions in blocks that others filled or are filling.
    pub(crate) fn taken(&self, block_size: usize) -> usize {
        self.own_from * block_size
    }

    /// Forgets what was computed; the blocks are gone.
    pub(crate) fn restart(&mut self) {
        self.computed = 0;
        self.planned = 0;
        self.own_from = 0;
        self.published = 0;
        self.sealed = 0;
        self.own_tail = false;
    }

    /// Whether it may start from blocks that others computed.
    pub(crate) fn may_hit(&self) -> bool {
        self.reuse && self.table.is_empty()
    }

    /// Most blocks that it may start from: whole ones, and never all of its tokens, for the last
    /// one must be computed for its logits.
    pub(crate) fn most_hits(&self, block_size: usize) -> usize {
        let blocks = self.tokens.len().saturating_sub(1) / block_size;
        blocks.min(self.identities.len())
    }

    /// The tokens of full block `block`.
    pub(crate) fn block_tokens(&self, block: usize, block_size: usize) -> &[TokenId] {
        &self.tokens[block * block_size..(block + 1) * block_size]
    }

    /// Known tokens that fall into block `block`.
    pub(crate) fn fill(&self, block: usize, block_size: usize) -> usize {
        fill(self.tokens.len(), block, block_size)
    }
}

/// How many of `known` tokens fall into block `block`.
pub(crate) fn fill(known: usize, block: usize, block_size: usize) -> usize {
    known.saturating_sub(block * block_size).min(block_size)
}
