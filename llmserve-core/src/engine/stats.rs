//! What an engine tells about itself.

use crate::contract::proposer::MAX_DRAFT_DEPTH;

/// Counters since the engine began, and levels as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Steps run.
    pub steps: u64,
    /// Requests that finished, every choice of them.
    pub finished_requests: u64,
    /// Requests that ended with an error.
    pub failed_requests: u64,
    /// Requests whose stream was dropped.
    pub cancelled_requests: u64,
    /// Prompt tokens of admitted requests.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Those of them that a grammar forced, so that no model was asked.
    pub forced_tokens: u64,
    /// Masks of grammars computed beside the model.
    pub masks: u64,
    /// What those took, on all threads.
    pub mask_seconds: f64,
    /// What steps waited for them after the model was done.
    pub mask_wait_seconds: f64,
    /// Preemptions.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache, once per request, and once when a prefix that is
    /// kept is computed.
    pub prefix_query_tokens: u64,
    /// Those that were found there.
    pub prefix_hit_tokens: u64,
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// KV blocks held by sequences.
    pub kv_blocks_held: usize,
    /// Most KV blocks held at once, those that drafts took while they were verified among them.
    pub kv_blocks_peak: usize,
    /// KV blocks there are.
    pub kv_blocks_total: usize,
    /// KV blocks that prefixes kept name, each once.
    pub kv_blocks_pinned: usize,
    /// How many of those are cached.
    pub kv_blocks_pinned_cached: usize,
    /// Bytes of memory that the model and a draft model take, by their own count: weights, KV pages
    /// and buffers, those included that they have yet to touch. 0 of models that cannot tell.
    pub memory_bytes: u64,
    /// Token slots in held blocks without a token or a draft, over all slots in held blocks: the mean over
    /// steps. PagedAttention's measure of waste.
    pub kv_waste_mean: f64,
    /// Rows that had drafts.
    pub spec_drafts: u64,
    /// Drafts that were verified.
    pub spec_draft_tokens: u64,
    /// Drafts that were accepted.
    pub spec_accepted_tokens: u64,
    /// Drafts that were accepted, by their place in their row.
    pub spec_accepted_per_pos: [u64; MAX_DRAFT_DEPTH],
    /// Rounds of drafting in which the proposer failed, and a depth's panic, after which there are
    /// no drafts.
    pub spec_failures: u64,
}
