//! The beginnings of prompts that are worth keeping.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::contract::tokenizer::Message;
use crate::error::{Error, guarded};
use crate::request::Prompt;
use crate::sync::{Condvar, Mutex};

/// The beginning that many prompts share: a system prompt, the instructions of a template, a
/// document that is asked about.
///
/// ```
/// use llmserve_core::{Message, Prefix};
///
/// // Prompts that are these messages and then others.
/// let support = Prefix::messages([Message::system("You help the customers of Acme.")]);
/// // Prompts whose first message begins so.
/// let review = Prefix::messages([Message::user("Review this contract clause by clause: ")]).open();
/// assert!(!support.open && review.open);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prefix {
    /// What prompts begin with. After a text or tokens anything may follow.
    pub prompt: Prompt,
    /// Whether the last message goes on; if not, it is whole and other messages follow. Of texts
    /// and tokens, which always may go on, it says nothing.
    pub open: bool,
    /// Whose prompts: KV is never shared between tenants.
    pub tenant: Option<String>,
    /// The model whose prompts; routers read it, an engine ignores it.
    pub model: Option<String>,
}

impl Prefix {
    /// What prompts begin with, nobody's in particular.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            open: false,
            tenant: None,
            model: None,
        }
    }

    /// Prompts that begin with a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// Conversations that begin with these messages, and go on with others.
    pub fn messages(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Prompt::Messages(messages.into()))
    }

    /// Conversations whose last message here is only the beginning of theirs.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// See [`Prefix::tenant`].
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// See [`Prefix::model`].
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }
}

/// Whoever can have the beginning of prompts computed before anybody asks, and keep it.
pub trait KeepPrefix: Send + Sync {
    /// Has `prefix` computed, behind whoever waits for an answer, and keeps it in preference to
    /// what only happens to be cached, until the returned guard is dropped. Neither blocks nor
    /// awaits: what becomes of it is told by the guard.
    fn keep(&self, prefix: Prefix) -> KeptPrefix;
}

impl<K: KeepPrefix + ?Sized> KeepPrefix for Arc<K> {
    fn keep(&self, prefix: Prefix) -> KeptPrefix {
        (**self).keep(prefix)
    }
}

impl<K: KeepPrefix + ?Sized> KeepPrefix for Box<K> {
    fn keep(&self, prefix: Prefix) -> KeptPrefix {
        (**self).keep(prefix)
    }
}

/// How far a prefix has come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Keeping {
    /// It is not computed yet.
    Pending,
    /// Prompts that begin with it find so many of their tokens computed; 0 for one that is shorter
    /// than a KV block.
    Ready {
        /// Tokens that need not be computed.
        tokens: usize,
    },
    /// It cannot be kept.
    Failed(Error),
}

/// A prefix that is kept for as long as this lives.
#[must_use = "dropped, it lets go of the prefix"]
pub struct KeptPrefix {
    shared: Arc<Shared>,
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// The other side of a [`KeptPrefix`]: who keeps it tells here what became of it. Dropped before it
/// said anything, it has failed.
pub struct Keeper(Arc<Shared>);

struct Shared {
    keeping: Mutex<Keeping>,
    told: Condvar,
}

impl KeptPrefix {
    /// A guard that calls `release` when it is dropped, and the place to tell it how far its prefix
    /// has come. What `release` owns lives as long as the guard.
    pub fn pair(release: impl FnOnce() + Send + Sync + 'static) -> (Self, Keeper) {
        let shared = Arc::new(Shared {
            keeping: Mutex::new(Keeping::Pending),
            told: Condvar::new(),
        });
        let guard = Self {
            shared: shared.clone(),
            release: Some(Box::new(release)),
        };
        (guard, Keeper(shared))
    }

    /// A guard of nothing: the prefix cannot be kept.
    pub fn failed(error: Error) -> Self {
        let (guard, keeper) = Self::pair(|| ());
        keeper.tell(Keeping::Failed(error));
        guard
    }

    /// How far it has come.
    pub fn keeping(&self) -> Keeping {
        self.shared.keeping.lock().clone()
    }

    /// Waits until it is computed, as a host does that is to be quick from its first request on.
    /// How many tokens that are.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub fn wait(&self) -> Result<usize, Error> {
        let mut keeping = self.shared.keeping.lock();
        loop {
            match &*keeping {
                Keeping::Pending => self.shared.told.wait(&mut keeping),
                Keeping::Ready { tokens } => return Ok(*tokens),
                Keeping::Failed(error) => return Err(error.clone()),
            }
        }
    }
}

impl Drop for KeptPrefix {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            // Whoever drops the guard has no part in what its keeper does.
            let _ = guarded(release);
        }
    }
}

impl std::fmt::Debug for KeptPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeptPrefix").field(&self.keeping()).finish()
    }
}

impl Keeper {
    /// Tells how far the prefix has come.
    pub fn tell(&self, keeping: Keeping) {
        *self.0.keeping.lock() = keeping;
        self.0.told.notify_all();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let pending = matches!(*self.0.keeping.lock(), Keeping::Pending);
        if pending {
            self.tell(Keeping::Failed(Error::Cancelled));
        }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keeper")
            .field(&*self.0.keeping.lock())
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_by_another_thread() {
        let (guard, keeper) = KeptPrefix::pair(|| ());
        assert!(matches!(guard.keeping(), Keeping::Pending));
        let other = std::thread::spawn(move || keeper.tell(Keeping::Ready { tokens: 32 }));
        assert_eq!(guard.wait().ok(), Some(32));
        other.join().unwrap();
    }

    #[test]
    fn a_keeper_that_goes_without_a_word_leaves_nobody_waiting() {
        let (guard, keeper) = KeptPrefix::pair(|| ());
        drop(keeper);
        assert!(matches!(guard.wait(), Err(Error::Cancelled)));
    }

    #[test]
    fn dropping_the_guard_lets_go_once() {
        let (send, receive) = crossbeam_channel::unbounded();
        let (guard, keeper) = KeptPrefix::pair(move || send.send(()).unwrap());
        keeper.tell(Keeping::Ready { tokens: 0 });
        assert!(receive.try_recv().is_err());
        drop(guard);
        assert_eq!(receive.try_iter().count(), 1);
    }
}
