//! The engine: one thread that owns every sequence and drives the contracts.
//!
//! ```text
//!  generate() ─► intake threads ─► engine thread
//!                render, encode    ┌─► commands: submit, cancel, stop
//!                validate          │   deadlines
//!                                  │   plan ─► page ops ─► submit ─► pick ─► text ─► commit ─► propose
//!                                  └───────────────────────────────────────────────────┘
//! ```
//!
//! Hosts hold an [`Engine`] handle and [`EventStream`]s; nothing else of the engine is shared.
//! Streams never block the engine: events wait in the stream's own queue, which is bounded by the
//! request's own length. Dropping a stream cancels its request; dropping the last handle lets the
//! accepted requests finish and then ends the threads.

mod builder;
mod channel;
mod compiling;
mod constrain;
mod core;
mod deadlines;
mod grammars;
mod instruments;
mod intake;
#[cfg(all(test, loom))]
mod interleavings;
mod masks;
mod output;
mod prefixes;
mod probe;
mod request;
mod sequences;
mod speculate;
mod stats;
mod step;
mod verify;

use std::sync::Arc;

use crossbeam_channel::Sender;

pub use builder::{BuildError, EngineBuilder};
pub use stats::EngineStats;

use crate::contract::clock::Clock;
use crate::contract::generate::{EventStream, Generate};
use crate::contract::model::{Model, ModelInfo};
use crate::contract::prefix::{KeepPrefix, KeptPrefix, Prefix};
use crate::contract::tokenizer::Tokenizer;
use crate::error::Error;
use crate::request::{Prompt, Request};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering};
use intake::{Intake, Job};
use prefixes::{Asked, Found, Guarded};
use request::{Ends, Prepared, Spec};

/// A running engine. Cheap to clone; all clones are the same engine.
///
/// Built from parts by [`Engine::builder`]; the `llmserve` crate has presets that fill them in.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// What dies with the last clone: closing `intake` lets the threads finish and end.
struct Handle {
    /// One lane for prompts that encode in no time, one for long texts, which nobody else shall
    /// wait for.
    intake: [Sender<Job>; 2],
    shared: Arc<Shared>,
    limits: intake::Limits,
    tokenizer: Option<Arc<dyn Tokenizer>>,
    clock: Arc<dyn Clock>,
}

/// What handle, intake, engine thread and streams share.
struct Shared {
    info: ModelInfo,
    commands: Sender<Command>,
    state: Mutex<State>,
    stopped: Condvar,
    stats: Mutex<EngineStats>,
    /// Requests accepted and not yet taken by the engine thread.
    accepted: AtomicUsize,
    /// Everything is to end now.
    stop: AtomicBool,
    next_key: AtomicU64,
    next_prefix: AtomicU64,
}

#[derive(Default)]
struct State {
    /// New requests are refused.
    closed: bool,
    /// The engine thread has ended.
    stopped: bool,
    /// Why it ended, if not because it was asked to.
    failure: Option<Error>,
}

/// What the engine thread is told.
enum Command {
    Submit(Box<Prepared>),
    /// The stream of the request with this key was dropped.
    Cancel(u64),
    /// So was that of one which never came this far.
    CancelledBefore,
    /// Keep a prefix.
    Keep(Box<Found>),
    /// The guard of the prefix with this key was dropped.
    LetGo(u64),
    /// Forget every cached block, and say whether that was possible.
    ResetPrefixCache(Sender<Result<(), Error>>),
    /// Finish what was accepted, then end.
    Drain,
    /// Look up: everything is to end now.
    Stop,
}

/// A request's place among the accepted; given back when the engine thread has it, or nobody.
struct Place(Arc<Shared>);

