//! Logical paged KV cache: which sequence owns which block, and which blocks others can reuse.
//!
//! Keys and values of a sequence live in fixed-size *blocks* (pages) that need not be neighbours;
//! a *block table* per sequence says where position `p` is: in block `table[p / block_size]`, slot
//! `p % block_size`. Blocks are taken when needed and shared by reference count, so almost no
//! memory is wasted and equal prefixes are stored and computed once. This is PagedAttention's
//! memory management (Kwon et al., SOSP 2023) with the automatic prefix caching of vLLM. This
//! crate moves numbers only: the keys and values themselves belong to the model.
//!
//! ```text
//!  open ──► Sequence: tokens, identity chain, table ─────────────┐
//!                                                                │ allocate
//!            ┌──────────────────────── Pool ─────────────────────▼──────────────┐
//!            │  free list, least recently used first                            │
//!            │  ┌────┬────┬────┐  take      ┌─────────┐ publish  ┌───────────┐  │
//!            │  │blank │ cached │ ─────────► │  blank  │ ───────► │  writing  │  │
//!            │  └──▲─┴────┴─▲──┘  (evicts)  └────┬────┘          └─────┬─────┘  │
//!            │     │   │    │                    │ ◄── revoke ─────────┤ seal   │
//!            │     │   │    └── last one lets go ┼──────────────┐ ┌────▼─────┐  │
//!            │     │   └─────── hit ─────────────┼─────────────►│ │  sealed  │  │
//!            │     └── last one lets go ─────────┘              └─┤ (shared) │  │
//!            │                                                    └──────────┘  │
//!            │  index: 128-bit identity ─► blocks that carry it                 │
//!            └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! * A block is **writing** from the moment a step that fills it is planned: rows later in the
//!   same step may already hit it. It is **sealed** when that step succeeded, and stays findable
//!   after its last holder let go, until the free list hands it out again.
//! * A hit is believed only after tokens, extras and the whole line of parents were compared, so
//!   two contents with one 128-bit identity harm nobody.
//! * A block that several sequences hold is never written: the writer gets a copy
//!   ([`PageOp::Copy`](llmserve_core::PageOp::Copy)).
//!
//! ```
//! use llmserve_core::{IdentityRoot, KvManager, PrefixScope, SequenceId};
//! use llmserve_kv::PagedKv;
//!
//! let mut kv = PagedKv::builder()
//!     .blocks(64)
//!     .block_size(4)
//!     .root(IdentityRoot::new(0x5eed, "f32", 4))
//!     .build()?;
//! let prompt: Vec<u32> = (0..10).collect();
//!
//! let first = SequenceId::new(0, 0);
//! kv.open(first, &prompt, PrefixScope::default())?;
//! assert_eq!(kv.allocate(first, 10)?, 0); // nothing is cached yet
//! kv.seal(first, 10)?; // the step that computed positions 0..10 succeeded
//!
//! let second = SequenceId::new(1, 0);
//! kv.open(second, &prompt, PrefixScope::default())?;
//! assert_eq!(kv.demand(second, 10)?.blocks, 1); // two blocks are shared, the third is its own
//! assert_eq!(kv.allocate(second, 10)?, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod allocate;
mod builder;
mod chain;
mod free_list;
mod index;
mod manager;
mod pool;
mod prefix;
mod publish;
mod sequence;
mod slots;
mod stats;

#[cfg(test)]
mod tests;

pub use builder::{BuildError, PagedKvBuilder};
pub use manager::PagedKv;
