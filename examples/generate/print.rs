//! What is printed.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use llmserve::prelude::*;
use llmserve::{EngineStats, TokenLogprobs};
use serde_json::{Value, json};

/// A finished choice as one JSON object.
pub fn choice_json(id: &Value, index: usize, response: &Response, has_text: bool) -> Value {
    let choice = &response.choices[index];
    let logprobs = (!choice.logprobs.is_empty())
        .then(|| choice.logprobs.iter().map(logprob_json).collect::<Vec<_>>());
    json!({
        "id": id,
        "index": index,
        "prompt_ids": &*response.started.prompt_ids,
        "output_ids": choice.ids,
        "text": has_text.then_some(&choice.text),
        "finish_reason": choice.reason.as_ref().map(FinishReason::as_str),
        "usage": choice.usage,
        "logprobs": logprobs,
        "ttft_ms": millis(choice.timings.time_to_first_token),
        "latency_ms": millis(choice.timings.latency),
    })
}

fn logprob_json(token: &TokenLogprobs) -> Value {
    json!({ "id": token.id, "logprob": token.logprob, "top": token.top })
}

/// An error as one JSON object.
pub fn error_json(id: &Value, error: &Error) -> Value {
    json!({ "id": id, "error": { "kind": error.kind(), "message": error.to_string() } })
}

/// A finished choice as text.
pub fn choice(
    out: &mut impl Write,
    id: &Value,
    index: usize,
    response: &Response,
) -> io::Result<()> {
    let choice = &response.choices[index];
    writeln!(out, "--- request {id}, choice {index}")?;
    if choice.text.is_empty() {
        writeln!(out, "{:?}", choice.ids)
    } else {
        writeln!(out, "{}", choice.text)
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What the run came to.
pub struct Summary<'a> {
    stats: &'a EngineStats,
    failed: usize,
    elapsed: Duration,
}

impl<'a> Summary<'a> {
    pub fn new(stats: &'a EngineStats, failed: usize, elapsed: Duration) -> Self {
        Self {
            stats,
            failed,
            elapsed,
        }
    }

    fn tokens_per_second(&self) -> f64 {
        self.stats.generation_tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn peak_kv_usage(&self) -> f64 {
        self.stats.kv_blocks_peak as f64 / self.stats.kv_blocks_total.max(1) as f64
    }

    /// What speculation came to: null where nothing was drafted.
    fn spec(&self) -> Value {
        let stats = self.stats;
        if stats.spec_drafts == 0 {
            return Value::Null;
        }
        let mut accepted = stats.spec_accepted_per_pos.iter();
        let last = accepted.rposition(|count| *count > 0);
        let positions = last.map_or(0, |at| at + 1);
        json!({
            "drafts": stats.spec_drafts,
            "draft_tokens": stats.spec_draft_tokens,
            "accepted": stats.spec_accepted_tokens,
            "accepted_per_pos": stats.spec_accepted_per_pos[..positions],
        })
    }

    pub fn json(&self) -> Value {
        let stats = self.stats;
        json!({
            "summary": true,
            "requests": stats.finished_requests as usize + self.failed,
            "failed": self.failed,
            "prompt_tokens": stats.prompt_tokens,
            "output_tokens": stats.generation_tokens,
            "forced_tokens": stats.forced_tokens,
            "seconds": self.elapsed.as_secs_f64(),
            "tokens_per_s": self.tokens_per_second(),
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "prefix_query_tokens": stats.prefix_query_tokens,
            "prefix_hit_tokens": stats.prefix_hit_tokens,
            "peak_kv_blocks": stats.kv_blocks_peak,
            "kv_blocks": stats.kv_blocks_total,
            "peak_kv_usage": self.peak_kv_usage(),
            "kv_waste": stats.kv_waste_mean,
            "spec": self.spec(),
        })
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats;
        write!(
            f,
            "{} tokens in {:.2} s ({:.0} tokens/s), {} prompt tokens ({} cached), \
             {} preemptions, KV peak {} of {} blocks",
            stats.generation_tokens,
            self.elapsed.as_secs_f64(),
            self.tokens_per_second(),
            stats.prompt_tokens,
            stats.prefix_hit_tokens,
            stats.preemptions,
            stats.kv_blocks_peak,
            stats.kv_blocks_total,
        )?;
        if stats.spec_drafts > 0 {
            write!(
                f,
                ", {} of {} drafts accepted",
                stats.spec_accepted_tokens, stats.spec_draft_tokens
            )?;
        }
        Ok(())
    }
}
