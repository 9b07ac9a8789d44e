//! The semantic level: questions that mean the same.
//!
//! ```text
//!  a starter's request ──► Question ──► queue ──► the level's thread: embed, look up, judge
//!                                                     │ near, and nothing tells them apart
//!                                                     ▼
//!  found ◄── Store::get ◄── the earlier question's key
//! ```

mod question;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use llmserve_core::{Prompt, Request};

pub(super) use question::Question;
pub(super) use worker::{Near, Reply};

use crate::answer::Answer;
use crate::error::BuildError;
use crate::key::Key;
use crate::semantic::{ErrorBound, SemanticIndex};
use worker::{Job, Worker};

/// An embedder reads only so far (MiniLM 256 tokens), and what it does not read it cannot tell
/// apart.
const DEFAULT_LONGEST: usize = 1_000;

/// Questions that may wait for the embedder.
const DEFAULT_QUEUE: usize = 256;

/// The semantic level of a [`CacheLayer`](crate::CacheLayer): a question that means what an
/// earlier one meant gets that one's answer.
///
/// Only conversations that end with a user's turn are compared, and only with such as are equal in
/// all else, byte for byte: tenant, model, system prompt, earlier turns, parameters. A hit is the
/// earlier answer event for event, its prompt's tokens and its usage included.
///
/// Texts are embedded and compared on a thread of the layer's own. A request whose question finds
/// a full queue, or an embedder that fails or panics, runs. The index lives in this process: after
/// a restart it is empty, though a store on disk is not.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::semantic::{ErrorBound, SemanticIndex};
/// use llmserve_cache::{CacheLayer, HashedNgrams, Semantic};
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let index = SemanticIndex::builder(Arc::new(HashedNgrams::default())).build()?;
/// let cached = CacheLayer::builder(Engine)
///     .semantic(Semantic::new(index).verify(ErrorBound::new(0.02).expect("a share")))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to CacheLayerBuilder::semantic"]
pub struct Semantic {
    index: Arc<SemanticIndex>,
    longest: usize,
    queue: usize,
    verify: Option<ErrorBound>,
}

impl Semantic {
    /// A level over `index`. An index that layers share finds nothing of another layer's, unless
    /// their namespaces and stores are the same.
    pub fn new(index: impl Into<Arc<SemanticIndex>>) -> Self {
        Self {
            index: index.into(),
            longest: DEFAULT_LONGEST,
            queue: DEFAULT_QUEUE,
            verify: None,
        }
    }

    /// Turns of more bytes than this take no part: an embedder reads only so far. Default: 1,000.
    pub fn longest(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// Questions that may wait for the embedder; one more, and its request runs. At least 1.
    /// Default: 256.
    pub fn queue(mut self, questions: usize) -> Self {
        self.queue = questions;
        self
    }

    /// Lets the model answer a sample of the hits, and learns from what it says which entry may be
    /// given out at which similarity, so that at most this share of hits is wrong (vCache,
    /// arXiv 2502.03771; see [`Evidence`](crate::semantic::Evidence)). Two answers count as the
    /// same if nothing [tells them apart](SemanticIndex::tell_apart) and their vectors are near.
    /// Default: no hit is checked.
    pub fn verify(mut self, bound: ErrorBound) -> Self {
        self.verify = Some(bound);
        self
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        if !(1..=MOST_QUEUED).contains(&self.queue) {
            return Err(BuildError::SemanticQueue);
        }
        Ok(())
    }
}

/// Places of the queue are made beforehand.
const MOST_QUEUED: usize = 1 << 20;

/// A running level.
pub(super) struct Level {
    index: Arc<SemanticIndex>,
    longest: usize,
    jobs: Option<SyncSender<Job>>,
}

impl Level {
    /// Starts the thread. Without one, no question is ever taken.
    pub(super) fn start(settings: Semantic) -> Self {
        let (jobs, queue) = sync_channel(settings.queue);
        let worker = Worker::new(settings.index.clone(), settings.verify, queue);
        let thread = std::thread::Builder::new().name("llmserve-semantic".into());
        let started = thread.spawn(move || worker.run());
        Self {
            index: settings.index,
            longest: settings.longest,
            jobs: started.is_ok().then_some(jobs),
        }
    }

    /// What a request asks, if that can be compared.
    pub(super) fn question(
        &self,
        namespace: &str,
        request: &Request,
        tags: u64,
    ) -> Option<Arc<Question>> {
        Question::of(namespace, request, tags, self.longest).map(Arc::new)
    }

    /// Asks for the nearest question; none if too many wait.
    pub(super) fn ask(&self, question: &Arc<Question>) -> Option<Reply> {
        let (reply, job) = Reply::new(question.clone());
        match self.jobs.as_ref()?.try_send(Job::Ask(job)) {
            Ok(()) => Some(reply),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }

    /// What was near has no answer any more.
    pub(super) fn forget(&self, near: &Near) {
        self.index.remove(near.id);
    }

    /// A question has an answer, under `key`. Missed where too many jobs wait.
    pub(super) fn learn(&self, question: &Arc<Question>, key: &Key) {
        if let (Some(jobs), Some(_)) = (&self.jobs, question.vector.get()) {
            let _ = jobs.try_send(Job::Learn(question.clone(), key.hash128()));
        }
    }

    /// A sampled hit was answered by the model as well.
    pub(super) fn verdict(&self, near: &Near, cached: &Answer, fresh: &Answer) {
        if let Some(jobs) = &self.jobs {
            let texts = [cached, fresh].map(text);
            let _ = jobs.try_send(Job::Verdict(near.id, near.similarity, texts));
        }
    }
}

/// The key of a request that asks `text` and is `request` in all else.
pub(super) fn key_of(namespace: &str, request: &Request, text: &str) -> Option<Key> {
    let Prompt::Messages(messages) = &request.prompt else {
        return None;
    };
    let mut messages = messages.clone();
    messages.last_mut()?.content = text.to_owned();
    Key::of(namespace, request, &Prompt::Messages(messages))
}

/// What an answer says: its first choice.
fn text(answer: &Answer) -> String {
    let mut response = llmserve_core::Response::default();
    answer.events().for_each(|event| response.push(event));
    response.text().to_owned()
}
