//! Masks computed while the model computes.
//!
//! A step's constrained sequences lend their grammars to the threads here before the model is
//! called, and have them back, with masks, before anything is picked. What is not done when the
//! model is, the engine thread helps to finish.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::constrain::Constrained;
use crate::contract::clock::Clock;
use crate::ids::{SequenceId, TokenId};

/// Threads that compute masks, unless said otherwise.
pub(super) const DEFAULT_THREADS: usize = 1;

/// A grammar on its way to a thread and back.
pub(super) struct Job {
    pub(super) id: SequenceId,
    pub(super) constrained: Box<Constrained>,
    /// The tokens that the row proposes after the known ones.
    drafts: Vec<TokenId>,
    vocab_size: usize,
    /// What the masks took.
    pub(super) took: Duration,
}

/// The threads, and what is on its way.
pub(super) struct MaskThreads {
    jobs: Sender<Job>,
    /// The other end of the same queue, for helping.
    waiting: Receiver<Job>,
    done: Receiver<Job>,
    away: usize,
    clock: Arc<dyn Clock>,
    vocab_size: usize,
    /// Memory of drafts.
    spare: Vec<Vec<TokenId>>,
}

impl MaskThreads {
    /// Starts `threads` threads, which end when this is dropped.
    pub(super) fn start(
        threads: usize,
        vocab_size: usize,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = unbounded::<Job>();
        let (finished, done) = unbounded();
        for number in 0..threads {
            let (waiting, finished) = (waiting.clone(), finished.clone());
            let clock = clock.clone();
            thread::Builder::new()
                .name(format!("llmserve-masks-{number}"))
                .spawn(move || {
                    for mut job in waiting {
                        run(&mut job, &*clock);
                        // Nobody waits for it any more: the engine has ended.
                        if finished.send(job).is_err() {
                            return;
                        }
                    }
                })?;
        }
        Ok(Self {
            jobs,
            waiting,
            done,
            away: 0,
            clock,
            vocab_size,
            spare: Vec::new(),
        })
    }

    /// Sends a grammar off: for masks after the known tokens and after each of `drafts`.
    pub(super) fn send(
        &mut self,
        id: SequenceId,
        constrained: Box<Constrained>,
        drafts: &[TokenId],
    ) {
        let mut own = self.spare.pop().unwrap_or_default();
        own.extend_from_slice(drafts);
        let job = Job {
            id,
            constrained,
            drafts: own,
            vocab_size: self.vocab_size,
            took: Duration::ZERO,
        };
        self.away += 1;
        // Both ends of both queues are here: they are never closed.
        let _ = self.jobs.send(job);
    }

    /// The next that is back, or none when all are. Works on what nobody has begun.
    pub(super) fn next(&mut self) -> Option<Job> {
        if self.away == 0 {
            return None;
        }
        let job = match self.done.try_recv() {
            Ok(job) => job,
            Err(_) => match self.waiting.try_recv() {
                Ok(mut job) => {
                    run(&mut job, &*self.clock);
                    job
                }
                Err(_) => self.done.recv().ok()?,
            },
        };
        self.away -= 1;
        Some(job)
    }

    /// Takes a job's memory back.
    pub(super) fn recycle(&mut self, mut drafts: Vec<TokenId>) {
        drafts.clear();
        self.spare.push(drafts);
    }
}

impl Job {
    /// The grammar, and memory for [`MaskThreads::recycle`].
    pub(super) fn into_parts(self) -> (Box<Constrained>, Vec<TokenId>) {
        (self.constrained, self.drafts)
    }
}

fn run(job: &mut Job, clock: &dyn Clock) {
    let began = clock.now();
    job.constrained.compute(&job.drafts, job.vocab_size);
    job.took = clock.now().saturating_sub(began);
}
