//! Speculation gives what the engine gives without it, sooner.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod cache;
mod distribution;
mod draft_model;
mod faults;
mod pair;

use std::sync::{Arc, Mutex};

use llmserve::prelude::*;
use llmserve::sampling::SamplerScratch;
use llmserve::sched::speculation::{AdaptiveDepth, Composite, DraftModel, NGram};
use llmserve::{
    BlockEvent, BuildError, Depth, DepthAsk, DraftAsk, EngineBuilder, FixedDepth, IdentityRoot,
    LogitsContext, LogitsProcessor, MemoryRecorder, Model, ModelInfo, ProposalReport, Proposer,
    ProposerLimits, SequenceId, Speculation, StepReport, Survey, TokenId, Verification,
};
use support::{PageModel, Sizes, VOCAB, builder, drained, hash_logits};

/// Picks from the target's own logits, now and then disturbed: right most of the time.
struct Oracle {
    /// One context in so many is disturbed.
    wrong: u64,
}

impl Proposer for Oracle {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        let (mut survey, mut scratch) = (Survey::default(), SamplerScratch::new());
        for ask in asks {
            while ask.wanted() > 0 {
                let mut logits = vec![0.0; VOCAB];
                hash_logits(ask.context(), &mut logits);
                let sum: u64 = ask.context().iter().map(|token| u64::from(*token)).sum();
                if sum.is_multiple_of(self.wrong) {
                    logits.reverse();
                }
                survey.take(&logits);
                ask.pick(&logits, &survey, &mut scratch)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, _: SequenceId) {}
}

/// Says what it was told to.
struct Scripted<F>(F);

impl<F: FnMut(&mut DraftAsk<'_>) + Send> Proposer for Scripted<F> {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        asks.iter_mut().for_each(&mut self.0);
        Ok(())
    }

    fn close(&mut self, _: SequenceId) {}
}

fn speculative(sizes: Sizes, proposer: impl Proposer + 'static) -> EngineBuilder {
    builder(PageModel::hashing(), sizes).speculative(Speculation::new(proposer))
}

/// Refuses what was said two tokens ago, and checks that it is told the truth about what was.
struct NoStutter;

impl LogitsProcessor for NoStutter {
    fn process(&self, context: &LogitsContext<'_>, logits: &mut [f32]) {
        if let Some(at) = context.tokens.len().checked_sub(2) {
            logits[context.tokens[at] as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Requests of every kind.
fn requests(count: u64, salt: u64) -> Vec<Request> {
    let mut state = salt;
    let mut next = move |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    (0..count)
        .map(|i| {
            let prompt: Vec<TokenId> = (0..1 + next(40)).map(|_| 2 + next(26) as u32).collect();
            let mut request = Request::tokens(prompt).max_tokens(1 + next(40) as usize);
            if next(2) == 0 {
                request = request.temperature(0.3 + next(10) as f32 / 10.0).seed(i);
                request.sampling.top_p = 1.0 - next(3) as f32 / 10.0;
                request.sampling.min_p = next(3) as f32 / 20.0;
            }
            if next(3) == 0 {
                request.sampling.repetition_penalty = 1.3;
                request.sampling.frequency_penalty = 0.4;
                request.sampling.presence_penalty = 0.2;
            }
            if next(4) == 0 {
                request.sampling.logit_bias.insert(5, 2.0);
            }
            match next(6) {
                0 => request = request.n(2 + next(2) as usize),
                1 => request = request.logprobs(3),
                2 => request = request.stop("e").stop("ab"),
                3 => request = request.stop_token(9).min_tokens(next(8) as usize),
                4 => request = request.processor(Arc::new(NoStutter)),
                _ => request = request.prompt_logprobs(1),
            }
            if next(5) == 0 {
                request = request.draft_depth(next(3) as usize);
            }
            request
        })
        .collect()
}

/// What of an answer must not change.
fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<String> {
    let streams: Vec<_> = requests
        .into_iter()
        .map(|request| engine.generate(request))
        .collect();
    let say = |stream: EventStream| match stream.wait() {
        Ok(response) => {
            let choices = response.choices.iter();
            let told = choices.map(|c| {
                (
                    &c.ids,
                    &c.text,
                    &c.reason,
                    &c.logprobs,
                    c.usage.completion_tokens,
                )
            });
            format!(
                "{:?} {:?}",
                response.started.prompt_logprobs,
                told.collect::<Vec<_>>()
            )
        }
        Err(error) => format!("{error}"),
    };
    streams.into_iter().map(say).collect()
}
