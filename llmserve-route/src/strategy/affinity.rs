//! Always the same one.

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::key::KeyBy;
use super::{LeastLoaded, Strategy};
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::outcome::{Answering, Outcome};
use crate::random::mix;
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;
use llmserve_core::Request;

/// The same candidate for the same session, or for the same tenant where a request names no
/// session: rendezvous hashing (Thaler and Ravishankar, 1998), with
/// [weights](crate::ReplicaInfo::weight) as Schindelhauer and Schomaker (2005) have them.
///
/// Each gets keys in proportion to its weight; one of weight 0 gets any only where all have 0. When
/// a replica goes, only what it had moves, to the others by their weights; when one comes, only what
/// it takes moves; and where one comes back with a higher weight, keys move only to it. Blind to
/// load: one busy session is one busy replica. Where that is too much,
/// [`BoundedHash`](crate::BoundedHash) is the same with a bound. Requests with neither session nor
/// tenant go to the least loaded, or where [`otherwise`](Self::otherwise) says.
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
pub struct Affinity {
    members: Mutex<Members>,
    otherwise: Box<dyn Strategy>,
}

#[derive(Debug, Default)]
struct Members {
    /// Hashes of names, by slot index.
    names: Vec<u64>,
    /// Those of each weight.
    weights: Vec<(u32, ReplicaSet)>,
}

impl Members {
    fn leave(&mut self, slot: Slot) {
        self.weights.retain_mut(|(_, those)| {
            those.remove(slot.index());
            !those.is_empty()
        });
    }
}

impl Affinity {
    /// By session or tenant.
    pub fn new() -> Self {
        Self {
            members: Mutex::default(),
            otherwise: Box::new(LeastLoaded::new()),
        }
    }

    /// Who picks for requests with neither session nor tenant. Default: [`LeastLoaded`].
    pub fn otherwise(mut self, strategy: impl Strategy + 'static) -> Self {
        self.otherwise = Box::new(strategy);
        self
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Affinity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Affinity")
            .field("members", &*self.members.lock())
            .finish_non_exhaustive()
    }
}

/// How far a member with this hash and weight is behind, the least being the first: an
/// exponential variable whose rate is the weight, so that each is first with its weight's chance.
fn behind(hash: u64, weight: u32) -> f64 {
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln() / f64::from(weight)
}

impl Strategy for Affinity {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let Some(key) = ask.key() else {
            return self.otherwise.pick(ask, candidates);
        };
        let members = self.members.lock();
        let (mut least, mut found) = (f64::INFINITY, None);
        for (weight, those) in &members.weights {
            let mut those = those.clone();
            those.intersect(candidates.set());
            // Of those that weigh the same the highest hash is first, without logarithms.
            let (mut most, mut first) = (0, usize::MAX);
            those.for_each(|index| {
                let hash = mix(key ^ members.names[index]);
                let more = (hash > most) | (first == usize::MAX);
                most = if more { hash } else { most };
                first = if more { index } else { first };
            });
            if first == usize::MAX {
                continue;
            }
            let behind = behind(most, *weight);
            // Without any weight it is infinitely far behind: a last resort.
            if found.is_none() || behind < least {
                (least, found) = (behind, Some(first));
            }
        }
        found.map(|index| candidates.fleet().slot(index))
    }

    fn prepare(&self, request: &Request) -> Prepared {
        let prepared = Prepared {
            key: KeyBy::Session.key(request),
            ..Prepared::default()
        };
        match prepared.key {
            Some(_) => prepared,
            // A key would be taken for a session's.
            None => Prepared {
                key: None,
                ..self.otherwise.prepare(request)
            },
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let mut members = self.members.lock();
        members.leave(slot);
        if slot.index() >= members.names.len() {
            members.names.resize(slot.index() + 1, 0);
        }
        members.names[slot.index()] = xxh3_64(info.name.as_bytes());
        let of = |(weight, _): &(u32, ReplicaSet)| *weight == info.weight;
        let at = members.weights.iter().position(of);
        let at = at.unwrap_or_else(|| {
            members.weights.push((info.weight, ReplicaSet::new()));
            members.weights.len() - 1
        });
        members.weights[at].1.insert(slot.index());
        drop(members);
        self.otherwise.joined(slot, info);
    }

    fn left(&self, slot: Slot) {
        self.members.lock().leave(slot);
        self.otherwise.left(slot);
    }

    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
        self.otherwise.dispatched(ask, slot)
    }

    fn answering(&self, slot: Slot, answering: &Answering) {
        self.otherwise.answering(slot, answering);
    }

    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        self.otherwise.ended(slot, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Which of two gets each of 4,000 sessions.
    fn split(weights: [u32; 2]) -> Vec<usize> {
        let strategy = Affinity::new();
        let change = weights.map(|weight| move |r: crate::Replica| r.weight(weight));
        let bench = Bench::with(change).join(&strategy);
        let sessions = (0..4_000).map(|session: u32| {
            let routing = llmserve_core::Routing::default().session(session.to_string());
            let request = Request::text("").routing(routing);
            bench.pick_for(&strategy, &request).unwrap()
        });
        sessions.collect()
    }

    #[test]
    fn a_canary_gets_its_share_and_keeps_it_as_it_grows() {
        let (five, twenty) = (split([95, 5]), split([80, 20]));
        let share = |of: &[usize]| of.iter().sum::<usize>();
        assert!((150..250).contains(&share(&five)), "{}", share(&five));
        assert!((700..900).contains(&share(&twenty)), "{}", share(&twenty));
        // Whoever has it, keeps it.
        assert!(
            five.iter()
                .zip(&twenty)
                .all(|(before, after)| before <= after)
        );
        // Nobody has it, everybody has it, and nobody else is there.
        assert_eq!(share(&split([1, 0])), 0);
        assert_eq!(share(&split([0, 1])), 4_000);
        assert!((1_850..2_150).contains(&share(&split([0, 0]))));
        assert_eq!(split([95, 5]), five);
    }

    #[test]
    fn without_a_key_another_strategy_may_decide() {
        let strategy = Affinity::new().otherwise(crate::Weighted::new());
        let change = [95, 5].map(|weight| move |r: crate::Replica| r.weight(weight));
        let bench = Bench::with(change).join(&strategy);
        let picks = (0..100).filter_map(|_| bench.pick(&strategy));
        assert_eq!(picks.sum::<usize>(), 5);
    }
}
