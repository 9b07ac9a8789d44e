//! What one group of senders asks for.

use llmserve_core::Time;

use super::arrivals::Arrivals;
use super::lengths::Lengths;

/// Requests of one kind: a tenant, a class of priority, a batch job. A simulation merges as many
/// as it is given.
///
/// ```
/// use std::time::Duration;
/// use llmserve_sched::simulation::{Arrivals, Lengths, Prefixes, Traffic};
/// let chats = Traffic {
///     requests: 5_000,
///     arrivals: Arrivals::Poisson { per_second: 12.0 },
///     prompt: Lengths::LogNormal { mean: 150.0, sigma: 0.8, max: 4096 },
///     tenant: Some("chat".to_owned()),
///     deadline: Some(Duration::from_secs(30)),
///     // Three system prompts of 512 tokens, before four in five prompts.
///     prefixes: Some(Prefixes { count: 3, tokens: 512, share: 0.8 }),
///     ..Traffic::default()
/// };
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// How many. Default 1,000.
    pub requests: u64,
    /// When the first may come. Default 0.
    #[serde(with = "super::seconds")]
    pub start: Time,
    /// When they come, from then on. Default: a Poisson process of 10 a second.
    pub arrivals: Arrivals,
    /// Tokens of a prompt, a shared prefix aside. Default: log-normal around 200, sigma 1, at most
    /// 8,192.
    pub prompt: Lengths,
    /// Tokens generated. Default: geometric around 100, at most 4,096.
    pub output: Lengths,
    /// Most tokens each says it may generate, which is all a scheduler knows; longer answers are
    /// cut. Default none: each says what it will generate.
    pub max_tokens: Option<usize>,
    /// Who asks. Default nobody in particular.
    pub tenant: Option<String>,
    /// Lower is sooner. Default 0.
    pub priority: i32,
    /// How long after its arrival an answer is worthless. Default none.
    #[serde(with = "super::seconds::option")]
    pub deadline: Option<Time>,
    /// How many give up, and when. Default nobody.
    pub cancels: Option<Cancels>,
    /// What prompts begin with. Default: nothing is shared.
    pub prefixes: Option<Prefixes>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            requests: 1000,
            start: Time::ZERO,
            arrivals: Arrivals::Poisson { per_second: 10.0 },
            prompt: Lengths::LogNormal {
                mean: 200.0,
                sigma: 1.0,
                max: 8192,
            },
            output: Lengths::Geometric {
                mean: 100.0,
                max: 4096,
            },
            max_tokens: None,
            tenant: None,
            priority: 0,
            deadline: None,
            cancels: None,
            prefixes: None,
        }
    }
}

/// Senders that give up.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancels {
    /// How many of all, `0.0..=1.0`.
    pub share: f64,
    /// How long they wait in the mean; exponentially distributed.
    #[serde(with = "super::seconds")]
    pub after: Time,
}

/// Beginnings that prompts share: system prompts, few-shot examples. They come before the prompt's
/// own tokens.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// How many there are, each as likely as any other; at least 1. Traffics do not share theirs.
    pub count: u32,
    /// Tokens of each; at least 1.
    pub tokens: usize,
    /// How many of all prompts begin with one, `0.0..=1.0`.
    pub share: f64,
}

impl Traffic {
    /// What is wrong with it.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let share = |share: f64| !(0.0..=1.0).contains(&share);
        if self.cancels.is_some_and(|cancels| share(cancels.share)) {
            return Some("cancels: the share is not within 0 and 1");
        }
        if let Some(prefixes) = self.prefixes {
            if share(prefixes.share) {
                return Some("prefixes: the share is not within 0 and 1");
            }
            if prefixes.count == 0 || !(1..=1 << 24).contains(&prefixes.tokens) {
                return Some("prefixes: there are none, or not within 1 and 2^24 tokens");
            }
        }
        if self.max_tokens == Some(0) {
            return Some("max_tokens is 0");
        }
        let lengths = self.prompt.fault().or_else(|| self.output.fault());
        self.arrivals.fault().or(lengths)
    }
}
