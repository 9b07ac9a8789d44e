//! One choice's way from logits to a token.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::filter::Filter;
use super::noise::Noise;
use super::params::{LogitsContext, LogitsProcessor, Sampling};
use super::penalties::Penalties;
use super::select::Candidate;
use super::survey::{Flaw, Survey};
use crate::contract::proposer::Distribution;
use crate::error::{Error, panic_message};
use crate::ids::TokenId;

/// Buffers that picks reuse. One for each thread that picks; what it holds between calls has no
/// meaning.
#[derive(Clone, Debug, Default)]
pub struct SamplerScratch {
    /// The survey of the row given, where nobody else made it.
    pub(super) raw: Survey,
    /// The row being changed.
    logits: Vec<f32>,
    /// The survey of that.
    survey: Survey,
    /// What the filters left.
    pub(super) candidates: Vec<Candidate>,
}

impl SamplerScratch {
    /// Empty buffers, which grow to the vocabulary's size as they are needed.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Picks the tokens of one choice of one request.
///
/// ```
/// use llmserve_core::sampling::{LogitsContext, Sampler, SamplerScratch, Sampling};
///
/// let mut scratch = SamplerScratch::new();
/// let mut sampling = Sampling::default();
/// let mut greedy = Sampler::new(&sampling, 0, 7);
/// let context = LogitsContext::new(&[4, 2], 2, 0);
/// let logits = [0.1, 0.7, 0.7, -1.0];
/// assert_eq!(greedy.pick(&context, &[], &logits, &[], &mut scratch)?, 1);
///
/// sampling.temperature = 0.8;
/// let mut sampler = Sampler::new(&sampling, 0, 7);
/// let first = sampler.pick(&context, &[], &logits, &[], &mut scratch)?;
/// // The same place, the same pick: nothing was advanced.
/// assert_eq!(sampler.pick(&context, &[], &logits, &[], &mut scratch)?, first);
/// # Ok::<(), llmserve_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    pub(super) seed: u64,
    pub(super) choice: usize,
    bias: Vec<(TokenId, f32)>,
    penalties: Option<Penalties>,
    /// None is greedy.
    filter: Option<Filter>,
}

impl Sampler {
    /// The sampler of `choice`, with the noise of `seed` ([`Sampling::seed`] or what the engine
    /// drew). `sampling` has been [validated](Sampling::validate).
    pub fn new(sampling: &Sampling, choice: usize, seed: u64) -> Self {
        Self {
            seed,
            choice,
            bias: sampling
                .logit_bias
                .iter()
                .map(|(&token, &bias)| (token, bias))
                .collect(),
            penalties: Penalties::new(sampling),
            filter: (sampling.temperature > 0.0).then(|| Filter::new(sampling)),
        }
    }

    /// The seed its noise comes from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The token that follows `context.tokens`, from the model's raw `logits` after them.
    ///
    /// A pure function of the arguments, the seed and the choice. The mutable state is a cache:
    /// penalty counts follow `context`, forward as tokens come and back when drafts among its last
    /// 64 tokens were rejected. So verifying a draft is picking at each of its positions, the
    /// context each time extended by the drafted token, and comparing.
    ///
    /// `forbidden` tokens cannot be picked: end and stop tokens while a minimum length is not
    /// reached. Nor can those outside of [`LogitsContext::allowed`]. For the order of everything see the [module](super).
    ///
    /// # Errors
    /// [`Error::NonFiniteLogits`] for a NaN or positive infinity from the model or a processor,
    /// [`Error::Panicked`] when a processor panics, [`Error::NothingToSample`] when every token is
    /// ruled out.
    pub fn pick(
        &mut self,
        context: &LogitsContext<'_>,
        processors: &[Arc<dyn LogitsProcessor>],
        logits: &[f32],
        forbidden: &[TokenId],
        scratch: &mut SamplerScratch,
    ) -> Result<TokenId, Error> {
        let mut survey = std::mem::take(&mut scratch.raw);
        survey.take(logits);
        let picked = self.pick_surveyed(context, processors, logits, &survey, forbidden, scratch);
        scratch.raw = survey;
        picked
    }

    /// [`pick`](Self::pick) from a row that has been surveyed: `survey` is that of `logits`, and
    /// most of these are not read again.
    ///
    /// # Errors
    /// As [`pick`](Self::pick), and [`Error::Model`] for a survey that contradicts the row. Only
    /// what is cheap to see is seen: a greatest logit said to be less than it is may hide a token.
    pub fn pick_surveyed(
        &mut self,
        context: &LogitsContext<'_>,
        processors: &[Arc<dyn LogitsProcessor>],
        logits: &[f32],
        survey: &Survey,
        forbidden: &[TokenId],
        scratch: &mut SamplerScratch,
    ) -> Result<TokenId, Error> {
        self.draw(
            context, processors, logits, survey, forbidden, scratch, None,
        )
    }

    /// As [`pick_surveyed`](Self::pick_surveyed), and puts into `out`, over what was there, what
    /// the pick was drawn from: the tokens that may follow and how probable each is. Greedily that
    /// is one token.
    ///
    /// # Errors
    /// As [`pick_surveyed`](Self::pick_surveyed).
    #[allow(clippy::too_many_arguments)]
    pub fn distribution_surveyed(
        &mut self,
        context: &LogitsContext<'_>,
        processors: &[Arc<dyn LogitsProcessor>],
        logits: &[f32],
        survey: &Survey,
        forbidden: &[TokenId],
        scratch: &mut SamplerScratch,
        out: &mut Distribution,
    ) -> Result<TokenId, Error> {
        out.clear();
        self.draw(
            context,
            processors,
            logits,
            survey,
            forbidden,
            scratch,
            Some(out),
        )
    }

