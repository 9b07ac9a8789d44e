//! The state machine against a model of it that only counts, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Error, LoadProgress, Time};

use crate::models::state::{Act, Asked, Limits, Name, State, Waiting};
use crate::tests::Random;

const MODELS: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waits,
    Started,
    Failed,
    GaveUp,
}

/// What a cache may be seen to do.
struct World {
    state: State<usize, u64>,
    now: Time,
    random: Random,
    budget: u64,
    /// What models say that they take, and what they take.
    sizes: Vec<(u64, u64)>,
    sizing: Vec<Name>,
    loading: BTreeMap<Name, (u64, Arc<LoadProgress>)>,
    loaded: BTreeMap<Name, u64>,
    unloading: BTreeMap<Name, u64>,
    uses: BTreeMap<Name, usize>,
    pinned: BTreeSet<Name>,
    /// Each request's model and fate, by its number.
    requests: Vec<(Name, Fate)>,
    /// Models that requests wait for and that do not load yet, in the order they were asked for.
    line: Vec<Name>,
    /// Whether estimates are right and nothing is pinned, so that the line's order is plain.
    plain: bool,
    done: bool,
}

fn number(name: &str) -> usize {
    name.parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let plain = random.below(2) == 0;
        let budget = 20 + random.below(30) as u64;
        let sizes = (0..MODELS)
            .map(|_| {
                // Some never fit.
                let size = 1 + random.below(24) as u64;
                let real = match plain {
                    true => size,
                    false => (size + random.below(6) as u64).saturating_sub(2),
                };
                (size, real)
            })
            .collect();
        let limits = Limits {
            budget,
            loads: 1 + random.below(2),
            waiting: 4 + random.below(12),
            max_wait: (random.below(2) == 0).then_some(Duration::from_secs(30)),
            patience: Duration::from_secs(random.below(8) as u64),
            half_life: Duration::from_secs(20),
            retry: (Duration::from_secs(1), Duration::from_secs(8)),
            popular: (random.below(2) == 0).then_some(2.0),
        };
        Self {
            state: State::new(limits),
            now: Time::ZERO,
            random,
            budget,
            sizes,
            sizing: Vec::new(),
            loading: BTreeMap::new(),
            loaded: BTreeMap::new(),
            unloading: BTreeMap::new(),
            uses: BTreeMap::new(),
            pinned: BTreeSet::new(),
            requests: Vec::new(),
            line: Vec::new(),
            plain,
            done: false,
        }
    }

    fn any<K: Clone, V>(random: &mut Random, map: &BTreeMap<K, V>) -> Option<K> {
        let at = random.below(map.len().max(1));
        map.keys().nth(at).cloned()
    }

    fn model(&mut self) -> Name {
        // The first are the most popular.
        let at = self.random.below(MODELS).min(self.random.below(MODELS));
        at.to_string().into()
    }

    fn ask(&mut self) {
        let name = self.model();
        let id = self.requests.len() as u64;
        let limit = self.state.limits.max_wait;
        let waiting = Waiting {
            id,
            until: limit.map(|limit| (self.now + limit, limit)),
            ticket: id,
        };
        let fate = match self.state.ask(self.now, &name, waiting) {
            Asked::Hit(service) => {
                assert_eq!(service, number(&name));
                assert!(
                    self.loaded.contains_key(&name),
                    "a hit on what is not there"
                );
                *self.uses.entry(name.clone()).or_default() += 1;
                Fate::Started
            }
            Asked::Waits => {
                if !self.loading.contains_key(&name) && !self.line.contains(&name) {
                    self.line.push(name.clone());
                }
                Fate::Waits
            }
            Asked::Refused(error) => {
                let expected = matches!(
                    error,
                    Error::Overloaded { .. } | Error::LoadFailed { .. } | Error::ShutDown
                );
                assert!(expected, "{error}");
                Fate::Failed
            }
        };
        self.requests.push((name, fate));
    }

    fn waiting(&self, name: &Name) -> usize {
        let waits = |(model, fate): &&(Name, Fate)| model == name && *fate == Fate::Waits;
        self.requests.iter().filter(waits).count()
    }

    fn unlined(&mut self, name: &Name) {
        if self.waiting(name) == 0 {
            self.line.retain(|other| other != name);
        }
    }

    fn give_up(&mut self) {
        let waits: Vec<_> = (0..self.requests.len())
            .filter(|id| self.requests[*id].1 == Fate::Waits)
            .collect();
        if waits.is_empty() {
            return;
        }
        let id = waits[self.random.below(waits.len())];
        let name = self.requests[id].0.clone();
        assert_eq!(self.state.gave_up(&name, id as u64), Some(id as u64));
        assert_eq!(self.state.gave_up(&name, id as u64), None);
        self.requests[id].1 = Fate::GaveUp;
        self.unlined(&name);
    }

    fn end(&mut self) {
        if let Some(name) = Self::any(&mut self.random, &self.uses) {
            self.state.ended(&name);
            let uses = self.uses.get_mut(&name).unwrap();
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&name);
            }
        }
    }

    /// Something that takes time is over.
    fn report(&mut self, may_fail: bool) {
        let fails = may_fail && self.random.below(6) == 0;
        let error = || Error::LoadFailed {
            model: String::new(),
            reason: "on purpose".into(),
            retry_after: None,
        };
        match self.random.below(3) {
            0 if !self.sizing.is_empty() => {
                let name = self.sizing.remove(0);
                let size = self.sizes[number(&name)].0;
                let size = if fails { Err(error()) } else { Ok(size) };
                self.state.sized(self.now, &name, size);
            }
            1 => {
                let Some(name) = Self::any(&mut self.random, &self.loading) else {
                    return;
                };
                let (_, progress) = self.loading.remove(&name).unwrap();
                let real = self.sizes[number(&name)].1;
                let result = match (fails, progress.is_cancelled()) {
                    (true, _) => Err(error()),
                    (false, true) if self.random.below(2) == 0 => Err(Error::Cancelled),
                    _ => Ok((number(&name), real)),
                };
                if result.is_ok() {
                    self.loaded.insert(name.clone(), real);
                } else if progress.is_cancelled() && self.waiting(&name) > 0 {
                    self.line.insert(0, name.clone());
                }
                self.state.loaded(self.now, &name, result);
            }
            _ => {
                if let Some(name) = Self::any(&mut self.random, &self.unloading) {
                    self.unloading.remove(&name);
                    self.state.unloaded(&name);
                }
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..=3 => self.ask(),
            4 => self.give_up(),
            5..=6 => self.end(),
            7 => self.now += Duration::from_secs(self.random.below(5) as u64),
            8 if !self.plain => {
                let name = self.model();
                if self.random.below(2) == 0 {
                    self.pinned.insert(name.clone());
                    self.state.pin(self.now, &name).unwrap();
                } else {
                    self.pinned.remove(&name);
                    self.state.unpin(&name);
                }
            }
            9 if !self.plain => {
                let name = self.model();
                self.state.preload(&name).unwrap();
            }
            _ => self.report(true),
        }
        self.act();
    }

    /// Does what the state says, and looks whether it may say so.
    fn act(&mut self) {
        while !self.done
            && let Some(act) = self.state.next(self.now)
        {
            match act {
                Act::Size(name) => {
                    assert!(self.sizing.is_empty());
                    self.sizing.push(name);
                }
                Act::Load(name, progress) => self.begins(name, progress),
                Act::Unload(name, service) => {
                    assert_eq!(service, number(&name));
                    assert!(!self.uses.contains_key(&name), "{name} went while in use");
                    let bytes = self.loaded.remove(&name).unwrap();
                    if self.pinned.contains(&name) {
                        // Only what turned out too large as it came.
                        assert!(self.taken() + bytes > self.budget, "{name} is pinned");
                    }
                    self.unloading.insert(name, bytes);
                }
                Act::Start(name, service, requests) => {
                    assert_eq!(service, number(&name));
                    assert!(self.loaded.contains_key(&name));
                    *self.uses.entry(name.clone()).or_default() += requests.len();
                    for request in requests {
                        assert_eq!(request.id, request.ticket);
                        self.tell(request.ticket, &name, Fate::Started);
                    }
                    self.line.retain(|other| *other != name);
                }
                Act::Fail(failed) => {
                    for (id, error) in failed {
                        if let Error::TimedOut { limit, .. } = error {
                            assert_eq!(Some(limit), self.state.limits.max_wait);
                        }
                        let name = self.requests[id as usize].0.clone();
                        self.tell(id, &name, Fate::Failed);
                        self.unlined(&name);
                    }
                }
                Act::Done => self.done = true,
            }
        }
        self.fits();
    }

    fn tell(&mut self, id: u64, model: &Name, told: Fate) {
        let (name, fate) = &mut self.requests[id as usize];
        assert_eq!((&*name, *fate), (model, Fate::Waits), "told twice");
        *fate = told;
    }

    fn begins(&mut self, name: Name, progress: Arc<LoadProgress>) {
        assert!(!self.loaded.contains_key(&name) && !self.unloading.contains_key(&name));
        let first = self.line.first();
        if self.plain {
            match self.line.is_empty() {
                true => assert!(
                    self.state.limits.popular.is_some(),
                    "nobody asked for {name}"
                ),
                false => assert_eq!(first, Some(&name), "out of turn: {:?}", self.line),
            }
        }
        self.line.retain(|other| *other != name);
        let stats = self.state.stats(self.now);
        let bytes = stats.model(&name).unwrap().bytes.unwrap();
        self.loading.insert(name, (bytes, progress));
        assert!(self.taken() <= self.budget, "no room was made");
    }

    fn taken(&self) -> u64 {
        let loading = self.loading.values().map(|(bytes, _)| *bytes);
        let loading = loading.sum::<u64>();
        loading + self.loaded.values().sum::<u64>() + self.unloading.values().sum::<u64>()
    }

    fn fits(&self) {
        let stats = self.state.stats(self.now);
        assert_eq!(stats.bytes, self.taken());
        // What is too much is on its way out already.
        let leaving = self.unloading.values().sum::<u64>();
        assert!(self.taken() - leaving <= self.budget, "{stats:?}");
        let waiting = self
            .requests
            .iter()
            .filter(|(_, fate)| *fate == Fate::Waits);
        assert_eq!(stats.waiting, waiting.count());
        assert!(stats.waiting <= self.state.limits.waiting);
        for model in &stats.models {
            let name: Name = model.name.as_str().into();
            assert_eq!(model.waiting, self.waiting(&name));
            assert_eq!(model.in_use, self.uses.get(&name).copied().unwrap_or(0));
        }
    }

    fn is_settled(&self) -> bool {
        let waits = self.requests.iter().any(|(_, fate)| *fate == Fate::Waits);
        let pending =
            self.loading.is_empty() && self.sizing.is_empty() && self.unloading.is_empty();
        !waits && pending && self.uses.is_empty()
    }

    /// Everything comes to its end if nothing new comes.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            if self.is_settled() {
                break;
            }
            self.end();
            self.report(false);
            self.now += Duration::from_millis(100);
            self.act();
        }
        assert!(self.uses.is_empty() && self.loading.is_empty() && self.sizing.is_empty());
        let waiting: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, fate)| *fate == Fate::Waits)
            .collect();
        assert!(
            waiting.is_empty(),
            "{waiting:?} in {:?}",
            self.state.stats(self.now)
        );
    }
}

#[test]
fn random_lives_keep_every_promise() {
    for seed in 0..250 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        world.settle();
        for _ in 0..100 {
            world.step();
        }
        // The end, with everything under way.
        world.pinned.clear();
        world.state.close_all(false);
        world.act();
        world.settle();
        assert!(
            world.done,
            "seed {seed}: {:?}",
            world.state.stats(world.now)
        );
        assert_eq!(world.taken(), 0);
    }
}
