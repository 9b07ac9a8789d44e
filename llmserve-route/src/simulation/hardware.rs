//! What a replica can do, in numbers.

use std::time::Duration;

/// How fast a replica is and how much it remembers.
///
/// A step computes prompt tokens, at most a chunk of them, and one token for every answer that is
/// being generated. It takes `decode_ms + row_ms × answers` where there are answers, and
/// `prompt tokens / prefill_tokens_per_s` more. Prompts are computed first come, first served.
///
/// | field | default |
/// | --- | --- |
/// | `prefill_tokens_per_s` | 8,000 |
/// | `chunk_tokens` | 2,048 |
/// | `decode_ms`, `row_ms` | 6 and 0.35 |
/// | `kv_tokens` | 524,288 |
/// | `block_tokens` | 16 |
/// | `max_sequences` | 256 |
///
/// ```
/// use llmserve_route::simulation::ReplicaModel;
/// let twice = ReplicaModel { kv_tokens: 1 << 20, ..ReplicaModel::default() };
/// assert_eq!(twice.step_time(0, 100).as_millis(), 6 + 35);
/// assert_eq!(twice.step_time(2_000, 0).as_millis(), 250);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaModel {
    /// Prompt tokens computed in a second; above 0.
    pub prefill_tokens_per_s: f64,
    /// Most prompt tokens a step computes; at least 1.
    pub chunk_tokens: usize,
    /// Milliseconds of a step in which answers grow; at least 0.
    pub decode_ms: f64,
    /// Milliseconds more for each of those answers; at least 0.
    pub row_ms: f64,
    /// Tokens whose KV fits, of running requests and cached ones; at least one block.
    pub kv_tokens: usize,
    /// Tokens of a KV block; at least 1.
    pub block_tokens: usize,
    /// Most requests that run at once; at least 1. The others wait.
    pub max_sequences: usize,
}

impl Default for ReplicaModel {
    fn default() -> Self {
        Self {
            prefill_tokens_per_s: 8_000.0,
            chunk_tokens: 2_048,
            decode_ms: 6.0,
            row_ms: 0.35,
            kv_tokens: 524_288,
            block_tokens: 16,
            max_sequences: 256,
        }
    }
}

impl ReplicaModel {
    /// How long a step takes that computes `prompt_tokens` and one token for each of `answers`.
    pub fn step_time(&self, prompt_tokens: usize, answers: usize) -> Duration {
        let decode = match answers {
            0 => 0.0,
            answers => self.decode_ms + self.row_ms * answers as f64,
        };
        let prefill = prompt_tokens as f64 / self.prefill_tokens_per_s;
        Duration::try_from_secs_f64(decode / 1e3 + prefill).unwrap_or(Duration::MAX)
    }

    /// KV blocks there are.
    pub fn blocks(&self) -> usize {
        self.kv_tokens / self.block_tokens.max(1)
    }

    /// What is wrong with the numbers.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let time = |ms: f64| (0.0..=86_400_000.0).contains(&ms);
        if !(0.001..=1e12).contains(&self.prefill_tokens_per_s) {
            Some("prefill_tokens_per_s must be within 0.001 and 1e12")
        } else if !time(self.decode_ms) || !time(self.row_ms) {
            Some("decode_ms and row_ms must be at least 0 and at most a day")
        } else if self.decode_ms + self.row_ms <= 0.0 {
            Some("decode_ms and row_ms are both 0, so that an answer would take no time")
        } else if self.chunk_tokens == 0 || self.block_tokens == 0 || self.max_sequences == 0 {
            Some("chunk_tokens, block_tokens and max_sequences must be at least 1")
        } else if self.blocks() == 0 || self.blocks() > u32::MAX as usize / 2 {
            Some("kv_tokens must be at least one block, and at most two thousand million")
        } else {
            None
        }
    }
}
