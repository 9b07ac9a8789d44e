//! Guessing what comes next, so that one step can verify several tokens at once.
//!
//! ```text
//!  plan ─► submit ─► verify ─► commit ─► depth ─► propose
//!            │         │                   │         └ drafts for sequences that will decode next
//!            │         │                   └ how many each is worth
//!            │         └ the target's pick at each drafted position: equal ones are accepted
//!            └ a row of the last token and its drafts
//! ```
//!
//! Drafts are guesses and nothing depends on them: by default the ids of an answer are those of
//! an engine without speculation, whatever a proposer says (see [`Verification`]). One that
//! errs, panics or lies costs its own drafts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::kv::PrefixScope;
use super::model::ModelInfo;
use crate::error::{Error, panic_message};
use crate::identity::Extras;
use crate::ids::{SequenceId, TokenId};
use crate::sampling::{LogitsContext, LogitsProcessor, Sampler, SamplerScratch, Survey};

/// Most drafts of one sequence in one step, whatever is asked for.
pub const MAX_DRAFT_DEPTH: usize = 32;

/// A distribution over few tokens: probabilities that add up to 1, each token once.
pub type Distribution = Vec<(TokenId, f64)>;

/// How drafts become tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verification {
    /// A draft is accepted when it equals the target's own pick at its position. Picks are
    /// deterministic, so the ids are those of an engine without speculation, greedy or sampled.
    #[default]
    Coupled,
    /// Classical rejection sampling (Leviathan et al., "Fast Inference from Transformers via
    /// Speculative Decoding", ICML 2023): a draft is accepted with probability p/q. Sampled ids
    /// follow the target's distribution exactly and may differ from those without speculation;
    /// greedy ones are the same.
    Rejection,
}

/// What a proposer is told before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposerLimits {
    /// Most sequences that run at once.
    pub sequences: usize,
    /// Most tokens of a sequence.
    pub max_len: usize,
    /// Most drafts of a sequence in one step.
    pub depth: usize,
}

/// What the target's sampler would do with a row: the same noise, penalties, bias and processors.
struct Rules<'a> {
    sampler: &'a mut Sampler,
    choice: usize,
    processors: &'a [Arc<dyn LogitsProcessor>],
    /// End tokens, ruled out while fewer than `min_tokens` were generated.
    ends: [&'a [TokenId]; 2],
    min_tokens: usize,
}

/// One sequence that wants drafts.
pub struct DraftAsk<'a> {
    sequence: SequenceId,
    context: &'a mut Vec<TokenId>,
    known: usize,
    prompt_len: usize,
    depth: usize,
    distributions: Option<&'a mut Vec<Distribution>>,
    tenant: Option<&'a str>,
    rules: Rules<'a>,
}

impl<'a> DraftAsk<'a> {
    /// A wish for up to `depth` drafts after `context`, the first `prompt_len` tokens of which
    /// are the prompt. `sampler` is the one that picks the sequence's tokens; drafts are pushed
    /// onto `context`.
    pub fn new(
        sequence: SequenceId,
        context: &'a mut Vec<TokenId>,
        prompt_len: usize,
        depth: usize,
        sampler: &'a mut Sampler,
    ) -> Self {
        Self {
            sequence,
            known: context.len(),
            context,
            prompt_len,
            depth: depth.min(MAX_DRAFT_DEPTH),
            distributions: None,
            tenant: None,
            rules: Rules {
                sampler,
                choice: 0,
                processors: &[],
                ends: [&[], &[]],
                min_tokens: 0,
            },
        }
    }

    /// Which choice of its request the sequence is, and what is done to its logits.
    pub fn processed(mut self, choice: usize, processors: &'a [Arc<dyn LogitsProcessor>]) -> Self {
        self.rules.choice = choice;
        self.rules.processors = processors;
        self
    }

