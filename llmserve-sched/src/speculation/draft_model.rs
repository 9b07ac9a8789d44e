//! A smaller model that guesses what the target will pick.
//!
//! ```text
//!  known     p p p p p p a a│          the target's tokens
//!  computed  ▓▓▓▓▓▓▓▓▓▓▓▓▓░░│          what this model's pages hold
//!  pass 1    the gap of each sequence ──────► d1   one batch, prompts in chunks
//!  pass 2    d1 of each ────────────────────► d2   one batch
//!  …
//!  verified  a d1 x           the target took d1 and then said x:
//!  computed  ▓▓▓▓▓░           d1 stays, d2 is trimmed, x is the next gap
//! ```
//!
//! It keeps its own paged KV: another number of bytes a token, other pages, and a manager of its
//! own, for one that serves a single group cannot hold two. When it runs out of blocks it drops
//! sequences that were not asked for, the longest unused first, and then does without drafts: the
//! target's cache is never touched.

use llmserve_core::sampling::SamplerScratch;
use llmserve_core::{
    Batch, BatchRow, DraftAsk, Error, KvError, KvManager, LogitsWanted, Model, ModelError,
    ModelInfo, PageOp, Proposer, ProposerLimits, SequenceId, StepLimits, Survey, TokenId,
};

/// Tokens of a pass unless said otherwise.
const DEFAULT_TOKENS: usize = 512;

/// Rounds that a sequence does without after it found no blocks.
const PAUSE: u64 = 64;

/// Drafts with a model of its own.
///
/// ```
/// use llmserve_core::{KvManager, Model, Speculation};
/// use llmserve_sched::speculation::{AdaptiveDepth, DraftModel};
///
/// /// From any model, and a KV manager of its own.
/// fn speculation(model: impl Model + 'static, kv: impl KvManager + 'static) -> Speculation {
///     Speculation::new(DraftModel::new(model, kv)).depth(AdaptiveDepth::default())
/// }
/// ```
pub struct DraftModel {
    model: Box<dyn Model>,
    kv: Box<dyn KvManager>,
    /// Tokens of a pass that read what is long.
    max_tokens: usize,
    max_rows: usize,
    /// Most tokens of a gap that is never put off: what a round leaves behind.
    short: usize,
    /// Most positions of the draft model.
    max_len: usize,
    /// Tokens both models know.
    vocab: usize,
    /// By slot.
    states: Vec<Option<State>>,
    round: u64,
    scratch: Scratch,
}

/// What is known of one sequence.
#[derive(Debug)]
struct State {
    id: SequenceId,
    /// Tokens the KV manager was told.
    known: usize,
    /// Positions whose keys and values are in the pages, drafts after the known ones included.
    computed: usize,
    /// The drafts that came after the known tokens.
    tail: Vec<TokenId>,
    /// Whether it holds blocks.
    holds: bool,
    /// The last round in which all was read, or the first.
    since: u64,
    /// The last round it was asked for.
    used: u64,
    /// It is left alone before this round.
    rest_until: u64,
}

/// Memory kept from pass to pass.
#[derive(Default)]
struct Scratch {
    tokens: Vec<TokenId>,
    rows: Vec<BatchRow>,
    /// Of each row, its ask.
    asks: Vec<usize>,
    /// Since when it waits, 0 for what is short, and its ask.
    order: Vec<(u64, usize)>,
    ops: Vec<PageOp>,
    survey: Survey,
    sampler: SamplerScratch,
}

impl DraftModel {
    /// Drafts with `model`, whose keys and values lie where `kv` says.
    pub fn new(model: impl Model + 'static, kv: impl KvManager + 'static) -> Self {
        Self {
            model: Box::new(model),
            kv: Box::new(kv),
            max_tokens: DEFAULT_TOKENS,
            max_rows: 1,
            short: 1,
            max_len: 0,
            vocab: 0,
            states: Vec::new(),
            round: 0,
            scratch: Scratch::default(),
        }
    }

