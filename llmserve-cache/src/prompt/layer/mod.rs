//! Prompts that share their beginnings, and beginnings that are kept.

mod builder;
mod counters;
mod error;
mod keeping;

use std::collections::HashMap;
use std::sync::Arc;

use llmserve_core::{
    EventStream, Generate, KeepPrefix, Keeping, Message, Prefix, Prompt, Recorder, Request,
};
use parking_lot::Mutex;

pub use builder::PromptLayerBuilder;
pub use counters::PromptStats;
pub use error::PromptError;

use super::census::{Census, Reach, SharedPrefix};
use super::template::PromptTemplate;
use counters::Counters;
use keeping::Kept;

/// Shared beginnings that are told.
const TOLD: usize = 256;

/// A layer that has the beginnings of prompts ready before they are asked for.
///
/// Requests pass through unchanged. What they begin with is counted; what enough of them share is
/// [kept](KeepPrefix) in the engine, as is what the host registers by name. Inside of a
/// [`CacheLayer`](crate::CacheLayer) it sees what needs a run; outside, also what does not.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::prompt::{PromptLayer, PromptTemplate};
/// use llmserve_core::{Generate, Message, Prefix};
/// # use llmserve_core::{Error, EventStream, KeepPrefix, Keeper, Keeping, KeptPrefix, Request};
/// # #[derive(Clone)]
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// # impl KeepPrefix for Engine {
/// #     fn keep(&self, _prefix: Prefix) -> KeptPrefix {
/// #         let (guard, keeper) = KeptPrefix::pair(|| ());
/// #         keeper.tell(Keeping::Ready { tokens: 16 });
/// #         guard
/// #     }
/// # }
/// # let engine = Engine;
///
/// let prompts = PromptLayer::builder(engine.clone()).keeper(engine).build()?;
/// prompts.register_template(
///     "support",
///     PromptTemplate::builder()
///         .system("You help the customers of Acme. Be brief.")
///         .user("{{question}}")
///         .build()?,
/// )?;
/// // Before the first customer comes.
/// prompts.wait("support")?;
///
/// let request = prompts.request("support", [("question", "Where is my parcel?")])?;
/// let answer = prompts.generate(request);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PromptLayer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Generate>,
    keeper: Option<Arc<dyn KeepPrefix>>,
    /// Most prefixes that are kept without having been registered.
    automatic: usize,
    census: Mutex<Census>,
    kept: Mutex<Kept>,
    named: Mutex<HashMap<String, Named>>,
    counters: Counters,
}

/// What a name stands for.
struct Named {
    prefix: Option<Prefix>,
    template: Option<Arc<PromptTemplate>>,
    kept: Option<Arc<keeping::Registered>>,
}

impl PromptLayer {
    /// Starts making a layer around `inner`.
    pub fn builder(inner: impl Generate + 'static) -> PromptLayerBuilder {
        PromptLayerBuilder::new(Arc::new(inner))
    }

    /// Keeps what prompts begin with under a name, until the name is
    /// [forgotten](Self::forget) or given to something else. Whether and how far it is kept,
    /// [`keeping`](Self::keeping) tells.
    ///
    /// # Errors
    /// [`PromptError::Empty`].
    pub fn register(&self, name: impl Into<String>, prefix: Prefix) -> Result<(), PromptError> {
        let name = name.into();
        let kept = self.shared.keep_registered(&prefix);
        let Some(kept) = kept else {
            return Err(PromptError::Empty { name });
        };
        let named = Named {
            prefix: Some(prefix),
            template: None,
            kept: Some(kept),
        };
        // What stood there goes after the lock: it calls its keeper.
        let before = self.shared.named.lock().insert(name, named);
        drop(before);
        Ok(())
    }

    /// Keeps a template under a name, and with it what all its prompts begin with. One whose prompts
    /// have nothing in common is kept as a template alone.
    ///
    /// # Errors
    /// None today; those of [`register`](Self::register) for its prefix.
    pub fn register_template(
        &self,
        name: impl Into<String>,
        template: PromptTemplate,
    ) -> Result<(), PromptError> {
        let name = name.into();
        let none: [(&str, &str); 0] = [];
        let prefix = template
            .prefix(none)
            .map_err(|error| PromptError::Template {
                name: name.clone(),
                error,
            })?;
        let kept = prefix
            .as_ref()
            .and_then(|prefix| self.shared.keep_registered(prefix));
        let named = Named {
            prefix,
            template: Some(Arc::new(template)),
            kept,
        };
        let before = self.shared.named.lock().insert(name, named);
        drop(before);
        Ok(())
    }

    /// Lets go of a name and of what is kept under it. Whether there was one.
    pub fn forget(&self, name: &str) -> bool {
        let before = self.shared.named.lock().remove(name);
        before.is_some()
    }

    /// How far the prefix of a name has come. None where the name is unknown, or nothing is kept
    /// under it.
    pub fn keeping(&self, name: &str) -> Option<Keeping> {
        let kept = self.shared.named.lock().get(name)?.kept.clone()?;
        Some(kept.keeping())
    }

