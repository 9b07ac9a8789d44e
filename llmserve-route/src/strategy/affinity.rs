//! Always the same one.

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::key::KeyBy;
use super::{Strategy, turns::Turns};
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::random::mix;
use crate::replica::ReplicaInfo;
use llmserve_core::Request;

/// The same candidate for the same session, or for the same tenant where a request names no
/// session: rendezvous hashing (Thaler and Ravishankar, 1998).
///
/// When a replica goes, only what it had moves, to all others alike; when one comes, only what it
/// takes moves. Blind to load: one busy session is one busy replica. Where that is too much,
/// [`BoundedHash`](crate::BoundedHash) is the same with a bound. Requests with neither session nor
/// tenant go to the least loaded.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request, Routing};
/// # use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::Affinity;
/// let router = Router::builder()
///     .replicas(["a", "b", "c"].map(|name| Replica::new(name, Closed)))
///     .strategy(Affinity::new())
///     .build()?;
/// let request = || Request::text("Hi").routing(Routing::default().session("thread-7"));
/// (0..9).for_each(|_| drop(router.generate(request())));
/// assert!(router.stats().replicas.iter().any(|replica| replica.dispatched == 9));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Debug, Default)]
pub struct Affinity {
    /// By slot index, a hash of the member's name.
    names: Mutex<Vec<u64>>,
    turns: Turns,
}

impl Affinity {
    /// By session or tenant.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for Affinity {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let Some(key) = ask.key() else {
            return self
                .turns
                .least(candidates, |_, load| f64::from(load.outstanding));
        };
        let names = self.names.lock();
        let (mut most, mut found) = (0, None);
        candidates.each(|index, _| {
            let name = names.get(index).copied().unwrap_or_default();
            let score = mix(key ^ name);
            if found.is_none() || score > most {
                (most, found) = (score, Some(index));
            }
        });
        found.map(|index| candidates.fleet().slot(index))
    }

    fn prepare(&self, request: &Request) -> Prepared {
        Prepared {
            key: KeyBy::Session.key(request),
            ..Prepared::default()
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let mut names = self.names.lock();
        if slot.index() >= names.len() {
            names.resize(slot.index() + 1, 0);
        }
        names[slot.index()] = xxh3_64(info.name.as_bytes());
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::Bench;

    #[test]
    fn only_what_the_lost_one_had_moves() {
        let strategy = Affinity::new();
        let bench = Bench::of(5).join(&strategy);
        let all: ReplicaSet = (0..5).collect();
        let fewer: ReplicaSet = [0, 1, 2, 4].into_iter().collect();
        let mut of = [0; 5];
        let mut moved = [0; 5];
        for tenant in 0..1000 {
            let request = Request::text("").tenant(tenant.to_string());
            let before = bench.pick_of(&strategy, &request, &all).unwrap();
            let after = bench.pick_of(&strategy, &request, &fewer).unwrap();
            of[before] += 1;
            if before == 3 {
                moved[after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(of.iter().all(|keys| (150..250).contains(keys)), "{of:?}");
        assert!([0, 1, 2, 4].iter().all(|at| moved[*at] > 25), "{moved:?}");
    }

    #[test]
    fn without_a_key_load_decides() {
        let strategy = Affinity::new();
        let bench = Bench::of(3).outstanding(&[1, 0, 1]).join(&strategy);
        assert_eq!(bench.pick(&strategy), Some(1));
    }
}