    /// A pick, and what it was drawn from where that is wanted.
    #[allow(clippy::too_many_arguments)]
    fn draw(
        &mut self,
        context: &LogitsContext<'_>,
        processors: &[Arc<dyn LogitsProcessor>],
        logits: &[f32],
        survey: &Survey,
        forbidden: &[TokenId],
        scratch: &mut SamplerScratch,
        out: Option<&mut Distribution>,
    ) -> Result<TokenId, Error> {
        let SamplerScratch {
            logits: copy,
            survey: changed,
            candidates,
            ..
        } = scratch;
        let (row, survey, best) = self.changed(
            context, processors, logits, survey, forbidden, copy, changed,
        )?;
        let Some(filter) = &self.filter else {
            out.into_iter().for_each(|out| out.push((best.id, 1.0)));
            return Ok(best.id);
        };
        let noise = Noise::new(self.seed, self.choice, context.tokens.len());
        Ok(match out {
            None => filter.pick(row, survey, best, noise, candidates),
            Some(out) => filter.distribution(row, survey, best, noise, candidates, out),
        })
    }

    /// The row as the request changes it, its survey and its best token.
    #[allow(clippy::too_many_arguments)]
    fn changed<'r>(
        &mut self,
        context: &LogitsContext<'_>,
        processors: &[Arc<dyn LogitsProcessor>],
        logits: &'r [f32],
        survey: &'r Survey,
        forbidden: &[TokenId],
        copy: &'r mut Vec<f32>,
        changed: &'r mut Survey,
    ) -> Result<(&'r [f32], &'r Survey, Candidate), Error> {
        let position = context.tokens.len().saturating_sub(1);
        let flawed = |row: &[f32], flaw: Flaw| flaw.error(position, row);

        let (mut row, mut survey) = (logits, survey);
        survey.check(row).map_err(|flaw| flawed(row, flaw))?;
        let untouched = processors.is_empty()
            && self.bias.is_empty()
            && self.penalties.is_none()
            && forbidden.is_empty();
        if let (true, Some(allowed), None) = (untouched, context.allowed, &self.filter) {
            // The best that is allowed, and only blocks that have one are read.
            let best = allowed.peak(row, survey);
            return best
                .map(|best| (row, survey, best))
                .ok_or(Error::NothingToSample { position });
        }
        if !untouched || context.allowed.is_some() {
            copy.clear();
            copy.extend_from_slice(logits);
            if !processors.is_empty() {
                process(context, processors, copy)?;
                changed.take(copy);
                changed.check(copy).map_err(|flaw| flawed(copy, flaw))?;
            } else {
                changed.clone_from(survey);
            }
            let adjusted = self.adjust(context, forbidden, copy, changed);
            adjusted.map_err(|flaw| flawed(copy, flaw))?;
            (row, survey) = (copy, changed);
        }
        let best = survey
            .peak(row)
            .map_err(|flaw| flawed(row, flaw))?
            .ok_or(Error::NothingToSample { position })?;
        Ok((row, survey, best))
    }

    /// Bias, penalties, tokens forbidden or not allowed. Brings the survey of `row` up to date.
    ///
    /// # Errors
    /// [`Flaw::Logit`] for the first token whose logit is unusable now.
    fn adjust(
        &mut self,
        context: &LogitsContext<'_>,
        forbidden: &[TokenId],
        row: &mut [f32],
        survey: &mut Survey,
    ) -> Result<(), Flaw> {
        for &(token, bias) in &self.bias {
            if let Some(logit) = row.get_mut(token as usize) {
                // Two large ones must not make +∞.
                *logit = (*logit + bias).min(f32::MAX);
            }
        }
        if let Some(penalties) = &mut self.penalties {
            penalties.follow(context);
            penalties.apply(row);
        }
        for &token in forbidden {
            if let Some(logit) = row.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(allowed) = context.allowed {
            allowed.apply(row);
        }
        let penalised = self.penalties.as_ref().map_or(&[][..], Penalties::touched);
        let touched = self.bias.len() + penalised.len() + forbidden.len();
        if touched <= survey.greatest().len() {
            let biased = self.bias.iter().map(|bias| bias.0);
            let penalised = penalised.iter().map(|seen| seen.token);
            let mut changed = biased.chain(penalised).chain(forbidden.iter().copied());
            if changed.all(|token| survey.update(row, token).is_ok()) {
                if let Some(allowed) = context.allowed {
                    survey.mask(row, allowed);
                }
                return Ok(());
            }
        }
        survey.take(row);
        survey.check(row)
    }
}

/// Runs the processors. Code of the host's: a panic stays with the request.
fn process(
    context: &LogitsContext<'_>,
    processors: &[Arc<dyn LogitsProcessor>],
    row: &mut [f32],
) -> Result<(), Error> {
    for processor in processors {
        catch_unwind(AssertUnwindSafe(|| processor.process(context, row))).map_err(|payload| {
            Error::Panicked {
                part: "logits processor",
                message: panic_message(&*payload),
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