    /// Waits until the prefix of a name is computed: how many of its tokens. 0 where there is nobody
    /// to keep it, or nothing to keep.
    ///
    /// # Errors
    /// Why it cannot be kept; a name that is unknown.
    pub fn wait(&self, name: &str) -> Result<usize, llmserve_core::Error> {
        let kept = match self.shared.named.lock().get(name) {
            Some(named) => named.kept.clone(),
            None => {
                let unknown = unknown("prefix", name);
                return Err(llmserve_core::Error::invalid_request(
                    "prompt",
                    unknown.to_string(),
                ));
            }
        };
        kept.map_or(Ok(0), |kept| kept.wait())
    }

    /// A request with the prompt of a registered template.
    ///
    /// # Errors
    /// A name without a template; what the template says of the values.
    pub fn request<K: AsRef<str>, V: AsRef<str>>(
        &self,
        name: &str,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Request, PromptError> {
        let template = {
            let named = self.shared.named.lock();
            named.get(name).and_then(|named| named.template.clone())
        };
        let template = template.ok_or_else(|| unknown("template", name))?;
        let filled = template.request(values);
        filled.map_err(|error| PromptError::Template {
            name: name.to_owned(),
            error,
        })
    }

    /// The prompt that begins with a registered prefix and goes on with `rest`: messages after
    /// messages (where the prefix is open, its last message goes on with the text of the first of
    /// them), text after text, tokens after tokens.
    ///
    /// # Errors
    /// A name without a prefix; a rest of another kind.
    pub fn prompt(&self, name: &str, rest: Prompt) -> Result<Prompt, PromptError> {
        let prefix = {
            let named = self.shared.named.lock();
            named.get(name).and_then(|named| named.prefix.clone())
        };
        let prefix = prefix.ok_or_else(|| unknown("prefix", name))?;
        match (prefix.prompt, rest) {
            (Prompt::Text(text), Prompt::Text(rest)) => Ok(Prompt::Text(text + &rest)),
            (Prompt::Tokens(mut tokens), Prompt::Tokens(rest)) => {
                tokens.extend(rest);
                Ok(Prompt::Tokens(tokens))
            }
            (Prompt::Messages(messages), Prompt::Messages(rest)) => {
                Ok(Prompt::Messages(joined(messages, rest, prefix.open)))
            }
            (prefix, rest) => Err(PromptError::Kind {
                name: name.to_owned(),
                prefix: kind(&prefix),
                rest: kind(&rest),
            }),
        }
    }

    /// What prompts share now, the most shared first, at most 256 of it: what is worth registering, and
    /// what the next process may [recall](PromptLayerBuilder::recall).
    pub fn shared(&self) -> Vec<SharedPrefix> {
        let worth = self.shared.census.lock().shared(TOLD);
        worth.into_iter().map(|worth| worth.shared).collect()
    }

    /// Counters.
    pub fn stats(&self) -> PromptStats {
        let (beginnings, bytes) = self.shared.census.lock().size();
        let automatic = self.shared.kept.lock().len();
        let registered = {
            let named = self.shared.named.lock();
            named.values().filter(|named| named.kept.is_some()).count()
        };
        self.shared
            .counters
            .read(beginnings, bytes, automatic, registered)
    }
}

impl Generate for PromptLayer {
    fn generate(&self, request: Request) -> EventStream {
        self.shared.note(&request);
        self.shared.inner.generate(request)
    }
}

impl std::fmt::Debug for PromptLayer {
    /// Leaves prompts out: they do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptLayer")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(
        inner: Arc<dyn Generate>,
        keeper: Option<Arc<dyn KeepPrefix>>,
        automatic: usize,
        reach: Reach,
        recorder: &dyn Recorder,
    ) -> Self {
        Self {
            inner,
            keeper,
            automatic,
            census: Mutex::new(Census::new(reach)),
            kept: Mutex::new(Kept::default()),
            named: Mutex::new(HashMap::new()),
            counters: Counters::new(recorder),
        }
    }

    /// Counts a prompt. Who finds another counting does not wait: these are statistics.
    fn note(self: &Arc<Self>, request: &Request) {
        let (tenant, model) = (request.tenant.as_deref(), request.model.as_deref());
        let seen = match self.census.try_lock() {
            Some(mut census) => census.note(&request.prompt, tenant, model),
            None => return,
        };
        self.counters.saw(seen.marked);
        if seen.due {
            self.review();
        }
    }
}

fn joined(mut messages: Vec<Message>, rest: Vec<Message>, open: bool) -> Vec<Message> {
    let mut rest = rest.into_iter();
    if open
        && let Some(last) = messages.last_mut()
        && let Some(first) = rest.next()
    {
        last.content.push_str(&first.content);
    }
    messages.extend(rest);
    messages
}

fn unknown(what: &'static str, name: &str) -> PromptError {
    PromptError::UnknownName {
        what,
        name: name.to_owned(),
    }
}

fn kind(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Text(_) => "a text",
        Prompt::Tokens(_) => "tokens",
        Prompt::Messages(_) => "messages",
        _ => "of a kind of its own",
    }
}

#[cfg(test)]
mod tests;
