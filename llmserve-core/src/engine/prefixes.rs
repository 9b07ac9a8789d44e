//! Prefixes that are kept: pinned in the KV manager, and computed when nobody waits.
//!
//! ```text
//!  keep() ─► intake: tokens, whole blocks ─► pin ─► all cached ───────────────► ready
//!                                             │                                  ▲
//!                                             └─► pending ─► nobody waits: a     │ had to make room:
//!                                                 sequence of its own computes ──┘ again, when idle
//! ```
//!
//! The sequence is the engine's own: it has no stream, nothing is picked for it, and no request is
//! counted. Whoever asks for an answer takes its place; the blocks it computed by then are kept, and
//! the next one goes on behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::core::{Core, refused};
use super::request::{Spec, extras};
use super::{Command, Shared};
use crate::contract::kv::PrefixScope;
use crate::contract::prefix::{Keeper, Keeping, KeptPrefix, Prefix};
use crate::contract::scheduler::{End, SchedRequest};
use crate::error::Error;
use crate::identity::Extras;
use crate::ids::{SequenceId, TokenId};
use crate::sync::{AtomicBool, Ordering};

/// Where keys of prefixes begin; those of requests, whose seeds are drawn by their keys, count from 0.
pub(super) const FIRST_KEY: u64 = 1 << 63;

/// The engine's side of a guard. Dropped, it says how the engine ended.
pub(super) struct Guarded {
    keeper: Keeper,
    shared: Arc<Shared>,
    gone: Arc<AtomicBool>,
    open: bool,
}

impl Guarded {
    /// A guard for the prefix `key`, and the engine's side of it.
    pub(super) fn pair(key: u64, shared: &Arc<Shared>) -> (KeptPrefix, Self) {
        let gone = Arc::new(AtomicBool::new(false));
        let (dropped, told) = (gone.clone(), shared.clone());
        let (guard, keeper) = KeptPrefix::pair(move || {
            // The flag reaches a prefix still in the intake, the command one in the engine.
            dropped.store(true, Ordering::Release);
            let _ = told.commands.send(Command::LetGo(key));
        });
        let guarded = Self {
            keeper,
            shared: shared.clone(),
            gone,
            open: true,
        };
        (guard, guarded)
    }

    /// Whether nobody holds the guard any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Says something for good.
    pub(super) fn close(mut self, keeping: Keeping) {
        self.open = false;
        self.keeper.tell(keeping);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.open {
            self.keeper.tell(Keeping::Failed(self.shared.end_error()));
        }
    }
}

/// A prefix on its way through the intake.
pub(super) struct Asked {
    pub(super) key: u64,
    pub(super) prefix: Prefix,
    pub(super) guarded: Guarded,
}

/// A prefix on its way from the intake to the engine thread.
pub(super) struct Found {
    pub(super) key: u64,
    /// Whole blocks, at least one.
    pub(super) tokens: Vec<TokenId>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) guarded: Guarded,
}

/// A prefix that is pinned.
struct Kept {
    tokens: Vec<TokenId>,
    tenant: Option<Arc<str>>,
    extras: Extras,
    guarded: Guarded,
}

/// The sequence that computes a prefix.
struct Running {
    key: u64,
    id: SequenceId,
    /// Whether the step at hand computed the last of it.
    computed: bool,
}

/// What became of the wish to compute a prefix.
enum Begun {
    Runs,
    /// There was nothing to do, or nothing can be done.
    Over,
    /// The scheduler has no room now.
    Later,
}

/// The prefixes of an engine, by key: first come, first.
#[derive(Default)]
pub(super) struct Prefixes {
    kept: BTreeMap<u64, Kept>,
    /// Those that were never there as a whole.
    pending: BTreeSet<u64>,
    running: Option<Running>,
    /// Pinned blocks cached when those pending were last looked at; no such number when they are to
    /// be looked at in any case.
    seen: usize,
    /// What may have evicted some: requests and resets so far.
    changes: u64,
    /// `changes` when the round over those that may have lost blocks began, and how far it came: at
    /// most once each is computed again before something changes.
    round: (u64, Option<u64>),
}