    /// Tokens that are ruled out while fewer than `min_tokens` were generated.
    pub fn ends(mut self, min_tokens: usize, ends: [&'a [TokenId]; 2]) -> Self {
        self.rules.min_tokens = min_tokens;
        self.rules.ends = ends;
        self
    }

    /// Whose request it is.
    pub fn tenant(mut self, tenant: Option<&'a str>) -> Self {
        self.tenant = tenant;
        self
    }

    /// Asks for the distribution each draft is drawn from, too, for [`Verification::Rejection`].
    /// As many as drafts, or none for drafts that are certain.
    pub fn distributions(mut self, out: &'a mut Vec<Distribution>) -> Self {
        out.clear();
        self.distributions = Some(out);
        self
    }

    /// Whose drafts.
    pub fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// What a proposer with a KV cache of its own must tell apart: tenants share nothing.
    pub fn scope(&self) -> PrefixScope {
        let extras = Extras::default();
        PrefixScope {
            extras: match self.tenant {
                Some(tenant) => extras.tenant(tenant),
                None => extras,
            },
            reuse: true,
        }
    }

    /// Whether `token` would end the sequence, so that no draft after it is worth anything.
    pub fn ends_with(&self, token: TokenId) -> bool {
        self.rules.ends.iter().any(|ends| ends.contains(&token))
    }

    /// Prompt and answer so far. Of one sequence this only ever grows.
    pub fn known(&self) -> &[TokenId] {
        &self.context[..self.known]
    }

    /// Prompt, answer and drafts so far.
    pub fn context(&self) -> &[TokenId] {
        self.context
    }

    /// Drafts so far.
    pub fn drafted(&self) -> &[TokenId] {
        &self.context[self.known..]
    }

    /// How many more drafts are wanted.
    pub fn wanted(&self) -> usize {
        self.depth.saturating_sub(self.drafted().len())
    }

    /// How many drafts are wanted in all.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Adds a draft, certain as far as the proposer is concerned. One too many is dropped.
    pub fn push(&mut self, token: TokenId) {
        self.push_with(token, Distribution::new());
    }

    /// Adds a draft, if one is wanted, and what it was drawn from: nothing where it is certain.
    fn push_with(&mut self, token: TokenId, distribution: Distribution) {
        if self.wanted() > 0 {
            self.context.push(token);
            if let Some(distributions) = &mut self.distributions {
                distributions.push(distribution);
            }
        }
    }

    /// Adds the draft that the sequence's own sampler picks from a draft model's `logits` after
    /// [`context`](Self::context): with the noise the target will pick with, so that they agree
    /// whenever the two distributions do. `survey` is that of `logits`.
    ///
    /// # Errors
    /// As [`Sampler::pick`]; nothing was added then.
    pub fn pick(
        &mut self,
        logits: &[f32],
        survey: &Survey,
        scratch: &mut SamplerScratch,
    ) -> Result<TokenId, Error> {
        let rules = &mut self.rules;
        let generated = self.context.len().saturating_sub(self.prompt_len);
        let [eos, stops] = match generated < rules.min_tokens {
            true => rules.ends,
            false => [&[][..]; 2],
        };
        let context = LogitsContext::new(self.context, self.prompt_len, rules.choice);
        let joined;
        let forbidden = match (eos, stops) {
            (only, []) | ([], only) => only,
            _ => {
                joined = [eos, stops].concat();
                &joined
            }
        };
        let mut distribution = Distribution::new();
        let picked = match &self.distributions {
            None => rules.sampler.pick_surveyed(
                &context,
                rules.processors,
                logits,
                survey,
                forbidden,
                scratch,
            )?,
            Some(_) => rules.sampler.distribution_surveyed(
                &context,
                rules.processors,
                logits,
                survey,
                forbidden,
                scratch,
                &mut distribution,
            )?,
        };
        self.push_with(picked, distribution);
        Ok(picked)
    }
}

impl std::fmt::Debug for DraftAsk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftAsk")
            .field("sequence", &self.sequence)
            .field("known", &self.known)
            .field("depth", &self.depth)
            .field("drafted", &self.drafted())
            .finish_non_exhaustive()
    }
}

/// Drafts tokens for running sequences. Lives on the engine's thread.
///
/// ```
/// use llmserve_core::{DraftAsk, Error, Proposer, SequenceId};
///
/// /// Thinks that everything is said twice.
/// struct Echo;
/// impl Proposer for Echo {
///     fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
///         for ask in asks {
///             if let Some(&last) = ask.known().last() {
///                 ask.push(last);
///             }
///         }
///         Ok(())
///     }
///     fn close(&mut self, _sequence: SequenceId) {}
/// }
/// ```
pub trait Proposer: Send {
    /// Called once, before anything else, with the model whose tokens are drafted.
    ///
    /// # Errors
    /// A text saying why it cannot draft for this model; the engine is not built then.
    fn prepare(&mut self, target: &ModelInfo, limits: ProposerLimits) -> Result<(), String> {
        let _ = (target, limits);
        Ok(())
    }

    /// Bytes of memory it takes once it is prepared, if that is worth counting: a draft model's.
    /// Provided: 0.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Adds up to [`wanted`](DraftAsk::wanted) drafts to each of `asks`, several sequences at
    /// once, no sequence twice; none where it has no idea. The order of `asks` may be changed.
    ///
    /// # Errors
    /// Whatever went wrong. All drafts of the call are dropped, and each of its sequences is
    /// [closed](Self::close): asked for again, it is a new one.
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error>;

    /// Forgets a sequence. It may never have been asked for.
    fn close(&mut self, sequence: SequenceId);
}

/// What became of one sequence's drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose.
    pub sequence: SequenceId,
    /// Drafts in the row.
    pub drafted: usize,
    /// How many of them were accepted, from the first on.
    pub accepted: usize,
}

/// What a step was and what it cost.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// Rows that decode, with drafts or without.
    pub decodes: usize,
    /// Tokens computed, drafts included.
    pub tokens: usize,
    /// Whether some row was more than a decode and its drafts.
    pub prefill: bool,
    /// From the plan's end until every pick was made.
    pub time: Duration,
    /// Rows that had drafts.
    pub verified: &'a [Verified],
}

