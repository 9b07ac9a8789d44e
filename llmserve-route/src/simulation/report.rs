//! What a simulation tells in the end.

use std::time::Duration;

/// How requests fared under a policy. All times are virtual.
///
/// Plain data: it reads and writes itself with serde, and equals that of another run of the same
/// simulation with the same policy.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Requests that finished and were counted.
    pub requests: u64,
    /// Requests nobody took: longer than a replica's KV, or refused by the policy.
    pub refused: u64,
    /// Over which they finished, in seconds.
    pub seconds: f64,
    /// From sending to the first token, in milliseconds, in the mean.
    pub mean_ttft_ms: f64,
    /// Half had their first token no later.
    pub p50_ttft_ms: f64,
    /// 99 of a hundred had it no later.
    pub p99_ttft_ms: f64,
    /// Requests finished in a second.
    pub throughput_rps: f64,
    /// Of the prompts' tokens, those found in the cache; 0 to 1.
    pub hit_rate: f64,
    /// Requests of the replica that has most at the moment over the mean of all replicas, seen at
    /// each dispatch and averaged: 1 is even.
    pub imbalance: f64,
    /// Times to first token: the least, the 100-quantiles, and the greatest, in milliseconds.
    pub ttft_quantiles_ms: Vec<f64>,
    /// What each replica did.
    pub replicas: Vec<ReplicaReport>,
    /// How it went over time: at most 128 samples, each of as many finished requests.
    pub timeline: Vec<Sample>,
}

/// What one replica did.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct ReplicaReport {
    /// Requests that finished there and were counted.
    pub requests: u64,
    /// See [`Report::hit_rate`].
    pub hit_rate: f64,
}

/// Some time of a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// When it ended, in seconds since counting began.
    pub seconds: f64,
    /// Requests finished in a second.
    pub throughput_rps: f64,
    /// See [`Report::mean_ttft_ms`].
    pub mean_ttft_ms: f64,
    /// See [`Report::hit_rate`].
    pub hit_rate: f64,
}

/// Samples of a timeline.
const SAMPLES: usize = 128;

/// What is kept of a finished request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) at: Duration,
    pub(super) ttft: Duration,
    pub(super) prompt: usize,
    pub(super) cached: usize,
    pub(super) replica: usize,
}

/// Counts what a report is made of.
#[derive(Debug)]
pub(super) struct Meters {
    /// Requests that finish before counting begins.
    warm_up: u64,
    /// When the last of those finished.
    began: Duration,
    pub(super) refused: u64,
    finished: Vec<Finished>,
    replicas: usize,
    /// Sum and number of what was seen at dispatches.
    imbalance: (f64, u64),
}

impl Meters {
    pub(super) fn new(warm_up: u64, replicas: usize) -> Self {
        Self {
            warm_up,
            began: Duration::ZERO,
            refused: 0,
            finished: Vec::new(),
            replicas,
            imbalance: (0.0, 0),
        }
    }

    pub(super) fn counted(&self) -> u64 {
        self.finished.len() as u64
    }

    pub(super) fn finished(&mut self, request: Finished) {
        if self.warm_up > 0 {
            self.warm_up -= 1;
            self.began = request.at;
        } else {
            self.finished.push(request);
        }
    }

    /// A request was dispatched; these are all replicas' loads with it.
    pub(super) fn dispatched(&mut self, loads: &[usize]) {
        let (most, sum) = (loads.iter().max(), loads.iter().sum::<usize>());
        if self.warm_up == 0
            && let Some(most) = most
            && sum > 0
        {
            self.imbalance.0 += *most as f64 * loads.len() as f64 / sum as f64;
            self.imbalance.1 += 1;
        }
    }

    pub(super) fn report(self) -> Report {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let all = &self.finished;
        let mut ttfts: Vec<Duration> = all.iter().map(|request| request.ttft).collect();
        ttfts.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (percent * ttfts.len()).div_ceil(100).max(1);
            ttfts.get(rank - 1).copied().map_or(0.0, ms)
        };
        let end = all.last().map_or(self.began, |last| last.at);
        let replicas = (0..self.replicas).map(|replica| {
            let mine = all.iter().filter(|request| request.replica == replica);
            ReplicaReport {
                requests: mine.clone().count() as u64,
                hit_rate: hit_rate(mine),
            }
        });
        let mut before = self.began;
        let chunk = all.len().div_ceil(SAMPLES).max(1);
        let timeline = all.chunks(chunk).map(|chunk| {
            let end = chunk.last().map_or(before, |last| last.at);
            let took = end.saturating_sub(std::mem::replace(&mut before, end));
            Sample {
                seconds: end.saturating_sub(self.began).as_secs_f64(),
                throughput_rps: rate(chunk.len(), took),
                mean_ttft_ms: mean(chunk.iter().map(|request| ms(request.ttft))),
                hit_rate: hit_rate(chunk.iter()),
            }
        });
        let seconds = end.saturating_sub(self.began);
        Report {
            requests: all.len() as u64,
            refused: self.refused,
            seconds: seconds.as_secs_f64(),
            mean_ttft_ms: mean(all.iter().map(|request| ms(request.ttft))),
            p50_ttft_ms: quantile(50),
            p99_ttft_ms: quantile(99),
            throughput_rps: rate(all.len(), seconds),
            hit_rate: hit_rate(all.iter()),
            imbalance: self.imbalance.0 / self.imbalance.1.max(1) as f64,
            ttft_quantiles_ms: (0..=100).map(quantile).collect(),
            replicas: replicas.collect(),
            timeline: timeline.collect(),
        }
    }
}

fn rate(count: usize, over: Duration) -> f64 {
    match over.as_secs_f64() {
        0.0 => 0.0,
        seconds => count as f64 / seconds,
    }
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len().max(1);
    numbers.sum::<f64>() / count as f64
}

fn hit_rate<'a>(requests: impl Iterator<Item = &'a Finished>) -> f64 {
    let (mut prompt, mut cached) = (0, 0);
    for request in requests {
        prompt += request.prompt;
        cached += request.cached;
    }
    cached as f64 / prompt.max(1) as f64
}
