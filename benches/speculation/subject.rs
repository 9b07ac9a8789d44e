//! An engine to be measured, and one run of it.

use std::error::Error;
use std::time::Duration;

use llmserve::kv::PagedKv;
use llmserve::prelude::*;
use llmserve::sched::ContinuousScheduler;
use llmserve::sched::speculation::DraftModel;
use llmserve::{
    Choice, IdentityRoot, MAX_DRAFT_DEPTH, Model, ModelInfo, Proposer, Speculation, TokenId,
};

use crate::clocked::{Clock, Clocked, Switch, Totals};
use crate::told::Texts;

/// Tokens of a prompt.
pub const PROMPT: usize = 32;
const BLOCK_SIZE: usize = 16;

fn kv(info: &ModelInfo, tokens: usize) -> Result<PagedKv, Box<dyn Error>> {
    let root = IdentityRoot::new(info.fingerprint, &info.kv.groups[0].layout, BLOCK_SIZE);
    Ok(PagedKv::builder()
        .blocks(tokens.div_ceil(BLOCK_SIZE) + 64)
        .block_size(BLOCK_SIZE)
        .root(root)
        .prefix_caching(false)
        .build()?)
}

/// How many sequences at once, and how many tokens of each.
#[derive(Clone, Copy)]
pub struct Size {
    pub batch: usize,
    pub tokens: usize,
}

impl Size {
    /// KV positions that all sequences need together, drafts included.
    fn positions(self) -> usize {
        self.batch * (PROMPT + self.tokens + MAX_DRAFT_DEPTH + BLOCK_SIZE)
    }
}

/// A draft model, and the clock of what it takes itself.
pub fn drafting(
    model: impl Model + 'static,
    size: Size,
) -> Result<(DraftModel, Clock), Box<dyn Error>> {
    let kv = kv(model.info(), size.positions())?;
    let clock = Clock::default();
    let model = Clocked {
        inner: model,
        clock: clock.clone(),
    };
    Ok((DraftModel::new(model, kv), clock))
}

/// An engine and the hands on it.
pub struct Subject {
    pub engine: Engine,
    pub depth: Switch,
    pub texts: Texts,
}

impl Subject {
    /// A target, who drafts for it, and what is put on their lips.
    pub fn new(
        target: impl Model + 'static,
        (proposer, draft): (impl Proposer + 'static, Clock),
        texts: Texts,
        size: Size,
    ) -> Result<Self, Box<dyn Error>> {
        let clock = Clock::default();
        let depth = Switch::new(clock.clone(), draft);
        let kv = kv(target.info(), size.positions())?;
        let target = Clocked {
            inner: target,
            clock,
        };
        let scheduler = ContinuousScheduler::builder().max_num_seqs(size.batch);
        let engine = Engine::builder(target)
            .kv(kv)
            .scheduler(scheduler.build()?)
            .speculative(Speculation::new(proposer).depth(depth.clone()))
            .seed(1)
            .build()?;
        Ok(Self {
            engine,
            depth,
            texts,
        })
    }

    /// Serves `prompts` together.
    pub fn run(
        &self,
        prompts: &[Vec<TokenId>],
        tokens: usize,
    ) -> Result<Measured, llmserve::Error> {
        let before = self.engine.stats();
        self.depth.take();
        let streams: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let request = Request::tokens(prompt.clone());
                self.engine
                    .generate(request.max_tokens(tokens).ignore_eos(true))
            })
            .collect();
        let responses: Vec<Response> = streams
            .into_iter()
            .map(EventStream::wait)
            .collect::<Result<_, _>>()?;
        let last = |time: fn(&Choice) -> Duration| {
            let times = responses.iter().map(|response| time(&response.choices[0]));
            times.max().unwrap_or_default().as_secs_f64()
        };
        let seconds = last(|c| c.timings.latency) - last(|c| c.timings.time_to_first_token);
        let stats = self.engine.stats();
        let now = stats.spec_accepted_per_pos.iter();
        let per_pos = now.zip(before.spec_accepted_per_pos);
        Ok(Measured {
            seconds,
            ids: responses.iter().map(|r| r.ids().to_vec()).collect(),
            totals: self.depth.take(),
            drafts: stats.spec_drafts - before.spec_drafts,
            draft_tokens: stats.spec_draft_tokens - before.spec_draft_tokens,
            accepted: stats.spec_accepted_tokens - before.spec_accepted_tokens,
            per_pos: per_pos.map(|(now, before)| now - before).collect(),
        })
    }
}

/// One run.
pub struct Measured {
    /// From the last first token to the last token, in seconds.
    pub seconds: f64,
    pub ids: Vec<Vec<TokenId>>,
    pub totals: Totals,
    pub drafts: u64,
    pub draft_tokens: u64,
    pub accepted: u64,
    pub per_pos: Vec<u64>,
}
