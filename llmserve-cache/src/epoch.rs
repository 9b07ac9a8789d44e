//! Making answers old: all of them, a tenant's, a model's, or those with a tag.
//!
//! Every scope has an epoch, a number drawn at random whenever the scope is invalidated. An answer
//! is stored with a stamp, a hash of the epochs of its scopes when it was *begun*, and is given out
//! only while they are the same. So invalidating is one draw, whatever is stored and wherever, and
//! an answer that was under way is old before it is stored. Numbers drawn at random need no order
//! and no clock between hosts: whoever knows another epoch has another stamp.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Scopes remembered one by one. Beyond it everything is invalidated once, and they are forgotten:
/// 16 bytes each, 1 MiB in all.
pub(crate) const MOST_SCOPES: usize = 1 << 16;

/// Which answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// All of the store.
    All,
    /// Those of a tenant.
    Tenant(String),
    /// Those of a model, by the name that requests give.
    Model(String),
    /// Those with a tag: see [`CacheLayerBuilder::tags`](crate::CacheLayerBuilder::tags).
    Tag(String),
}

impl Scope {
    /// A tenant's.
    pub fn tenant(name: impl Into<String>) -> Self {
        Scope::Tenant(name.into())
    }

    /// A model's.
    pub fn model(name: impl Into<String>) -> Self {
        Scope::Model(name.into())
    }

    /// A tag's.
    pub fn tag(name: impl Into<String>) -> Self {
        Scope::Tag(name.into())
    }

    /// Stable across processes. Two names of one number are invalidated together, no more.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Scope::All => ALL,
            Scope::Tenant(name) => tenant_number(name),
            Scope::Model(name) => model_number(name),
            Scope::Tag(name) => tag_number(name),
        }
    }
}

/// The number of [`Scope::All`].
pub(crate) const ALL: u64 = 0;

pub(crate) fn tenant_number(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 1).max(1)
}

pub(crate) fn model_number(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 2).max(1)
}

pub(crate) fn tag_number(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 3).max(1)
}

/// The scopes of one request, and their epochs at one moment, in a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(pub(crate) u64);

/// The epochs of one store. Layers that share the store share them.
///
/// ```
/// use llmserve_cache::{Epochs, Scope};
/// let epochs = Epochs::default();
/// let acme = || epochs.stamp([&Scope::tenant("acme"), &Scope::model("small")]);
/// let before = acme();
/// epochs.invalidate(&Scope::tenant("other"));
/// assert_eq!(acme(), before);
/// epochs.invalidate(&Scope::model("small"));
/// assert_ne!(acme(), before);
/// ```
pub struct Epochs {
    state: RwLock<State>,
    /// Told of every invalidation made here: a store that shares or keeps epochs.
    listener: Mutex<Option<Arc<Listener>>>,
    random: RandomState,
}

type Listener = dyn Fn(u64, u64) + Send + Sync;

struct State {
    /// Never 0, so that epochs that were lost are not those from before the first invalidation.
    all: u64,
    scopes: HashMap<u64, u64>,
}

