//! The engine's metrics: vLLM's names, with the prefix `llmserve_`, labelled by model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::EngineStats;
use super::request::Spec;
use crate::contract::clock::Time;
use crate::contract::kv::KvStats;
use crate::contract::proposer::Verified;
use crate::contract::scheduler::SchedulerCounts;
use crate::error::Error;
use crate::event::{FinishReason, Timings, Usage};
use crate::metrics::{Counter, Gauge, Histogram, Recorder};

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0,
];

pub(super) struct Instruments {
    recorder: Arc<dyn Recorder>,
    model: String,
    running: Arc<dyn Gauge>,
    waiting: Arc<dyn Gauge>,
    kv_usage: Arc<dyn Gauge>,
    kv_pinned: Arc<dyn Gauge>,
    prefix_queries: Arc<dyn Counter>,
    prefix_hits: Arc<dyn Counter>,
    preemptions: Arc<dyn Counter>,
    prompt_tokens: Arc<dyn Counter>,
    generation_tokens: Arc<dyn Counter>,
    generation_tokens_seen: u64,
    success: [(&'static str, Arc<dyn Counter>); 3],
    errors: HashMap<&'static str, Arc<dyn Counter>>,
    time_to_first_token: Arc<dyn Histogram>,
    inter_token_latency: Arc<dyn Histogram>,
    e2e_latency: Arc<dyn Histogram>,
    queue_time: Arc<dyn Histogram>,
    prefill_time: Arc<dyn Histogram>,
    decode_time: Arc<dyn Histogram>,
    inference_time: Arc<dyn Histogram>,
    request_prompt_tokens: Arc<dyn Histogram>,
    request_generation_tokens: Arc<dyn Histogram>,
    iteration_tokens: Arc<dyn Histogram>,
    speculation: Option<SpeculationInstruments>,
}

/// vLLM's counters of speculation.
struct SpeculationInstruments {
    drafts: Arc<dyn Counter>,
    draft_tokens: Arc<dyn Counter>,
    accepted_tokens: Arc<dyn Counter>,
    /// Made as positions are first accepted.
    accepted_per_pos: Vec<Arc<dyn Counter>>,
    depth: Arc<dyn Gauge>,
}

impl Instruments {
    pub(super) fn new(recorder: Arc<dyn Recorder>, model: &str) -> Self {
        let labels = &[("model", model)][..];
        let counter = |name, help| recorder.counter(name, help, labels);
        let gauge = |name, help| recorder.gauge(name, help, labels);
        let seconds = |name, help| recorder.histogram(name, help, SECONDS, labels);
        let tokens = |name, help| recorder.histogram(name, help, TOKENS, labels);
        let success = |reason| {
            let labels = &[("model", model), ("finished_reason", reason)];
            let help = "Choices that finished, by reason.";
            (
                reason,
                recorder.counter("llmserve_request_success_total", help, labels),
            )
        };
        Self {
            running: gauge("llmserve_num_requests_running", "Sequences in the batch."),
            waiting: gauge("llmserve_num_requests_waiting", "Sequences waiting."),
            kv_usage: gauge(
                "llmserve_kv_cache_usage_ratio",
                "KV blocks held, of all, 0 to 1.",
            ),
            kv_pinned: gauge(
                "llmserve_kv_blocks_pinned",
                "KV blocks that prefixes kept name.",
            ),
            prefix_queries: counter(
                "llmserve_prefix_cache_queries_total",
                "Prompt tokens looked up in the prefix cache.",
            ),
            prefix_hits: counter(
                "llmserve_prefix_cache_hits_total",
                "Prompt tokens found in the prefix cache.",
            ),
            preemptions: counter("llmserve_num_preemptions_total", "Preemptions."),
            prompt_tokens: counter("llmserve_prompt_tokens_total", "Prompt tokens admitted."),
            generation_tokens: counter("llmserve_generation_tokens_total", "Tokens generated."),
            generation_tokens_seen: 0,
            success: [success("stop"), success("length"), success("deadline")],
            errors: HashMap::new(),
            time_to_first_token: seconds(
                "llmserve_time_to_first_token_seconds",
                "From the call to a choice's first token.",
            ),
            inter_token_latency: seconds(
                "llmserve_inter_token_latency_seconds",
                "Between two tokens of a choice.",
            ),
            e2e_latency: seconds(
                "llmserve_e2e_request_latency_seconds",
                "From the call to a choice's end.",
            ),
            queue_time: seconds(
                "llmserve_request_queue_time_seconds",
                "From the call to the first step.",
            ),
            prefill_time: seconds(
                "llmserve_request_prefill_time_seconds",
                "From the first step to the first token.",
            ),
            decode_time: seconds(
                "llmserve_request_decode_time_seconds",
                "From a choice's first token to its end.",
            ),
            inference_time: seconds(
                "llmserve_request_inference_time_seconds",
                "From the first step to a choice's end.",
            ),
            request_prompt_tokens: tokens("llmserve_request_prompt_tokens", "Prompt lengths."),
            request_generation_tokens: tokens(
                "llmserve_request_generation_tokens",
                "Tokens generated per choice.",
            ),
            iteration_tokens: tokens("llmserve_iteration_tokens_total", "Tokens per step."),
            speculation: None,
            model: model.to_owned(),
            recorder,
        }
    }

    /// Adds the instruments of an engine that speculates.
    pub(super) fn speculate(&mut self) {
        let labels = &[("model", self.model.as_str())][..];
        let counter = |name, help| self.recorder.counter(name, help, labels);
        self.speculation = Some(SpeculationInstruments {
            drafts: counter(
                "llmserve_spec_decode_num_drafts_total",
                "Rows that had drafts.",
            ),
            draft_tokens: counter(
                "llmserve_spec_decode_num_draft_tokens_total",
                "Drafts verified.",
            ),
            accepted_tokens: counter(
                "llmserve_spec_decode_num_accepted_tokens_total",
                "Drafts accepted.",
            ),
            accepted_per_pos: Vec::new(),
            depth: self.recorder.gauge(
                "llmserve_spec_decode_depth",
                "Drafts asked for, of a sequence that could have some, in the last step; 0 while off.",
                labels,
            ),
        });
    }

    /// What became of one row's drafts.
    pub(super) fn verified(&mut self, verified: &Verified) {
        let Some(speculation) = &mut self.speculation else {
            return;
        };
        speculation.drafts.add(1);
        speculation.draft_tokens.add(verified.drafted as u64);
        speculation.accepted_tokens.add(verified.accepted as u64);
        for position in speculation.accepted_per_pos.len()..verified.accepted {
            let counter = self.recorder.counter(
                "llmserve_spec_decode_num_accepted_tokens_per_pos_total",
                "Drafts accepted, by their place in their row.",
                &[
                    ("model", self.model.as_str()),
                    ("position", &position.to_string()),
                ],
            );
            speculation.accepted_per_pos.push(counter);
        }
        for counter in &speculation.accepted_per_pos[..verified.accepted] {
            counter.add(1);
        }
    }

    /// The mean depth chosen for a step.
    pub(super) fn depth(&self, depth: f64) {
        if let Some(speculation) = &self.speculation {
            speculation.depth.set(depth);
        }
    }

    pub(super) fn admitted(&self, spec: &Spec, now: Time) {
        self.prompt_tokens.add(spec.prompt.len() as u64);
        self.request_prompt_tokens.record(spec.prompt.len() as f64);
        self.queue_time
            .record(now.saturating_sub(spec.arrival).as_secs_f64());
    }

    pub(super) fn first_token(&self, spec: &Spec, now: Time) {
        self.time_to_first_token
            .record(now.saturating_sub(spec.arrival).as_secs_f64());
    }

    pub(super) fn next_token(&self, after: Duration) {
        self.inter_token_latency.record(after.as_secs_f64());
    }

    pub(super) fn choice_finished(&self, usage: &Usage, timings: &Timings, inference: Duration) {
        let Timings {
            queue,
            time_to_first_token,
            latency,
        } = *timings;
        self.e2e_latency.record(latency.as_secs_f64());
        self.prefill_time
            .record(time_to_first_token.saturating_sub(queue).as_secs_f64());
        self.decode_time
            .record(latency.saturating_sub(time_to_first_token).as_secs_f64());
        self.inference_time.record(inference.as_secs_f64());
        self.request_generation_tokens
            .record(usage.completion_tokens as f64);
    }

    pub(super) fn finished(&self, reason: &FinishReason) {
        if let Some((_, counter)) = self.success.iter().find(|(r, _)| *r == reason.as_str()) {
            counter.add(1);
        }
    }

    pub(super) fn failed(&mut self, error: &Error) {
        let kind = error.kind();
        let Self {
            errors,
            recorder,
            model,
            ..
        } = self;
        let counter = errors.entry(kind).or_insert_with(|| {
            recorder.counter(
                "llmserve_request_errors_total",
                "Requests that ended with an error, by kind.",
                &[("model", model), ("kind", kind)],
            )
        });
        counter.add(1);
    }

    pub(super) fn step(&self, tokens: usize) {
        self.iteration_tokens.record(tokens as f64);
    }

    /// Sets gauges, and adds to counters what came since `last`.
    pub(super) fn levels(&mut self, kv: &KvStats, counts: &SchedulerCounts, last: &EngineStats) {
        self.running.set(counts.running as f64);
        self.waiting.set(counts.waiting as f64);
        self.kv_usage
            .set(kv.held_blocks as f64 / kv.total_blocks.max(1) as f64);
        self.kv_pinned.set(kv.pinned_blocks as f64);
        self.prefix_queries
            .add(kv.query_tokens.saturating_sub(last.prefix_query_tokens));
        self.prefix_hits
            .add(kv.hit_tokens.saturating_sub(last.prefix_hit_tokens));
        self.preemptions
            .add(counts.preemptions.saturating_sub(last.preemptions));
        let new = last.generation_tokens - self.generation_tokens_seen;
        self.generation_tokens.add(new);
        self.generation_tokens_seen = last.generation_tokens;
    }
}