impl Place {
    /// A place, if fewer than `limit` are taken; else how many are.
    fn take(shared: &Arc<Shared>, limit: usize) -> Result<Self, usize> {
        // Not counted first and taken back: who asks in between would be refused for one who was.
        let next = |taken| (taken < limit).then_some(taken + 1);
        let taken = shared
            .accepted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.map(|_| Self(shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.accepted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Tells the engine thread that no more will come.
    fn drained(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    fn new(info: ModelInfo, commands: Sender<Command>, stats: EngineStats) -> Self {
        Self {
            info,
            commands,
            state: Mutex::new(State::default()),
            stopped: Condvar::new(),
            stats: Mutex::new(stats),
            accepted: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            next_key: AtomicU64::new(0),
            next_prefix: AtomicU64::new(prefixes::FIRST_KEY),
        }
    }

    /// Whether it has not been closed.
    ///
    /// # Errors
    /// Why it has.
    fn accepts(&self) -> Result<(), Error> {
        let state = self.state.lock();
        if state.closed || state.stopped {
            return Err(state.failure.clone().unwrap_or(Error::ShutDown));
        }
        Ok(())
    }

    /// Waits until the engine thread has ended.
    fn wait(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            self.stopped.wait(&mut state);
        }
    }

    /// The engine thread has ended.
    fn has_stopped(&self) {
        self.state.lock().stopped = true;
        self.stopped.notify_all();
    }

    /// The error a stream ends with when its request was dropped on the way.
    fn end_error(&self) -> Error {
        self.state.lock().failure.clone().unwrap_or(Error::ShutDown)
    }
}

impl Engine {
    /// Starts building an engine around a model.
    pub fn builder(model: impl Model + 'static) -> EngineBuilder {
        EngineBuilder::new(Box::new(model))
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.handle.shared.info
    }

    /// The tokenizer, if the engine has one.
    pub fn tokenizer(&self) -> Option<&Arc<dyn Tokenizer>> {
        self.handle.tokenizer.as_ref()
    }

    /// Counters and levels as of the last step.
    pub fn stats(&self) -> EngineStats {
        *self.handle.shared.stats.lock()
    }

    /// Forgets every cached prefix, as after a change that makes old keys and values wrong. Waits
    /// for the engine thread; not to be called from a plug-in.
    ///
    /// # Errors
    /// [`Error::CacheHeld`] while requests hold blocks, having changed nothing;
    /// [`Error::ShutDown`].
    pub fn reset_prefix_cache(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let (reply, answer) = crossbeam_channel::bounded(1);
        let _ = shared.commands.send(Command::ResetPrefixCache(reply));
        // An engine that has ended drops the command, and with it the reply.
        answer.recv().unwrap_or_else(|_| Err(shared.end_error()))
    }

    /// Refuses new requests, waits until every accepted one has finished and the engine thread has
    /// ended. A second call, or one after [`shutdown`](Self::shutdown), only waits. Not to be
    /// called from a plug-in: it would wait for itself.
    pub fn drain(&self) {
        self.handle.shared.state.lock().closed = true;
        // Behind the requests that are still being encoded, lane after lane.
        let drain = Job::Drain(self.handle.intake[1].clone());
        if self.handle.intake[0].send(drain).is_err() {
            self.handle.shared.drained();
        }
        self.handle.shared.wait();
    }

    /// Refuses new requests, ends every stream with [`Error::ShutDown`] after at most one step,
    /// and waits until the engine thread has ended. Not to be called from a plug-in.
    pub fn shutdown(&self) {
        self.handle.shared.state.lock().closed = true;
        self.handle.shared.stop.store(true, Ordering::SeqCst);
        let _ = self.handle.shared.commands.send(Command::Stop);
        self.handle.shared.wait();
    }

    fn accept(&self, mut request: Request) -> Result<EventStream, Error> {
        let ends = Ends(std::mem::take(&mut request.on_end));
        let Handle {
            shared,
            limits,
            clock,
            ..
        } = &*self.handle;
        shared.accepts()?;
        limits.check(&request)?;
        let limit = limits.max_intake;
        let place = Place::take(shared, limit).map_err(|waiting| Error::Overloaded {
            waiting,
            limit,
            unit: "requests",
            retry_after: None,
        })?;
        let key = shared.next_key.fetch_add(1, Ordering::Relaxed);
        let (sink, source) = channel::pair(key, shared.clone());
        let span = tracing::info_span!(
            "llmserve_request",
            key,
            id = request.id.as_deref().unwrap_or_default(),
            model = %shared.info.name,
        );
        let arrival = clock.now();
        // A send that fails drops the sink, which ends the stream with the reason.
        match request.prompt {
            Prompt::Tokens(ref tokens) if request.constraint.is_none() => {
                limits.check_tokens(tokens)?;
                limits.check_len(tokens.len() + request.resume.len())?;
                let (tokens, max_len) = (tokens.clone(), limits.max_len);
                let spec = Spec::new(request, key, tokens, None, max_len, arrival, span);
                let prepared = Box::new(Prepared {
                    spec,
                    sink,
                    place,
                    ends,
                });
                let _ = shared.commands.send(Command::Submit(prepared));
            }
            ref prompt => {
                let lane = usize::from(intake::is_long(prompt));
                let job = Job::Request(Box::new(Intake {
                    key,
                    request,
                    sink,
                    place,
                    ends,
                    arrival,
                    span,
                }));
                let _ = self.handle.intake[lane].send(job);
            }
        }
        Ok(EventStream::new(source))
    }
}

impl Generate for Engine {
    fn generate(&self, request: Request) -> EventStream {
        self.accept(request).unwrap_or_else(EventStream::failed)
    }
}

/// A prefix is computed while nobody waits for a first token: what of it is computed when somebody
/// comes stays, and the rest follows. Requests that begin with it may be what computes it.
///
/// It is kept by a [pin](crate::KvManager::pin): evicted after all that is not pinned, but evicted
/// when running requests need the memory. An engine that has nothing else to do then computes it
/// again; until it has, [`Keeping::Ready`](crate::Keeping::Ready) says more than is there. Ready with
/// 0 tokens are a prefix shorter than a block, and all prefixes where there is no prefix caching.
///
/// What cannot be kept is told by the guard: [`Error::PromptTooLong`] where no prompt could begin with
/// it, [`Error::Kv`] where too much is pinned already, [`Error::Tokenizer`] where the chat template
/// accepts no conversation that begins so, the error of a step that failed while it was computed, and
/// [`Error::ShutDown`] once the engine drains or has ended. Guards do not keep an engine from ending.
impl KeepPrefix for Engine {
    fn keep(&self, prefix: Prefix) -> KeptPrefix {
        let shared = &self.handle.shared;
        let refused = shared.accepts().err();
        if let Some(error) = refused.or_else(|| self.handle.limits.check_prefix(&prefix).err()) {
            return KeptPrefix::failed(error);
        }
        let key = shared.next_prefix.fetch_add(1, Ordering::Relaxed);
        let (guard, guarded) = Guarded::pair(key, shared);
        let asked = Asked {
            key,
            prefix,
            guarded,
        };
        // A send that fails drops the guarded side, which says why.
        // It goes the way of long texts, whatever its length: nobody with a short prompt is to wait
        // for what nobody has asked for yet.
        let _ = self.handle.intake[1].send(Job::Keep(Box::new(asked)));
        guard
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.info().name)
            .finish_non_exhaustive()
    }
}
