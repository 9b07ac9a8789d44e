//! The engine thread: its state, its commands and its end.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::constrain::Constrained;
use super::deadlines::Deadlines;
use super::instruments::Instruments;
use super::masks::MaskThreads;
use super::output::resume;
use super::prefixes::Prefixes;
use super::request::{Draft, Live, Prepared, Sequence, Text};
use super::sequences::Sequences;
use super::speculate::Speculator;
use super::{Command, EngineStats, Shared};
use crate::contract::clock::{Clock, Time};
use crate::contract::kv::{BlockEvent, KvError, KvManager, PageOp, PrefixScope};
use crate::contract::model::{BatchRow, Model};
use crate::contract::scheduler::{End, Refusal, SchedRequest, Scheduler, StepOutcome, StepPlan};
use crate::contract::tokenizer::Tokenizer;
use crate::error::{Error, panic_message};
use crate::event::{Event, FinishReason, Finished, Started, Timings};
use crate::ids::TokenId;
use crate::sampling::{Sampler, SamplerScratch, Survey};
use crate::sync::Ordering;
use crate::text::{IncrementalDecoder, StopStrings};

/// Listens to block events, on the engine's thread.
pub(super) type EventListener = Box<dyn FnMut(&[BlockEvent]) + Send>;

/// How long to wait for news when a scheduler has requests and plans nothing.
const NOTHING_PLANNED: Duration = Duration::from_millis(1);

/// Commands taken between two steps: a flood of new requests does not stop the running ones.
const COMMANDS_PER_STEP: usize = 1024;

/// Prompt positions of one sequence whose logits are held at once for prompt logprobs: a row of
/// logits can be a megabyte.
const PROMPT_LOGPROBS_CHUNK: usize = 64;

/// Everything the engine thread owns.
pub(super) struct Core {
    pub(super) model: Box<dyn Model>,
    pub(super) kv: Box<dyn KvManager>,
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) tokenizer: Option<Arc<dyn Tokenizer>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Receiver<Command>,
    pub(super) instruments: Instruments,
    pub(super) listener: Option<EventListener>,
    pub(super) seed: u64,
    pub(super) speculator: Option<Box<Speculator>>,
    /// None where there are no grammars.
    pub(super) masks: Option<MaskThreads>,
    /// What masks took, on all threads.
    pub(super) mask_time: Duration,
    /// What steps waited for masks when the model was done.
    pub(super) mask_wait: Duration,

    pub(super) requests: HashMap<u64, Live>,
    pub(super) sequences: Sequences,
    pub(super) deadlines: Deadlines,
    pub(super) prefixes: Prefixes,
    pub(super) draining: bool,
    pub(super) stats: EngineStats,
    pub(super) waste_sum: f64,
    /// Steps begun.
    pub(super) steps: u64,
    /// What is running, to name it should it panic.
    pub(super) phase: &'static str,
    pub(super) buffers: Buffers,
}

/// Memory kept from step to step.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) plan: StepPlan,
    pub(super) outcome: StepOutcome,
    pub(super) ops: Vec<PageOp>,
    pub(super) tokens: Vec<TokenId>,
    pub(super) rows: Vec<BatchRow>,
    /// That of the row of logits in hand.
    pub(super) survey: Survey,
    pub(super) scratch: SamplerScratch,
    pub(super) forbidden: Vec<TokenId>,
    /// A run of tokens that must follow.
    pub(super) forced: Vec<TokenId>,
    pub(super) events: Vec<BlockEvent>,
    /// Requests with events to hand over.
    pub(super) touched: Vec<u64>,
    /// Requests that ended in this step, with the error they ended with.
    pub(super) done: Vec<(Live, Option<Error>)>,
}

