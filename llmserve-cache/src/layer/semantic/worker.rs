//! The thread that embeds and compares.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::Question;
use crate::semantic::{Decision, ErrorBound, Evidence, SemanticIndex};

/// Questions embedded together.
const BATCH: usize = 16;

/// Entries that evidence is kept of. One more, and another's is forgotten, which only means that
/// it is checked anew.
const MOST_EVIDENCE: usize = 4_096;
/// Bytes of an answer that is compared with another: reading two takes their product.
const LONGEST_ANSWER: usize = 16 << 10;

/// A question near enough, with nothing that tells it apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) id: u128,
    pub(crate) text: String,
    pub(crate) similarity: f32,
    /// The model is to answer as well.
    pub(crate) verify: bool,
}

pub(super) enum Job {
    Ask(Asked),
    /// A question, and the entry's id.
    Learn(Arc<Question>, u128),
    /// An entry, how near a question was, what was kept and what the model says.
    Verdict(u128, f32, [String; 2]),
}

/// A reply to come.
pub(crate) struct Reply(Arc<Slot>);

/// Replies when it is dropped, if it has not before: a worker that panics leaves nobody waiting.
pub(super) struct Asked {
    question: Arc<Question>,
    slot: Arc<Slot>,
}

type Slot = Mutex<(Option<Option<Near>>, Option<Waker>)>;

impl Reply {
    pub(super) fn new(question: Arc<Question>) -> (Self, Asked) {
        let slot = Arc::new(Mutex::new((None, None)));
        (Self(slot.clone()), Asked { question, slot })
    }
}

impl Future for Reply {
    type Output = Option<Near>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        if let Some(near) = slot.0.take() {
            return Poll::Ready(near);
        }
        slot.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Asked {
    fn answer(&self, near: Option<Near>) {
        let mut slot = self.slot.lock();
        slot.0 = Some(near);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether somebody still waits.
    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.slot) > 1
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.slot.lock().0.is_none() {
            self.answer(None);
        }
    }
}

pub(super) struct Worker {
    index: Arc<SemanticIndex>,
    verify: Option<ErrorBound>,
    jobs: Receiver<Job>,
    evidence: HashMap<u128, Evidence>,
    random: RandomState,
    drawn: u64,
}

impl Worker {
    pub(super) fn new(
        index: Arc<SemanticIndex>,
        verify: Option<ErrorBound>,
        jobs: Receiver<Job>,
    ) -> Self {
        Self {
            index,
            verify,
            jobs,
            evidence: HashMap::new(),
            random: RandomState::new(),
            drawn: 0,
        }
    }

    /// Until the layer is gone.
    pub(super) fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            let mut asked = Vec::new();
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Ask(ask) => asked.push(ask),
                    other => self.guarded(|worker| worker.note(other)),
                }
                next = match asked.len() < BATCH {
                    true => self.jobs.try_recv().ok(),
                    false => None,
                };
            }
            // Whoever is left in it is answered as it is dropped.
            self.guarded(|worker| worker.answer(asked));
        }
    }

    /// An embedder is the host's code.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        let _ = catch_unwind(AssertUnwindSafe(|| work(self)));
    }

    fn answer(&mut self, mut asked: Vec<Asked>) {
        asked.retain(Asked::is_wanted);
        let texts: Vec<&str> = asked.iter().map(|ask| &*ask.question.text).collect();
        if texts.is_empty() {
            return;
        }
        let Ok(vectors) = self.index.embedder().embed(&texts) else {
            return;
        };
        for (ask, vector) in asked.iter().zip(vectors) {
            let question = &ask.question;
            let near = self
                .index
                .lookup(question.namespace, &question.text, &vector);
            let _ = question.vector.set(vector);
            let near = near.ok().flatten().filter(|near| near.is_hit());
            ask.answer(near.map(|near| Near {
                id: near.id,
                verify: self.must_verify(near.id, near.similarity),
                similarity: near.similarity,
                text: near.text.to_string(),
            }));
        }
    }

    fn must_verify(&mut self, id: u128, similarity: f32) -> bool {
        let Some(bound) = self.verify else {
            return false;
        };
        self.drawn += 1;
        let chance = self.random.hash_one(self.drawn) as f64 / u64::MAX as f64;
        let unknown = Evidence::default();
        let evidence = self.evidence.get(&id).unwrap_or(&unknown);
        evidence.decide(similarity, bound, chance) == Decision::Verify
    }

    fn note(&mut self, job: Job) {
        match job {
            Job::Ask(_) => {}
            Job::Learn(question, id) => {
                if let Some(vector) = question.vector.get() {
                    // What was learnt of the entry before is of another answer.
                    self.evidence.remove(&id);
                    let (namespace, text) = (question.namespace, &question.text);
                    let _ = self.index.insert(namespace, text, vector, id);
                }
            }
            Job::Verdict(id, similarity, [cached, fresh]) => {
                let Some(right) = self.same(&cached, &fresh) else {
                    return;
                };
                if self.evidence.len() >= MOST_EVIDENCE && !self.evidence.contains_key(&id) {
                    let other = self.evidence.keys().next().copied();
                    other.and_then(|other| self.evidence.remove(&other));
                }
                self.evidence
                    .entry(id)
                    .or_default()
                    .record(similarity, right);
            }
        }
    }

    /// Whether two answers say the same; none if nobody can tell.
    fn same(&self, one: &str, other: &str) -> Option<bool> {
        if one == other {
            return Some(true);
        }
        if one.trim().is_empty() || other.trim().is_empty() {
            return Some(false);
        }
        if one.len().max(other.len()) > LONGEST_ANSWER {
            return None;
        }
        let vectors = self.index.embedder().embed(&[one, other]).ok()?;
        let [one_vector, other_vector] = &vectors[..] else {
            return None;
        };
        let cosine: f32 = one_vector
            .iter()
            .zip(other_vector)
            .map(|(a, b)| a * b)
            .sum();
        let near = cosine >= self.index.threshold().texts;
        Some(near && self.index.tell_apart(one, other).ok()?.is_none())
    }
}