/// What a round of proposing was and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalReport {
    /// Sequences asked for.
    pub sequences: usize,
    /// Drafts asked for, of all sequences.
    pub wanted: usize,
    /// The most asked for of one.
    pub longest: usize,
    /// Drafts that came, of all sequences.
    pub drafted: usize,
    /// How long it took.
    pub time: Duration,
}

/// A sequence that could have drafts in the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepthAsk {
    /// Who.
    pub sequence: SequenceId,
    /// Most drafts it can use: its request's own limit, and the tokens it has left.
    pub limit: usize,
    /// How many it shall have; at most `limit`, 0 for none. Comes as 0.
    pub depth: usize,
}

/// Decides how many drafts are worth their cost. Deterministic: all it knows of time is what it
/// is told. One that panics is not asked again: the engine goes on without drafts.
pub trait Depth: Send {
    /// Most drafts it ever asks for; at most [`MAX_DRAFT_DEPTH`].
    fn most(&self) -> usize;

    /// Sets the depth of each sequence for the next step, in which `decodes` rows decode.
    fn choose(&mut self, decodes: usize, asks: &mut [DepthAsk]);

    /// Learns from a step.
    fn step(&mut self, report: &StepReport<'_>) {
        let _ = report;
    }

    /// Learns from a round of proposing.
    fn proposed(&mut self, report: &ProposalReport) {
        let _ = report;
    }

    /// Forgets a sequence.
    fn close(&mut self, sequence: SequenceId) {
        let _ = sequence;
    }
}

/// Always the same depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedDepth(
    /// Drafts a step.
    pub usize,
);

impl Depth for FixedDepth {
    fn most(&self) -> usize {
        self.0.min(MAX_DRAFT_DEPTH)
    }

    fn choose(&mut self, _decodes: usize, asks: &mut [DepthAsk]) {
        for ask in asks {
            ask.depth = self.most().min(ask.limit);
        }
    }
}

/// How an engine speculates.
///
/// ```
/// use llmserve_core::{DraftAsk, Error, FixedDepth, Proposer, SequenceId, Speculation};
/// # struct Echo;
/// # impl Proposer for Echo {
/// #     fn propose(&mut self, _: &mut [DraftAsk<'_>]) -> Result<(), Error> { Ok(()) }
/// #     fn close(&mut self, _: SequenceId) {}
/// # }
/// let speculation = Speculation::new(Echo).depth(FixedDepth(3));
/// ```
pub struct Speculation {
    pub(crate) proposer: Box<dyn Proposer>,
    pub(crate) depth: Box<dyn Depth>,
    pub(crate) verification: Verification,
}

impl Speculation {
    /// Four drafts a step from `proposer`, verified so that ids do not change.
    pub fn new(proposer: impl Proposer + 'static) -> Self {
        Self {
            proposer: Box::new(proposer),
            depth: Box::new(FixedDepth(4)),
            verification: Verification::Coupled,
        }
    }

    /// How many drafts a step.
    pub fn depth(mut self, depth: impl Depth + 'static) -> Self {
        self.depth = Box::new(depth);
        self
    }

    /// How drafts become tokens.
    pub fn verification(mut self, verification: Verification) -> Self {
        self.verification = verification;
        self
    }

    /// Most drafts of a row.
    ///
    /// # Errors
    /// What a depth says when it panics.
    pub(crate) fn most(&self) -> Result<usize, String> {
        let most = catch_unwind(AssertUnwindSafe(|| self.depth.most()));
        let most = most.map_err(|panic| format!("the depth panicked: {}", panic_message(&*panic)));
        Ok(most?.min(MAX_DRAFT_DEPTH))
    }
}

impl std::fmt::Debug for Speculation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speculation")
            .field("most", &self.most())
            .field("verification", &self.verification)
            .finish_non_exhaustive()
    }
}

impl Proposer for Box<dyn Proposer> {
    fn prepare(&mut self, target: &ModelInfo, limits: ProposerLimits) -> Result<(), String> {
        (**self).prepare(target, limits)
    }

    fn memory_bytes(&self) -> u64 {
        (**self).memory_bytes()
    }

    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        (**self).propose(asks)
    }

    fn close(&mut self, sequence: SequenceId) {
        (**self).close(sequence);
    }
}

impl Depth for Box<dyn Depth> {
    fn most(&self) -> usize {
        (**self).most()
    }

    fn choose(&mut self, decodes: usize, asks: &mut [DepthAsk]) {
        (**self).choose(decodes, asks);
    }

    fn step(&mut self, report: &StepReport<'_>) {
        (**self).step(report);
    }

    fn proposed(&mut self, report: &ProposalReport) {
        (**self).proposed(report);
    }

    fn close(&mut self, sequence: SequenceId) {
        (**self).close(sequence);
    }
}