impl Core {
    /// Serves until told to end, then ends every stream and says so.
    pub(super) fn run(mut self) {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = match served {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(Error::Panicked {
                part: self.phase,
                message: panic_message(&*panic),
            }),
        };
        if let Some(error) = &failure {
            tracing::error!(%error, "the engine ends");
        }
        let shared = self.shared.clone();
        {
            let mut state = shared.state.lock();
            state.closed = true;
            state.failure = failure;
        }
        // Every stream ends, whatever the hosts' own parts do when they are dropped.
        for (_, live) in self.requests.drain() {
            let Live { sink, .. } = live;
            let _ = catch_unwind(AssertUnwindSafe(|| drop(sink)));
        }
        for (live, error) in self.buffers.done.drain(..) {
            let error = error.unwrap_or_else(|| shared.end_error());
            let _ = catch_unwind(AssertUnwindSafe(|| live.sink.fail(error)));
        }
        self.prefixes.clear();
        while let Ok(command) = self.commands.try_recv() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(command)));
        }
        let _ = catch_unwind(AssertUnwindSafe(move || drop(self)));
        shared.has_stopped();
    }

    fn serve(&mut self) -> Result<(), Error> {
        loop {
            self.commit_ended();
            if self.requests.is_empty() && !self.tend_prefixes() {
                if self.draining || self.stopping() {
                    return Ok(());
                }
                match self.commands.recv() {
                    Ok(command) => self.command(command),
                    Err(_) => return Ok(()),
                }
            }
            for _ in 0..COMMANDS_PER_STEP {
                match self.commands.try_recv() {
                    Ok(command) => self.command(command),
                    Err(_) => break,
                }
            }
            if self.stopping() {
                return Ok(());
            }
            self.expire();
            self.commit_ended();
            if !self.tend_prefixes() && self.requests.is_empty() {
                continue;
            }
            if !self.step()?
                && let Ok(command) = self.commands.recv_timeout(NOTHING_PLANNED)
            {
                self.command(command);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Commits what ended between steps.
    pub(super) fn commit_ended(&mut self) {
        if !self.buffers.outcome.is_empty() || !self.buffers.done.is_empty() {
            self.commit();
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Submit(prepared) => self.submit(*prepared),
            Command::Cancel(key) => self.cancel(key),
            Command::CancelledBefore => {
                self.stats.cancelled_requests += 1;
                self.publish();
            }
            Command::Keep(found) => self.keep(*found),
            Command::LetGo(key) => self.let_go(key),
            Command::ResetPrefixCache(reply) => {
                self.stop_prefix();
                self.prefixes.changed();
                // Those whose streams were dropped before hold nothing any more.
                self.commit_ended();
                self.phase = "KV manager";
                let reset = self.kv.reset().map_err(|error| match error {
                    KvError::Held { held } => Error::CacheHeld { held },
                    other => Error::Kv(other),
                });
                self.deliver_block_events();
                self.publish();
                let _ = reply.send(reset);
            }
            Command::Drain => {
                self.draining = true;
                self.forget_prefixes();
            }
            Command::Stop => {}
        }
    }

    fn submit(&mut self, prepared: Prepared) {
        let Prepared {
            spec,
            sink,
            place,
            ends,
        } = prepared;
        drop(place);
        if sink.is_cancelled() {
            self.stats.cancelled_requests += 1;
            self.publish();
            return sink.close();
        }
        // Nobody waits behind what nobody asked for.
        self.stop_prefix();
        self.prefixes.changed();
        let spec = Arc::new(spec);
        let mut first = self.sequence(&spec, 0);
        if let Err(error) = resume(&mut first, &self.shared.info.eos) {
            self.instruments.failed(&error);
            self.stats.failed_requests += 1;
            self.publish();
            return sink.fail(error);
        }
        let tokens = first.tokens.len();
        let id = self.sequences.insert(Box::new(first));
        let scope = PrefixScope {
            extras: spec.extras(),
            reuse: spec.prompt_logprobs.is_none(),
        };
        self.phase = "KV manager";
        let known = self
            .sequences
            .get(id)
            .map_or(&[][..], |first| &first.tokens);
        let submitted = self.kv.open(id, known, scope).map_err(Error::Kv);
        let submitted = submitted.and_then(|()| {
            self.phase = "scheduler";
            let request = SchedRequest {
                max_new_tokens: spec.max_total - tokens,
                choices: spec.n,
                priority: spec.priority,
                tenant: spec.tenant.clone(),
                arrival: spec.arrival,
                deadline: spec.deadline,
                max_chunk: spec.prompt_logprobs.map(|_| PROMPT_LOGPROBS_CHUNK),
                ..SchedRequest::new(id, tokens, 0)
            };
            self.scheduler.submit(request, &*self.kv).map_err(refused)
        });
        if let Err(error) = submitted {
            self.kv.close(id);
            self.sequences.remove(id);
            self.instruments.failed(&error);
            self.stats.failed_requests += 1;
            self.publish();
            return sink.fail(error);
        }
        if let Some(at) = spec.deadline {
            self.deadlines.insert(at, spec.key);
        }
        let live = Live {
            sink,
            sequences: vec![id],
            started: false,
            remaining: spec.n,
            cached_tokens: 0,
            admitted: None,
            prompt_logprobs: Vec::new(),
            outbox: Vec::new(),
            _ends: ends,
            spec,
        };
        self.requests.insert(live.spec.key, live);
    }

    /// A sequence for one choice, as long as the prompt.
    pub(super) fn sequence(&self, spec: &Arc<super::request::Spec>, choice: usize) -> Sequence {
        let seed = spec.sampling.seed.unwrap_or_else(|| {
            // A request without a seed gets one of its own, different in every engine.
            drawn_seed(self.seed, spec.key)
        });
        let mut tokens = Vec::with_capacity(spec.max_total.min(spec.prompt.len() + 256));
        tokens.extend_from_slice(&spec.prompt);
        let text = self.tokenizer.as_ref().map(|tokenizer| Text {
            decoder: IncrementalDecoder::new(
                tokenizer.clone(),
                spec.skip_special_tokens,
                &spec.prompt,
            ),
            stops: StopStrings::new(&spec.stop),
        });
        Sequence {
            request: spec.key,
            spec: spec.clone(),
            choice,
            tokens,
            sampler: Sampler::new(&spec.sampling, choice, seed),
            constrained: spec.grammar.clone().map(|grammar| {
                // The first choice computes the prompt, and has matchers made for the others.
                let others = if choice == 0 { spec.n - 1 } else { 0 };
                Box::new(Constrained::new(grammar, others))
            }),
            text,
            first_token: None,
            last_token: Time::ZERO,
            step: 0,
            jumped: 0,
            draft: Draft::default(),
        }
    }

    fn cancel(&mut self, key: u64) {
        let Some(live) = self.remove(key) else {
            return;
        };
        tracing::debug!(parent: &live.spec.span, "cancelled");
        self.stats.cancelled_requests += 1;
        self.end_sequences(&live, End::Done);
        live.sink.close();
    }

    /// Takes a request out, its deadline with it.
    pub(super) fn remove(&mut self, key: u64) -> Option<Live> {
        let live = self.requests.remove(&key)?;
        if let Some(at) = live.spec.deadline {
            self.deadlines.remove(at, key);
        }
        Some(live)
    }

    /// Ends a request with an error, in the commit that follows.
    pub(super) fn fail(&mut self, key: u64, error: Error) {
        let Some(live) = self.remove(key) else {
            return self.fail_prefix(key, error);
        };
        tracing::debug!(parent: &live.spec.span, kind = error.kind(), "failed");
        self.end_sequences(&live, End::Failed);
        self.instruments.failed(&error);
        self.stats.failed_requests += 1;
        self.buffers.done.push((live, Some(error)));
    }

    fn end_sequences(&mut self, live: &Live, end: End) {
        self.buffers
            .outcome
            .ended
            .extend(live.sequences.iter().map(|id| (*id, end)));
    }

    /// Finishes the requests whose deadline has passed, running or waiting.
    fn expire(&mut self) {
        let now = self.clock.now();
        while let Some(key) = self.deadlines.pop_expired(now) {
            let Some(mut live) = self.requests.remove(&key) else {
                continue;
            };
            self.end_sequences(&live, End::Done);
            if !live.started {
                let told = std::mem::take(&mut live.prompt_logprobs);
                live.outbox.push(Event::Started(Started {
                    prompt_ids: live.spec.prompt.clone(),
                    prompt_logprobs: live.spec.prompt_logprobs.map(|_| Arc::from(told)),
                }));
            }
            // A request that has not started has one sequence for all its choices.
            let mut ends = Vec::new();
            for id in &live.sequences {
                if let Some(mut sequence) = self.sequences.take(*id) {
                    let text = sequence.text.as_mut().map_or_else(String::new, Text::flush);
                    ends.push((
                        sequence.choice,
                        sequence.generated(),
                        sequence.first_token,
                        text,
                    ));
                    self.sequences.put_back(*id, sequence);
                }
            }
            if !live.started {
                ends.extend((1..live.spec.n).map(|index| (index, 0, None, String::new())));
            }
            for (index, generated, first, text) in ends {
                let usage = live.usage(generated);
                let timings = self.timings(&live, first, now);
                let inference = now.saturating_sub(live.admitted.unwrap_or(now));
                self.instruments
                    .choice_finished(&usage, &timings, inference);
                self.instruments.finished(&FinishReason::Deadline);
                live.outbox.push(Event::Finished(Finished {
                    index,
                    reason: FinishReason::Deadline,
                    text,
                    usage,
                    timings,
                }));
            }
            self.stats.finished_requests += 1;
            self.buffers.done.push((live, None));
        }
    }

    pub(super) fn timings(&self, live: &Live, first: Option<Time>, now: Time) -> Timings {
        let since = |at: Time| at.saturating_sub(live.spec.arrival);
        Timings {
            queue: since(live.admitted.unwrap_or(now)),
            time_to_first_token: since(first.unwrap_or(now)),
            latency: since(now),
        }
    }

    /// Commits what the outcome holds, then hands events over: whoever sees the end of a stream
    /// finds its blocks free and itself counted.
    pub(super) fn commit(&mut self) {
        self.phase = "scheduler";
        self.scheduler.commit(&self.buffers.outcome, &mut *self.kv);
        for (id, _) in &self.buffers.outcome.ended {
            self.sequences.remove(*id);
            if let Some(speculator) = &mut self.speculator {
                speculator.close(*id);
            }
        }
        self.buffers.outcome.clear();
        self.deliver_block_events();
        self.publish();
        self.phase = "engine";
        for key in self.buffers.touched.drain(..) {
            if let Some(live) = self.requests.get_mut(&key) {
                live.sink.send_all(&mut live.outbox);
            }
        }
        for (mut live, error) in self.buffers.done.drain(..) {
            live.sink.send_all(&mut live.outbox);
            match error {
                Some(error) => live.sink.fail(error),
                None => live.sink.close(),
            }
        }
    }

    fn deliver_block_events(&mut self) {
        self.phase = "block event listener";
        self.kv.take_events(&mut self.buffers.events);
        if let Some(listener) = &mut self.listener
            && !self.buffers.events.is_empty()
        {
            listener(&self.buffers.events);
        }
        self.buffers.events.clear();
    }

    /// Makes counters and levels visible.
    pub(super) fn publish(&mut self) {
        self.phase = "recorder";
        let kv = self.kv.stats();
        let counts = self.scheduler.counts();
        let stats = &mut self.stats;
        self.instruments.levels(&kv, &counts, stats);
        if let Some(speculator) = &self.speculator {
            stats.spec_failures = speculator.failed;
        }
        stats.preemptions = counts.preemptions;
        stats.running = counts.running;
        stats.waiting = counts.waiting;
        stats.prefix_query_tokens = kv.query_tokens;
        stats.prefix_hit_tokens = kv.hit_tokens;
        stats.kv_blocks_held = kv.held_blocks;
        stats.kv_blocks_peak = kv.peak_held_blocks;
        stats.kv_blocks_total = kv.total_blocks;
        stats.kv_blocks_pinned = kv.pinned_blocks;
        stats.kv_blocks_pinned_cached = kv.pinned_cached_blocks;
        stats.kv_waste_mean = if stats.steps == 0 {
            0.0
        } else {
            self.waste_sum / stats.steps as f64
        };
        *self.shared.stats.lock() = *stats;
    }
}

/// The seed of the `key`-th request of an engine (SplitMix64's finaliser).
fn drawn_seed(engine: u64, key: u64) -> u64 {
    let mut z = engine.wrapping_add(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NoTokens => Error::InvalidRequest {
            field: "prompt",
            reason: refusal.to_string(),
        },
        Refusal::NeverFits { .. } => Error::InvalidRequest {
            field: "prompt",
            reason: format!("{refusal}: shorten it or give the engine more KV blocks"),
        },
        Refusal::ExceedsBudget { .. } => Error::InvalidRequest {
            field: "prompt",
            reason: format!("{refusal}: shorten it, or allow chunks"),
        },
        Refusal::TooManyChoices { .. } => Error::InvalidRequest {
            field: "n",
            reason: refusal.to_string(),
        },
        Refusal::QueueFull {
            waiting,
            limit,
            retry_after,
        } => Error::Overloaded {
            waiting,
            limit,
            unit: "requests",
            retry_after,
        },
        Refusal::QueueTokensFull {
            tokens,
            limit,
            retry_after,
        } => Error::Overloaded {
            waiting: tokens,
            limit,
            unit: "prompt tokens",
            retry_after,
        },
        Refusal::ShareFull {
            waiting,
            limit,
            unit,
            retry_after,
        } => Error::Overloaded {
            waiting,
            limit,
            unit,
            retry_after,
        },
        Refusal::PolicyPanicked { message } => Error::Panicked {
            part: "scheduling policy",
            message,
        },
        Refusal::Duplicate(_) => Error::InvalidRequest {
            field: "id",
            reason: refusal.to_string(),
        },
    }
}
