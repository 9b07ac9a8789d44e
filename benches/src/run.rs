//! The steps of one run, by phase.

use crate::{Step, Work};

/// The steps that served some requests, all submitted at once.
#[derive(Clone, Debug)]
pub struct Run {
    /// How many requests.
    pub batch: usize,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Seconds until every request had its first token, as their streams tell.
    pub first_token: f64,
    /// Seconds until the last request was finished, as their streams tell.
    pub latency: f64,
}

impl Run {
    /// From the first step to the end of the last, in seconds.
    pub fn seconds(&self) -> f64 {
        match (self.steps.first(), self.steps.last()) {
            (Some(first), Some(last)) => (last.ended - first.began).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// All steps, each with its seconds: until the next one begins; the last of all until it ends.
    pub fn all(&self) -> impl Iterator<Item = (&Step, f64)> {
        self.steps.iter().enumerate().map(|(index, step)| {
            let end = self.steps.get(index + 1).map_or(step.ended, |s| s.began);
            (step, (end - step.began).as_secs_f64())
        })
    }

    /// The steps up to the last one with a prompt in it, which decode for others, too.
    pub fn prefill(&self) -> impl Iterator<Item = (&Step, f64)> {
        self.all().take(self.prefill_steps())
    }

    /// The steps that decode for all requests and nothing else.
    pub fn decode(&self) -> impl Iterator<Item = (&Step, f64)> {
        self.all()
            .skip(self.prefill_steps())
            .filter(|(step, _)| step.rows == self.batch)
    }

    /// All steps after those of [`prefill`](Self::prefill).
    pub fn rest(&self) -> impl Iterator<Item = (&Step, f64)> {
        self.all().skip(self.prefill_steps())
    }

    fn prefill_steps(&self) -> usize {
        let last = self.steps.iter().rposition(|step| !step.is_decode());
        last.map_or(0, |last| last + 1)
    }
}

/// The sum of some steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    /// Time they took, the engine's own share included.
    pub seconds: f64,
    /// How many.
    pub steps: usize,
    /// Tokens computed.
    pub tokens: usize,
    /// What was read and computed.
    pub work: Work,
    /// The least time for it: each step's longer of reading and computing.
    pub least_seconds: f64,
}

impl Phase {
    /// Tokens a second; 0 without steps, as all figures.
    pub fn tokens_per_second(&self) -> f64 {
        self.share(self.tokens as f64)
    }

    /// Bytes read a second, in 10⁹.
    pub fn gb_s(&self) -> f64 {
        self.share(self.work.bytes) / 1e9
    }

    /// Operations a second, in 10⁹, those of attention included.
    pub fn gflop_s(&self) -> f64 {
        self.share(self.work.flops()) / 1e9
    }

    /// The least time over the time taken. Above 1 where a cache kept what is counted as read.
    pub fn ceiling_share(&self) -> f64 {
        self.share(self.least_seconds)
    }

    /// Operations for each byte read.
    pub fn intensity(&self) -> f64 {
        if self.work.bytes > 0.0 {
            self.work.flops() / self.work.bytes
        } else {
            0.0
        }
    }

    /// Milliseconds of a step.
    pub fn step_ms(&self) -> f64 {
        self.seconds * 1e3 / self.steps.max(1) as f64
    }

    fn share(&self, amount: f64) -> f64 {
        if self.seconds > 0.0 {
            amount / self.seconds
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn phases_are_cut_after_the_last_prompt_and_decode_is_of_the_full_batch() {
        let began = Instant::now();
        let step = |at: u64, rows, tokens| Step {
            began: began + Duration::from_secs(at),
            ended: began + Duration::from_secs(at + 1),
            inside: Duration::from_secs(1),
            rows,
            tokens,
            logits: rows,
            context: 0,
            visible: 0,
        };
        // A prompt, a token beside a prompt, two tokens twice, and a straggler.
        let steps = vec![
            step(0, 1, 8),
            step(2, 1, 1),
            step(4, 2, 9),
            step(6, 2, 2),
            step(9, 2, 2),
            step(11, 1, 1),
        ];
        let run = Run {
            batch: 2,
            steps,
            first_token: 0.0,
            latency: 0.0,
        };
        let seconds = |steps: Vec<(&Step, f64)>| steps.iter().map(|s| s.1).collect::<Vec<_>>();
        assert_eq!(seconds(run.prefill().collect()), [2.0, 2.0, 2.0]);
        assert_eq!(seconds(run.decode().collect()), [3.0, 2.0]);
        assert_eq!(run.seconds(), 12.0);
        let whole = Run {
            batch: 1,
            ..run.clone()
        };
        assert_eq!(seconds(whole.decode().collect()), [1.0]);
    }
}