impl Prefixes {
    /// Whether `id` is the sequence that computes a prefix.
    pub(super) fn is_computed_by(&self, id: SequenceId) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.id == id)
    }

    /// Its row in this step was its last.
    pub(super) fn is_computed(&mut self) {
        if let Some(running) = &mut self.running {
            running.computed = true;
        }
    }

    /// Blocks may go that are kept now.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    /// Lets go of all without telling the KV manager: the engine has ended.
    pub(super) fn clear(&mut self) {
        self.running = None;
        self.kept.clear();
    }

    /// The next that may have lost blocks since it was ready.
    fn next_of_round(&mut self) -> Option<u64> {
        if self.round.0 != self.changes {
            self.round = (self.changes, None);
        }
        let after = match self.round.1 {
            Some(key) => Bound::Excluded(key),
            None => Bound::Unbounded,
        };
        let (key, _) = self.kept.range((after, Bound::Unbounded)).next()?;
        self.round.1 = Some(*key);
        Some(*key)
    }
}

impl Core {
    /// Pins a prefix, to be computed when nobody waits.
    pub(super) fn keep(&mut self, found: Found) {
        let Found {
            key,
            tokens,
            tenant,
            guarded,
        } = found;
        // A guard that goes after this look has its command come after this one.
        if self.draining || guarded.is_gone() {
            return;
        }
        let extras = extras(tenant.as_deref());
        self.phase = "KV manager";
        let pinned = match self.kv.pin(&tokens, &extras) {
            Ok(pinned) => pinned,
            Err(error) => return guarded.close(Keeping::Failed(Error::Kv(error))),
        };
        if pinned.blocks == 0 {
            return guarded.close(Keeping::Ready { tokens: 0 });
        }
        let kept = Kept {
            tokens,
            tenant,
            extras,
            guarded,
        };
        self.prefixes.kept.insert(key, kept);
        self.prefixes.pending.insert(key);
        self.prefixes.seen = usize::MAX;
        if pinned.cached >= pinned.blocks {
            self.prefix_ready(key, pinned.cached);
        }
        self.publish();
    }

    /// Unpins a prefix whose guard is gone, and computes no more of it.
    pub(super) fn let_go(&mut self, key: u64) {
        if let Some(kept) = self.forget_prefix(key, End::Done) {
            drop(kept);
            self.publish();
        }
    }

    /// Ends the computation of a prefix with an error, and unpins it.
    pub(super) fn fail_prefix(&mut self, key: u64, error: Error) {
        if let Some(kept) = self.forget_prefix(key, End::Failed) {
            tracing::debug!(kind = error.kind(), "a prefix is not kept");
            kept.guarded.close(Keeping::Failed(error));
        }
    }

    /// Lets go of all prefixes, for the engine is to end.
    pub(super) fn forget_prefixes(&mut self) {
        while let Some((&key, _)) = self.prefixes.kept.first_key_value() {
            self.let_go(key);
        }
    }

    /// Takes the sequence that computes a prefix out. What it computed stays.
    pub(super) fn stop_prefix(&mut self) {
        if self.prefixes.running.is_some() {
            self.end_prefix(End::Done);
            self.commit_ended();
        }
    }

    /// Whether the scheduler has a sequence that computes a prefix: the one it had, or one that is
    /// due now.
    pub(super) fn tend_prefixes(&mut self) -> bool {
        if self.prefixes.kept.is_empty() {
            return false;
        }
        self.look_at_pending();
        if self.prefixes.running.is_some() {
            return true;
        }
        while let Some(key) = self.next_prefix() {
            match self.begin_prefix(key) {
                Begun::Runs => return true,
                Begun::Over => {}
                Begun::Later => return false,
            }
        }
        false
    }

    /// What a step computed of a prefix is committed.
    pub(super) fn settle_prefix(&mut self) {
        let Some(running) = self.prefixes.running.take_if(|running| running.computed) else {
            return;
        };
        if let Some(cached) = self.cached_of(running.key) {
            self.prefix_ready(running.key, cached);
        }
    }