impl Epochs {
    /// From now on everything in `scope` that was begun before is old.
    pub fn invalidate(&self, scope: &Scope) {
        let number = scope.number();
        let epoch = self.draw();
        self.set(number, epoch);
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener(number, epoch);
        }
    }

    /// The stamp of an answer in these scopes. [`Scope::All`] is always one of them.
    pub fn stamp<'a>(&self, scopes: impl IntoIterator<Item = &'a Scope>) -> Stamp {
        self.stamp_of(scopes.into_iter().map(Scope::number))
    }

    pub(crate) fn stamp_of(&self, scopes: impl Iterator<Item = u64>) -> Stamp {
        let state = self.state.read();
        let stamp = scopes.fold(state.all, |stamp, scope| {
            let epoch = state.scopes.get(&scope).copied().unwrap_or(0);
            xxh3_64_with_seed(&epoch.to_le_bytes(), stamp ^ scope)
        });
        Stamp(stamp)
    }

    /// The numbers of every scope that has an epoch, [`Scope::All`]'s (0) first, with their epochs:
    /// what a store that outlives the process keeps.
    pub fn snapshot(&self) -> Vec<(u64, u64)> {
        let state = self.state.read();
        let scopes = state.scopes.iter().map(|(&scope, &epoch)| (scope, epoch));
        std::iter::once((ALL, state.all)).chain(scopes).collect()
    }

    /// Takes over what another place says of a scope, by its number. Nobody is told.
    pub fn set(&self, scope: u64, epoch: u64) {
        let fresh = self.draw();
        let mut state = self.state.write();
        if scope == ALL {
            state.all = epoch.max(1);
            return;
        }
        if state.scopes.len() >= MOST_SCOPES && !state.scopes.contains_key(&scope) {
            state.scopes.clear();
            state.all = fresh;
        }
        state.scopes.insert(scope, epoch);
    }

    /// Takes over what another place says of all scopes: those that it does not name have had no
    /// epoch. Nobody is told.
    #[cfg(any(feature = "redis", feature = "disk"))]
    pub(crate) fn replace(&self, mut scopes: HashMap<u64, u64>) {
        let all = scopes.remove(&ALL).unwrap_or_else(|| self.draw()).max(1);
        *self.state.write() = State { all, scopes };
    }

    /// Calls `listener`, in place of any other, with the scope's number and its epoch at every
    /// [`invalidate`](Self::invalidate) from now on: for a store that keeps or shares them.
    pub fn listen(&self, listener: impl Fn(u64, u64) + Send + Sync + 'static) {
        *self.listener.lock() = Some(Arc::new(listener));
    }

    /// A number nobody else has. The standard library's hasher keys are its only random numbers.
    pub(crate) fn draw(&self) -> u64 {
        RandomState::new()
            .hash_one(self.random.hash_one(std::time::Instant::now()))
            .max(1)
    }
}

impl Default for Epochs {
    fn default() -> Self {
        let random = RandomState::new();
        Self {
            state: RwLock::new(State {
                all: random.hash_one(0).max(1),
                scopes: HashMap::new(),
            }),
            listener: Mutex::default(),
            random,
        }
    }
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scopes = self.state.read().scopes.len();
        f.debug_struct("Epochs")
            .field("scopes", &scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_old_alone_and_all_is_everything() {
        let epochs = Epochs::default();
        let scopes = [Scope::tenant("x"), Scope::model("x"), Scope::tag("x")];
        let stamps = || scopes.each_ref().map(|scope| epochs.stamp([scope]));
        for (changed, scope) in scopes.iter().enumerate() {
            let before = stamps();
            epochs.invalidate(scope);
            let after = stamps();
            for other in 0..3 {
                assert_eq!(before[other] == after[other], other != changed);
            }
        }
        let before = stamps();
        epochs.invalidate(&Scope::All);
        assert!(before.iter().zip(stamps()).all(|(old, new)| *old != new));
    }

    #[test]
    fn no_epoch_comes_back() {
        let epochs = Epochs::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(epochs.stamp([&Scope::tag("t")]).0));
            epochs.invalidate(&Scope::tag("t"));
        }
        // Two stores begin in different epochs, so an epoch that was lost is none of before.
        assert_ne!(epochs.stamp([]), Epochs::default().stamp([]));
    }

    #[test]
    fn too_many_scopes_are_all() {
        let epochs = Epochs::default();
        for name in 0..MOST_SCOPES {
            epochs.invalidate(&Scope::tag(name.to_string()));
        }
        let before = epochs.stamp([]);
        epochs.invalidate(&Scope::tag("5"));
        assert_eq!(epochs.stamp([]), before);
        epochs.invalidate(&Scope::tag("one more"));
        assert_ne!(epochs.stamp([]), before);
        assert_eq!(epochs.snapshot().len(), 2);
    }

    #[test]
    fn who_listens_hears_what_was_set() {
        let epochs = Epochs::default();
        let other = Arc::new(Epochs::default());
        let heard = other.clone();
        for (scope, epoch) in epochs.snapshot() {
            other.set(scope, epoch);
        }
        epochs.listen(move |scope, epoch| heard.set(scope, epoch));
        epochs.invalidate(&Scope::All);
        epochs.invalidate(&Scope::tenant("a"));
        assert_eq!(
            epochs.stamp([&Scope::tenant("a")]),
            other.stamp([&Scope::tenant("a")])
        );
    }
}
