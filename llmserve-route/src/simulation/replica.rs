//! One replica: a queue, a batch, and the cache.

use std::collections::VecDeque;
use std::time::Duration;

use llmserve_core::{BlockEvent, BlockIdentity};

use super::cache::{Blocks, Cache};
use super::hardware::ReplicaModel;

/// A request at a replica, with what its host wants to know again.
#[derive(Debug)]
pub(super) struct Job<T> {
    /// Of prompt and answer.
    pub(super) chain: Vec<BlockIdentity>,
    pub(super) prompt: usize,
    pub(super) answer: usize,
    pub(super) host: T,
}

#[derive(Debug)]
struct Running<T> {
    job: Job<T>,
    blocks: Blocks,
    /// Prompt tokens there are.
    computed: usize,
    /// Prompt tokens of the step at hand; 0 for one that generates.
    computing: usize,
    cached: usize,
    generated: usize,
}

/// What a step has brought.
pub(super) enum Progress<'a, T> {
    /// A request's first token; so many tokens of its prompt were cached.
    First(&'a mut T, usize),
    /// A request's last one.
    Last(T),
}

/// A replica in virtual time: steps follow one another while there is something to do.
#[derive(Debug)]
pub(super) struct SimReplica<T> {
    model: ReplicaModel,
    cache: Cache,
    queue: VecDeque<Job<T>>,
    running: Vec<Running<T>>,
    stepping: bool,
}

impl<T> SimReplica<T> {
    pub(super) fn new(model: ReplicaModel) -> Self {
        Self {
            cache: Cache::new(model.blocks()),
            model,
            queue: VecDeque::new(),
            running: Vec::new(),
            stepping: false,
        }
    }

    /// Whether a request of so many tokens could ever run.
    pub(super) fn takes(&self, prompt: usize, answer: usize) -> bool {
        let tokens = prompt.saturating_add(answer);
        tokens.div_ceil(self.model.block_tokens) <= self.model.blocks()
    }

    /// One more waits.
    pub(super) fn push(&mut self, job: Job<T>) {
        self.queue.push_back(job);
    }

    /// Begins a step, if none runs and there is something to do; how long it takes.
    pub(super) fn begin(&mut self) -> Option<Duration> {
        if self.stepping {
            return None;
        }
        self.admit();
        let (mut left, mut rows) = (self.model.chunk_tokens, 0);
        for running in &mut self.running {
            running.computing = left.min(running.job.prompt - running.computed);
            left -= running.computing;
            rows += usize::from(running.generated > 0);
        }
        let prefill = self.model.chunk_tokens - left;
        self.stepping = prefill + rows > 0;
        self.stepping.then(|| self.model.step_time(prefill, rows))
    }

    /// Takes in who comes first, as long as there is room for all of prompt and answer: so nothing
    /// that runs has to give way.
    fn admit(&mut self) {
        while self.running.len() < self.model.max_sequences
            && let Some(job) = self.queue.front()
        {
            let block = self.model.block_tokens;
            // The last token is computed in any case: the first token of the answer follows it.
            let most = (job.prompt - 1) / block;
            let total = (job.prompt + job.answer).div_ceil(block);
            let Some(blocks) = self.cache.open(&job.chain, most, total) else {
                return;
            };
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            let cached = blocks.computed() * block;
            self.running.push(Running {
                job,
                blocks,
                computed: cached,
                computing: 0,
                cached,
                generated: 0,
            });
        }
    }