    /// Most tokens of a pass that read prompts and what was missed, 512 by default: what is longer
    /// is computed over several rounds, the sequences that came first before the others, and has no
    /// drafts before. The few tokens that each round adds to every sequence come on top.
    pub fn max_batched_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens.max(1);
        self
    }

    /// KV blocks its sequences hold.
    pub fn held_blocks(&self) -> usize {
        self.kv.stats().held_blocks
    }

    /// Brings a sequence's state to what the target has said since. False if it cannot have
    /// drafts now.
    fn follow(&mut self, ask: &DraftAsk<'_>) -> Result<bool, KvError> {
        let (id, known) = (ask.sequence(), ask.known());
        let slot = id.slot();
        if slot >= self.states.len() {
            self.states.resize_with(slot + 1, || None);
        }
        if let Some(other) = self.states[slot].take_if(|state| state.id != id) {
            self.kv.close(other.id);
        }
        // One that this model has no word or no place for.
        let unfit = |tokens: &[TokenId]| tokens.iter().any(|t| *t as usize >= self.vocab);
        if known.is_empty() || known.len() + ask.depth() > self.max_len {
            return Ok(false);
        }
        let Some(state) = &mut self.states[slot] else {
            if unfit(known) {
                return Ok(false);
            }
            self.kv.open(id, known, ask.scope())?;
            self.states[slot] = Some(State {
                id,
                known: known.len(),
                computed: 0,
                tail: Vec::new(),
                holds: false,
                since: self.round,
                used: self.round,
                rest_until: 0,
            });
            return Ok(true);
        };
        let came = known.get(state.known..).unwrap_or(&[]);
        if unfit(came) {
            return Ok(false);
        }
        let agreed = came.iter().zip(&state.tail).take_while(|(a, b)| a == b);
        let valid = state.computed.min(state.known + agreed.count());
        if valid < state.computed {
            self.kv.trim(id, valid)?;
            state.computed = valid;
        }
        self.kv.append(id, came)?;
        state.known = known.len();
        state.tail.clear();
        state.used = self.round;
        if state.holds {
            self.kv.seal(id, state.computed)?;
        }
        // Logits come of computing something: asked twice at one place, it has none the second time.
        Ok(self.round >= state.rest_until && state.computed < state.known)
    }

    /// Room for positions `0..tokens` of `id`, if need be at the cost of sequences that were not
    /// asked for in this round. Returns what was found cached; none if there is no room.
    fn make_room(&mut self, id: SequenceId, tokens: usize) -> Result<Option<usize>, KvError> {
        loop {
            match self.kv.allocate(id, tokens) {
                Ok(cached) => return Ok(Some(cached)),
                Err(KvError::OutOfBlocks(_)) => {}
                Err(error) => return Err(error),
            }
            let idle = self.states.iter_mut().flatten();
            let idle = idle.filter(|state| state.holds && state.used < self.round);
            match idle.min_by_key(|state| state.used) {
                Some(victim) => drop_pages(&mut *self.kv, victim)?,
                None => return Ok(None),
            }
        }
    }

    /// The first pass: the gap of every sequence. Those that a round leaves are short and all go
    /// along; the others share what a pass may have, the one that waits longest first, so that
    /// however many there are each has its turn. Puts the asks that have a first draft to `live`.
    fn catch_up(&mut self, asks: &mut [DraftAsk<'_>], live: &mut Vec<usize>) -> Result<(), Error> {
        let mut order = std::mem::take(&mut self.scratch.order);
        order.clear();
        for (at, ask) in asks.iter().enumerate() {
            if self.follow(ask)?
                && let Some(Some(state)) = self.states.get(ask.sequence().slot())
            {
                let gap = state.known - state.computed;
                let short = state.holds && gap <= self.short;
                order.push((if short { 0 } else { state.since }, at));
            }
        }
        order.sort_unstable();
        self.clear();
        let mut left = self.max_tokens;
        for &(since, at) in &order {
            let may = if since == 0 { self.short } else { left };
            if may == 0 || self.scratch.rows.len() == self.max_rows {
                continue;
            }
            let before = self.scratch.tokens.len();
            self.gap_row(at, &asks[at], may)?;
            if since > 0 {
                left -= self.scratch.tokens.len() - before;
            }
        }
        self.scratch.order = order;
        self.pass(asks, live)
    }

    /// Adds a row for up to `left` tokens of a sequence's gap.
    fn gap_row(&mut self, at: usize, ask: &DraftAsk<'_>, left: usize) -> Result<(), KvError> {
        let id = ask.sequence();
        let Some(Some(state)) = self.states.get(id.slot()) else {
            return Ok(());
        };
        let (known, from) = match state.holds {
            true => (state.known, state.computed),
            false => {
                let cached = self.kv.demand(id, state.known)?.cached;
                (state.known, cached.min(state.known - 1))
            }
        };
        let end = known.min(from + left);
        let room = self.make_room(id, end)?;
        let Some(Some(state)) = self.states.get_mut(id.slot()) else {
            return Ok(());
        };
        let Some(cached) = room else {
            state.rest_until = self.round + PAUSE;
            return drop_pages(&mut *self.kv, state);
        };
        if !state.holds {
            state.holds = true;
            state.computed = cached.min(known - 1);
        }
        let start = state.computed;
        let logits = match end == known {
            true => LogitsWanted::Last,
            false => LogitsWanted::None,
        };
        self.push_row(at, id, start, &ask.known()[start..end], logits);
        Ok(())
    }

    fn clear(&mut self) {
        self.scratch.tokens.clear();
        self.scratch.rows.clear();
        self.scratch.asks.clear();
    }

    fn push_row(
        &mut self,
        at: usize,
        sequence: SequenceId,
        start: usize,
        tokens: &[TokenId],
        logits: LogitsWanted,
    ) {
        self.scratch.rows.push(BatchRow {
            sequence,
            start,
            offset: self.scratch.tokens.len(),
            len: tokens.len(),
            logits,
        });
        self.scratch.tokens.extend_from_slice(tokens);
        self.scratch.asks.push(at);
    }

    /// Runs the rows and picks a draft for each that wants logits; `live` are those that may have
    /// another.
    fn pass(&mut self, asks: &mut [DraftAsk<'_>], live: &mut Vec<usize>) -> Result<(), Error> {
        live.clear();
        let Self {
            model,
            kv,
            states,
            scratch,
            vocab,
            round,
            ..
        } = self;
        if scratch.rows.is_empty() {
            return Ok(());
        }
        kv.take_page_ops(&mut scratch.ops);
        for op in scratch.ops.drain(..) {
            match op {
                PageOp::Copy {
                    group,
                    from,
                    to,
                    slots,
                } => model.pages().copy(group, from, to, slots)?,
                other => {
                    let text = format!("a page operation unknown here: {other:?}");
                    return Err(ModelError::Backend(text).into());
                }
            }
        }
        let batch = Batch {
            tokens: &scratch.tokens,
            rows: &scratch.rows,
            tables: &**kv,
        };
        let mut logits = model.submit(&batch)?;
        let mut next = 0;
        for (row, &at) in scratch.rows.iter().zip(&scratch.asks) {
            let ask = &mut asks[at];
            if let Some(Some(state)) = states.get_mut(row.sequence.slot()) {
                state.computed = row.start + row.len;
                if state.computed >= state.known {
                    state.since = *round;
                }
                kv.seal(row.sequence, state.computed.min(state.known))?;
            }
            if row.logits == LogitsWanted::None {
                continue;
            }
            logits.survey(next, &mut scratch.survey)?;
            let mut line = logits.row(next)?;
            next += 1;
            if line.len() > *vocab {
                line = &line[..*vocab];
                scratch.survey.take(line);
            }
            // A row that no token can be picked from has no drafts; the target will say why.
            let Ok(picked) = ask.pick(line, &scratch.survey, &mut scratch.sampler) else {
                continue;
            };
            if let Some(Some(state)) = states.get_mut(row.sequence.slot()) {
                state.tail.push(picked);
            }
            if ask.wanted() > 0 && !ask.ends_with(picked) {
                live.push(at);
            }
        }
        Ok(())
    }
}

/// Gives a sequence's blocks back.
fn drop_pages(kv: &mut dyn KvManager, state: &mut State) -> Result<(), KvError> {
    state.holds = false;
    state.computed = 0;
    state.tail.clear();
    kv.release(state.id)
}

impl Proposer for DraftModel {
    fn memory_bytes(&self) -> u64 {
        self.model.memory_bytes()
    }

    fn prepare(&mut self, target: &ModelInfo, limits: ProposerLimits) -> Result<(), String> {
        let info = self.model.info();
        let layout = self.kv.layout();
        let groups = (info.kv.groups.len(), layout.blocks.len());
        if groups.0 != groups.1 {
            return Err(format!(
                "the draft model has {} KV groups, its KV manager serves {}",
                groups.0, groups.1
            ));
        }
        // Padding of the vocabulary differs between models of a family; an alphabet does not.
        let (ours, theirs) = (info.vocab_size, target.vocab_size);
        if ours.abs_diff(theirs) > theirs / 50 {
            return Err(format!(
                "the draft model {} has a vocabulary of {ours} tokens, {} one of {theirs}: \
                 they cannot share tokens",
                info.name, target.name
            ));
        }
        self.vocab = ours.min(theirs);
        self.max_len = info.max_context.min(layout.capacity_tokens());
        self.max_rows = limits.sequences.max(1);
        // The last token that was picked, and the last draft, which no pass has computed yet.
        self.short = 2;
        let limits = StepLimits {
            tokens: self.max_tokens + self.short * self.max_rows,
            rows: self.max_rows,
            logits: self.max_rows,
        };
        let layout = layout.clone();
        self.model
            .prepare(&layout, limits)
            .map_err(|error| format!("the draft model: {error}"))
    }

    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        self.round += 1;
        let mut live = Vec::with_capacity(asks.len());
        self.catch_up(asks, &mut live)?;
        while !live.is_empty() {
            self.clear();
            for at in std::mem::take(&mut live) {
                let ask = &asks[at];
                let (id, end) = (ask.sequence(), ask.context().len());
                if self.make_room(id, end)?.is_some() {
                    let last = &ask.context()[end - 1..];
                    self.push_row(at, id, end - 1, last, LogitsWanted::Last);
                }
            }
            self.pass(asks, &mut live)?;
        }
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) {
        if let Some(place) = self.states.get_mut(sequence.slot())
            && place.take_if(|state| state.id == sequence).is_some()
        {
            self.kv.close(sequence);
        }
    }
}

impl std::fmt::Debug for DraftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftModel")
            .field("model", &self.model.info().name)
            .field("held_blocks", &self.held_blocks())
            .finish_non_exhaustive()
    }
}
