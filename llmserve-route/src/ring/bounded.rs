//! The strategy.

use llmserve_core::Request;
use parking_lot::Mutex;

use super::heat::Heat;
use super::points::Points;
use super::seen::Seen;
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::replica::ReplicaInfo;
use crate::strategy::turns::Turns;
use crate::strategy::{KeyBy, Strategy};

/// The load a candidate may have, relative to an even share.
const DEFAULT_FACTOR: f64 = 1.25;

/// The same candidate for the same key, as long as it does not have more than its share of the
/// load: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016).
///
/// Requests of one conversation find the KV of its earlier turns, without anybody knowing what
/// replicas hold. A candidate takes a request only while `load + 1 ≤ ceil(c · (total + 1) / n)`, of
/// outstanding requests over the `n` candidates; else it goes to the next on the ring. The bound
/// is strict: no pick ever exceeds it, from however many threads. When a replica goes, only its
/// keys move; when one comes, keys move only to it.
///
/// A hot key, with a share of recent requests above that of one replica, belongs to as many as its
/// share calls for: the first `ceil(share · n)` on the ring, of whom the least loaded answers. The
/// bound alone would fill its owner to the brim before a second sees it.
///
/// Requests without a key go to the least loaded, and so does a prompt whose beginning was not
/// among the last tens of thousands: what does not come again would be thrown at a replica
/// for nothing. A [session](llmserve_core::Routing::session) has its place from the first request on.
///
/// | setting | default |
/// | --- | --- |
/// | [`factor`](Self::factor), the `c` | 1.25 |
/// | [`key_by`](Self::key_by) | session, else the beginning of the prompt |
/// | [`max_owners`](Self::max_owners) of a hot key | any number |
/// | points on the ring a replica | 256 |
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
/// use llmserve_route::BoundedHash;
/// let router = Router::builder()
///     .replicas(["a", "b", "c", "d"].map(|name| Replica::new(name, Closed)))
///     .strategy(BoundedHash::new())
///     .build()?;
/// let request = || Request::text("Hi").routing(Routing::default().session("thread-7"));
/// // One at a time they all go to one; at once, no more than ceil(1.25 * 8 / 4) may.
/// let _streams: Vec<_> = (0..8).map(|_| router.generate(request())).collect();
/// assert!(router.stats().replicas.iter().all(|replica| replica.outstanding <= 3));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Debug)]
pub struct BoundedHash {
    factor: f64,
    key_by: KeyBy,
    max_owners: usize,
    turns: Turns,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    points: Points,
    heat: Heat,
    seen: Seen,
}

impl BoundedHash {
    /// With the defaults.
    pub fn new() -> Self {
        Self {
            factor: DEFAULT_FACTOR,
            key_by: KeyBy::default(),
            max_owners: usize::MAX,
            turns: Turns::default(),
            state: Mutex::default(),
        }
    }

    /// The load a candidate may have, relative to an even share. Near 1 spreads evenly and moves
    /// keys often, large is plain consistent hashing. Less than 1, which nobody could keep, and
    /// what is no number is taken as 1.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// What requests are kept together by.
    pub fn key_by(mut self, key_by: KeyBy) -> Self {
        self.key_by = key_by;
        self
    }

    /// The most replicas a hot key belongs to; at least 1, which treats all keys alike.
    pub fn max_owners(mut self, owners: usize) -> Self {
        self.max_owners = owners.max(1);
        self
    }
}