    /// The step ends.
    pub(super) fn end(&mut self, mut each: impl FnMut(Progress<'_, T>)) {
        self.stepping = false;
        let block = self.model.block_tokens;
        let cache = &mut self.cache;
        let store = |cache: &mut Cache, running: &mut Running<T>, tokens: usize| {
            let full = (tokens / block).min(running.job.chain.len());
            while running.blocks.computed() < full {
                let identity = running.job.chain[running.blocks.computed()];
                cache.computed(&mut running.blocks, identity);
            }
        };
        let mut ended = Vec::new();
        for (at, running) in self.running.iter_mut().enumerate() {
            if running.generated > 0 {
                running.generated += 1;
            } else if running.computing > 0 {
                running.computed += running.computing;
                let computed = running.computed;
                store(cache, running, computed);
                if computed == running.job.prompt {
                    running.generated = 1;
                    each(Progress::First(&mut running.job.host, running.cached));
                }
            }
            if running.generated >= running.job.answer.max(1) {
                ended.push(at);
            }
        }
        // From the last on, so that places stay right; in order for whoever is told.
        let mut gone: Vec<_> = ended.into_iter().rev().collect();
        let mut out: Vec<Running<T>> = gone.drain(..).map(|at| self.running.remove(at)).collect();
        for mut running in out.drain(..).rev() {
            // The last token is never fed to the model.
            let tokens = running.job.prompt + running.job.answer.max(1) - 1;
            store(cache, &mut running, tokens);
            cache.close(running.blocks);
            each(Progress::Last(running.job.host));
        }
    }

    /// What was stored and removed since the last call.
    pub(super) fn events(&mut self, out: &mut Vec<BlockEvent>) {
        if self.cache.has_events() {
            out.extend(self.cache.take_events());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ReplicaModel {
        ReplicaModel {
            prefill_tokens_per_s: 1_000.0,
            chunk_tokens: 100,
            decode_ms: 10.0,
            row_ms: 1.0,
            kv_tokens: 400,
            block_tokens: 10,
            max_sequences: 8,
        }
    }

    fn job(of: u128, prompt: usize, answer: usize) -> Job<u128> {
        let block = |at| BlockIdentity::from_u128(of << 32 | at as u128);
        Job {
            chain: (0..(prompt + answer) / 10).map(block).collect(),
            prompt,
            answer,
            host: of,
        }
    }

    /// Runs to the end; what happened when, in milliseconds: (host, cached) for first tokens,
    /// (host, none) for ends.
    fn run(replica: &mut SimReplica<u128>) -> Vec<(u128, u128, Option<usize>)> {
        let (mut now, mut told) = (Duration::ZERO, Vec::new());
        while let Some(step) = replica.begin() {
            now += step;
            replica.end(|progress| {
                told.push(match progress {
                    Progress::First(host, cached) => (now.as_millis(), *host, Some(cached)),
                    Progress::Last(host) => (now.as_millis(), host, None),
                });
            });
        }
        told
    }

    #[test]
    fn times_are_those_computed_by_hand() {
        let mut replica = SimReplica::new(model());
        replica.push(job(1, 150, 3));
        replica.push(job(2, 40, 2));
        // 100 of the first; its 50 and 40 of the second; both decode; the first alone.
        let (both, alone) = (100 + 90, 100 + 90 + 12 + 11);
        assert_eq!(
            run(&mut replica),
            [
                (both, 1, Some(0)),
                (both, 2, Some(0)),
                (both + 12, 2, None),
                (alone, 1, None)
            ]
        );
        // Again: 140 of 150 are there, but of 40 only 30, for the last token is computed anew.
        replica.push(job(1, 150, 1));
        replica.push(job(2, 40, 1));
        assert_eq!(
            run(&mut replica),
            [
                (20, 1, Some(140)),
                (20, 2, Some(30)),
                (20, 1, None),
                (20, 2, None)
            ]
        );
    }

    #[test]
    fn what_does_not_fit_waits_and_what_never_fits_is_told() {
        let mut replica = SimReplica::new(model());
        assert!(replica.takes(399, 1) && !replica.takes(399, 2));
        replica.push(job(1, 250, 2));
        replica.push(job(2, 250, 2));
        replica.push(job(3, 10, 1));
        // In order: the small one does not overtake.
        let ends: Vec<_> = run(&mut replica)
            .into_iter()
            .filter_map(|(at, host, cached)| cached.is_none().then_some((at, host)))
            .collect();
        assert_eq!(ends, [(261, 1), (521, 3), (532, 2)]);
    }
}