    /// Others' requests may have computed what is pending.
    fn look_at_pending(&mut self) {
        if self.prefixes.pending.is_empty() {
            return;
        }
        self.phase = "KV manager";
        let cached = self.kv.stats().pinned_cached_blocks;
        if std::mem::replace(&mut self.prefixes.seen, cached) == cached {
            return;
        }
        let pending: Vec<u64> = self.prefixes.pending.iter().copied().collect();
        for key in pending {
            let cached = self.cached_of(key).unwrap_or(0);
            if cached < self.blocks_of(key) {
                continue;
            }
            if self.prefixes.running.as_ref().is_some_and(|r| r.key == key) {
                self.stop_prefix();
            }
            self.prefix_ready(key, cached);
        }
    }

    /// Which prefix is to be computed next, if any is and now is the time.
    fn next_prefix(&mut self) -> Option<u64> {
        if let Some(&key) = self.prefixes.pending.first() {
            let waits = self.requests.values().any(|live| !live.started);
            return (!waits).then_some(key);
        }
        if !self.requests.is_empty() {
            return None;
        }
        self.phase = "KV manager";
        let stats = self.kv.stats();
        match stats.pinned_cached_blocks < stats.pinned_blocks {
            true => self.prefixes.next_of_round(),
            false => None,
        }
    }

    /// Has the scheduler compute what is missing of a prefix.
    fn begin_prefix(&mut self, key: u64) -> Begun {
        let cached = self.cached_of(key).unwrap_or(0);
        if cached >= self.blocks_of(key) {
            self.prefix_ready(key, cached);
            return Begun::Over;
        }
        let Some(kept) = self.prefixes.kept.get(&key) else {
            return Begun::Over;
        };
        let spec = Spec::of_prefix(key, &kept.tokens, kept.tenant.clone(), self.clock.now());
        let scope = PrefixScope {
            extras: kept.extras.clone(),
            reuse: true,
        };
        let spec = Arc::new(spec);
        let sequence = self.sequence(&spec, 0);
        let id = self.sequences.insert(Box::new(sequence));
        self.phase = "KV manager";
        let submitted = self.kv.open(id, &spec.prompt, scope).map_err(Error::Kv);
        let submitted = submitted.and_then(|()| {
            self.phase = "scheduler";
            let request = SchedRequest {
                priority: spec.priority,
                tenant: spec.tenant.clone(),
                arrival: spec.arrival,
                ..SchedRequest::new(id, spec.prompt.len(), 1)
            };
            self.scheduler.submit(request, &*self.kv).map_err(refused)
        });
        let Err(error) = submitted else {
            self.prefixes.running = Some(Running {
                key,
                id,
                computed: false,
            });
            return Begun::Runs;
        };
        self.kv.close(id);
        self.sequences.remove(id);
        // With requests there is a step after which there may be room.
        if matches!(error, Error::Overloaded { .. }) && !self.requests.is_empty() {
            return Begun::Later;
        }
        self.fail_prefix(key, error);
        self.publish();
        Begun::Over
    }

    /// Says that a prefix is there, so many blocks of it.
    fn prefix_ready(&mut self, key: u64, blocks: usize) {
        self.prefixes.pending.remove(&key);
        let tokens = blocks * self.kv.layout().block_size;
        if let Some(kept) = self.prefixes.kept.get(&key) {
            kept.guarded.keeper.tell(Keeping::Ready { tokens });
        }
    }

    fn blocks_of(&self, key: u64) -> usize {
        let kept = self.prefixes.kept.get(&key);
        kept.map_or(0, |kept| kept.tokens.len() / self.kv.layout().block_size)
    }

    fn cached_of(&mut self, key: u64) -> Option<usize> {
        let kept = self.prefixes.kept.get(&key)?;
        self.phase = "KV manager";
        Some(self.kv.cached_blocks(&kept.tokens, &kept.extras))
    }

    fn end_prefix(&mut self, end: End) {
        if let Some(running) = self.prefixes.running.take() {
            self.buffers.outcome.ended.push((running.id, end));
        }
    }

    fn forget_prefix(&mut self, key: u64, end: End) -> Option<Kept> {
        let kept = self.prefixes.kept.remove(&key)?;
        self.prefixes.pending.remove(&key);
        self.prefixes.seen = usize::MAX;
        if self.prefixes.running.as_ref().is_some_and(|r| r.key == key) {
            self.end_prefix(end);
        }
        self.phase = "KV manager";
        self.kv.unpin(&kept.tokens, &kept.extras);
        Some(kept)
    }
}