impl Default for BoundedHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for BoundedHash {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let Some(key) = ask.key() else {
            return self
                .turns
                .least(candidates, |_, load| u64::from(load.outstanding));
        };
        let mut state = self.state.lock();
        // A session comes again; a prompt does once it has.
        let stated = self.key_by == KeyBy::Session || ask.request.routing.session.is_some();
        let again = state.seen.again(key);
        state.heat.count(key);
        if !(again || stated) {
            return self
                .turns
                .least(candidates, |_, load| u64::from(load.outstanding));
        }
        let owners = (state.heat.share(key) * candidates.len() as f64).ceil() as usize;
        let owners = owners.clamp(1, self.max_owners);
        state.points.within(key, candidates, self.factor, owners)
    }

    fn prepare(&self, request: &Request) -> Prepared {
        Prepared {
            key: self.key_by.key(request),
            ..Prepared::default()
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.state.lock().points.join(slot, info);
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
        self.state.lock().points.leave(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Rng, mix};
    use crate::replica::Replica;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::{Bench, Nobody};
    use std::collections::BTreeMap;

    /// Members of these names on a ring.
    fn ring(names: &[String]) -> Points {
        let mut points = Points::default();
        for (at, name) in names.iter().enumerate() {
            let replica = Replica::new(name, Nobody);
            points.join(Slot::new(at as u32, 0), replica.info());
        }
        points
    }

    fn names(ring: usize, members: usize) -> Vec<String> {
        (0..members)
            .map(|at| format!("ring-{ring}-member-{at}"))
            .collect()
    }

    fn owner(points: &Points, key: u64) -> usize {
        points.from(key).next().expect("members")
    }

    #[test]
    fn keys_are_even_over_a_hundred_rings() {
        const KEYS: u64 = 40_000;
        let mut sum = 0.0;
        for at in 0..100 {
            let members = 4 + at % 13;
            let points = ring(&names(at, members));
            let mut keys = vec![0.0f64; members];
            for key in 0..KEYS {
                keys[owner(&points, mix(key))] += 1.0;
            }
            let mean = KEYS as f64 / members as f64;
            let variance = keys.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / members as f64;
            sum += variance.sqrt() / mean;
        }
        let average = sum / 100.0;
        assert!(average <= 0.08, "{average}");
    }

    #[test]
    fn a_ninth_takes_its_share_and_one_that_goes_gives_up_its_own() {
        const KEYS: u64 = 40_000;
        for at in 0..20 {
            let nine = names(at, 9);
            let mut points = ring(&nine[..8]);
            let before: Vec<_> = (0..KEYS).map(|key| owner(&points, mix(key))).collect();
            points.join(Slot::new(8, 0), Replica::new(&nine[8], Nobody).info());
            let mut taken = 0;
            for (key, before) in before.iter().enumerate() {
                let after = owner(&points, mix(key as u64));
                taken += u64::from(after == 8);
                assert!(after == 8 || after == *before);
            }
            let share = taken as f64 / KEYS as f64;
            assert!((0.08..=0.14).contains(&share), "{share}");
            // It goes again: everything is as before. Another goes: only its keys move.
            points.leave(Slot::new(8, 0));
            assert!((0..KEYS).all(|key| owner(&points, mix(key)) == before[key as usize]));
            points.leave(Slot::new(2, 0));
            assert!(before.iter().enumerate().all(|(key, before)| {
                let after = owner(&points, mix(key as u64));
                after != 2 && (*before == 2 || after == *before)
            }));
        }
    }

    #[test]
    fn the_bound_is_never_exceeded_with_a_hot_key() {
        for (seed, max_owners) in [(1, 1), (2, usize::MAX)] {
            let strategy = BoundedHash::new().max_owners(max_owners);
            let mut bench = Bench::of(8).join(&strategy);
            let rng = Rng::seeded(seed);
            let all: ReplicaSet = (0..8).collect();
            let request = Request::text("");
            let mut held: Vec<usize> = Vec::new();
            for _ in 0..100_000 {
                // Nine of ten for one key; loads go up and down around a few dozen.
                let key = if rng.below(10) == 0 { rng.bits() } else { 42 };
                let prepared = Prepared {
                    key: Some(mix(key)),
                    ..Prepared::default()
                };
                let picked = bench.pick_prepared(&strategy, &request, &prepared, &all);
                let picked = picked.expect("somebody fits");
                let total: u32 = bench.loads.iter().map(|load| load.outstanding).sum();
                let load = &mut bench.loads[picked].outstanding;
                *load += 1;
                let bound = (1.25 * f64::from(total + 1) / 8.0).ceil();
                assert!(
                    f64::from(*load) <= bound,
                    "{load} of {total}, bound {bound}"
                );
                held.push(picked);
                while rng.below(50) < held.len() {
                    let ended = held.swap_remove(rng.below(held.len()));
                    bench.loads[ended].outstanding -= 1;
                }
            }
        }
    }

    #[test]
    fn a_hot_key_has_as_many_owners_as_its_share_calls_for() {
        let picks = |strategy: &BoundedHash| {
            // Nobody is loaded: what spreads is ownership, not the bound.
            let bench = Bench::of(8).outstanding(&[50; 8]);
            let bench = bench.join(strategy);
            let all: ReplicaSet = (0..8).collect();
            let rng = Rng::seeded(9);
            let mut of = BTreeMap::new();
            let mut bench = bench;
            for turn in 0..4_000 {
                let key = if turn % 2 == 0 { 42 } else { rng.bits() };
                let prepared = Prepared {
                    key: Some(key),
                    ..Prepared::default()
                };
                let picked = bench.pick_prepared(strategy, &Request::text(""), &prepared, &all);
                let picked = picked.expect("somebody fits");
                if key == 42 && turn > 2_000 {
                    *of.entry(picked).or_insert(0) += 1;
                    // Loads differ a little, as they do.
                    bench.loads[picked].outstanding = 50 + rng.below(3) as u32;
                }
            }
            of
        };
        assert_eq!(picks(&BoundedHash::new().max_owners(1)).len(), 1);
        let spread = picks(&BoundedHash::new());
        // Half of the requests over eight replicas.
        assert!((4..=5).contains(&spread.len()), "{spread:?}");
    }

    #[test]
    fn candidates_that_are_not_on_the_ring_and_requests_without_keys() {
        let strategy = BoundedHash::new();
        let bench = Bench::of(3).outstanding(&[2, 0, 1]).join(&strategy);
        assert_eq!(bench.pick(&strategy), Some(1));
        let keyed = Request::text("something");
        let two: ReplicaSet = [0, 2].into_iter().collect();
        for _ in 0..20 {
            let picked = bench.pick_of(&strategy, &keyed, &two).unwrap();
            assert!(two.contains(picked));
        }
    }

    #[test]
    fn a_prompt_has_a_place_once_it_has_come_again() {
        let strategy = BoundedHash::new();
        let bench = Bench::of(8).outstanding(&[9, 9, 9, 8, 9, 9, 9, 9]);
        let bench = bench.join(&strategy);
        let prompt = |at: usize| Request::text(at.to_string());
        let pick = |at| bench.pick_for(&strategy, &prompt(at));
        assert!((0..50).all(|at| pick(at) == Some(3)));
        let places: Vec<_> = (0..50).map(pick).collect();
        assert!((0..8).all(|at| places.contains(&Some(at))), "{places:?}");
        assert_eq!((0..50).map(pick).collect::<Vec<_>>(), places);
        // A session has one at once.
        let session = |at: usize| {
            let routing = llmserve_core::Routing::default().session(at.to_string());
            bench.pick_for(&strategy, &prompt(0).routing(routing))
        };
        assert!((0..50).any(|at| session(at) != Some(3)));
    }
}
