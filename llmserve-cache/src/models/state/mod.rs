//! What is loaded, who waits, and what is to be done next.
//!
//! ```text
//!            first in line, room      Ok, too large, nobody can go
//!  Absent ───────────────────► Loading ────────────────────────────┐
//!    ▲                           │ │ Ok                            ▼
//!    │        Err                │ └──────────► Loaded ◄──────► closing
//!    ├───────────────────────────┘              open   patience    │ idle
//!    └────────────────────── Unloading ◄───────────────────────────┘
//! ```
//!
//! A state machine and nothing else: whoever drives it holds the lock, knows the time, and does
//! what [`State::next`] says. `S` is a service, `T` what a waiting request left behind.

mod entry;
mod next;
mod report;
mod room;
mod stats;
mod worth;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Error, Time};

pub(super) use entry::Waiting;
use entry::{Entry, Phase, Size};
pub(super) use next::Act;

/// A model's name.
pub(super) type Name = Arc<str>;

/// Models remembered that are not loaded: how often they were asked for, what they take, how their
/// last load failed.
const REMEMBERED: usize = 1024;

/// What a cache may do, as its builder was told.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Bytes of models.
    pub(super) budget: u64,
    /// Loads at a time that somebody asked for.
    pub(super) loads: usize,
    /// Requests that may wait.
    pub(super) waiting: usize,
    /// Longest that one waits.
    pub(super) max_wait: Option<Duration>,
    /// How long the first in line lets itself be overtaken.
    pub(super) patience: Duration,
    pub(super) half_life: Duration,
    /// The wait after a failed load, and the longest after many.
    pub(super) retry: (Duration, Duration),
    /// Asked so often, a model is loaded into room that nobody wants.
    pub(super) popular: Option<f64>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Asked<S> {
    /// The model is there, and counts one use more.
    Hit(S),
    /// It waits.
    Waits,
    Refused(Error),
}

/// What a recorder is told of, at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) loads: u64,
    pub(super) failures: u64,
    pub(super) evictions: u64,
    pub(super) waiting: usize,
    pub(super) bytes: u64,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) waits: u64,
    pub(super) refused: u64,
    pub(super) gave_up: u64,
    pub(super) loads: u64,
    pub(super) failures: u64,
    pub(super) evictions: u64,
}

pub(super) struct State<S, T> {
    pub(super) limits: Limits,
    entries: HashMap<Name, Entry<S, T>>,
    /// Models to be loaded, in the order in which they were first asked for.
    line: VecDeque<Name>,
    /// Requests waiting, of all models.
    waiting: usize,
    /// When requests are given up.
    deadlines: BTreeSet<(Time, u64, Name)>,
    /// Requests to be told of an error.
    failed: Vec<(T, Error)>,
    /// The age of GreedyDual: the worth of what went last.
    age: f64,
    /// How long loads take, in the mean of late.
    mean_load: Option<Duration>,
    counts: Counts,
    /// Nothing new is accepted; everything is to end once it is idle.
    closed: bool,
    /// Everything is to end now.
    stopping: bool,
}

impl<S: Clone, T> State<S, T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            line: VecDeque::new(),
            waiting: 0,
            deadlines: BTreeSet::new(),
            failed: Vec::new(),
            age: 0.0,
            mean_load: None,
            counts: Counts::default(),
            closed: false,
            stopping: false,
        }
    }

    /// A request for a model that is there: its service, with one use more. None if it is not.
    pub(super) fn hit(&mut self, now: Time, name: &str) -> Option<S> {
        if self.closed {
            return None;
        }
        let (age, half_life) = (self.age, self.limits.half_life);
        let entry = self.entries.get_mut(name)?;
        let Phase::Loaded {
            service,
            bytes,
            in_use,
            closing: false,
        } = &mut entry.phase
        else {
            return None;
        };
        *in_use += 1;
        let (service, bytes) = (service.clone(), *bytes);
        entry.asked.add_one(now, half_life);
        let frequency = entry.asked.value(now, half_life);
        entry.worth = worth::worth(age, frequency, entry.load, bytes);
        self.counts.hits += 1;
        Some(service)
    }

    /// A request for a model of which the loader knows.
    pub(super) fn ask(&mut self, now: Time, name: &Name, request: Waiting<T>) -> Asked<S> {
        if let Some(service) = self.hit(now, name) {
            return Asked::Hit(service);
        }
        if let Some(error) = self.refusal(now, name) {
            self.counts.refused += 1;
            return Asked::Refused(error);
        }
        let entry = self.entries.entry(name.clone()).or_default();
        entry.asked.add_one(now, self.limits.half_life);
        if let Some((until, _)) = request.until {
            self.deadlines.insert((until, request.id, name.clone()));
        }
        entry.waiting.push_back(request);
        self.waiting += 1;
        self.counts.waits += 1;
        self.want(now, name);
        self.forget(now);
        Asked::Waits
    }

    /// Why a request cannot wait for `name`, if it cannot.
    fn refusal(&mut self, now: Time, name: &Name) -> Option<Error> {
        if self.closed {
            return Some(Error::ShutDown);
        }
        if let Some(entry) = self.entries.get_mut(name) {
            // Refused or not, it was asked for.
            if let Some(last) = &entry.failures.last
                && now < entry.failures.until
            {
                let left = entry.failures.until - now;
                let reason = match last {
                    Error::LoadFailed { reason, .. } => reason.clone(),
                    other => other.to_string(),
                };
                let refused = Error::LoadFailed {
                    model: name.to_string(),
                    reason,
                    retry_after: Some(left),
                };
                entry.asked.add_one(now, self.limits.half_life);
                return Some(refused);
            }
        }
        let size = self.entries.get(name).map(|entry| entry.size);
        if let Some(Size::Known(bytes)) = size
            && let Some(error) = self.never_fits(name, bytes)
        {
            return Some(error);
        }
        let limit = self.limits.waiting;
        (self.waiting >= limit).then(|| Error::Overloaded {
            waiting: self.waiting,
            limit,
            unit: "requests",
            retry_after: self.mean_load.map(|load| {
                let ahead = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
                load.saturating_mul(ahead.max(1))
            }),
        })
    }

    /// Puts a model into the line, unless it is there or on its way.
    fn want(&mut self, now: Time, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if let Phase::Loading { asked, .. } = &mut entry.phase {
            *asked = true;
        } else if !entry.is_open() && entry.in_line.is_none() {
            entry.in_line = Some(now);
            self.line.push_back(name.clone());
        }
    }

    /// Forgets the least asked for of those that are only remembered, if there are too many.
    fn forget(&mut self, now: Time) {
        if self.entries.len() <= REMEMBERED {
            return;
        }
        let memories = self.entries.iter().filter(|(_, entry)| entry.is_memory());
        let value = |entry: &Entry<S, T>| entry.asked.value(now, self.limits.half_life);
        let least = memories.min_by(|(a_name, a), (b_name, b)| {
            let order = value(a).total_cmp(&value(b));
            order.then_with(|| a_name.cmp(b_name))
        });
        if let Some(name) = least.map(|(name, _)| name.clone()) {
            self.entries.remove(&name);
        }
    }

    /// A request went away before its model came.
    pub(super) fn gave_up(&mut self, name: &Name, id: u64) -> Option<T> {
        let entry = self.entries.get_mut(name)?;
        let at = entry.waiting.iter().position(|request| request.id == id)?;
        let request = entry.waiting.remove(at)?;
        if let Some((until, _)) = request.until {
            self.deadlines.remove(&(until, id, name.clone()));
        }
        self.waiting -= 1;
        self.counts.gave_up += 1;
        self.unwant(name);
        Some(request.ticket)
    }

    /// Takes a model out of the line, if nobody waits for it any more.
    fn unwant(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.waiting.is_empty()
            && !entry.pinned
            && entry.in_line.take().is_some()
        {
            self.line.retain(|other| other != name);
        }
    }

    /// Takes all who wait for a model.
    fn take_waiting(&mut self, name: &Name) -> Vec<Waiting<T>> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Vec::new();
        };
        let requests: Vec<_> = entry.waiting.drain(..).collect();
        self.waiting -= requests.len();
        for request in &requests {
            if let Some((until, _)) = request.until {
                self.deadlines.remove(&(until, request.id, name.clone()));
            }
        }
        requests
    }

    /// A model has one unfinished request less. Whether that may change what is to be done.
    pub(super) fn ended(&mut self, name: &Name) -> bool {
        if let Some(entry) = self.entries.get_mut(name)
            && let Phase::Loaded { in_use, .. } = &mut entry.phase
        {
            *in_use = in_use.saturating_sub(1);
            return *in_use == 0 && (self.closed || !self.line.is_empty());
        }
        false
    }

    /// Keeps a model, and loads it if it is not there.
    pub(super) fn pin(&mut self, now: Time, name: &Name) -> Result<(), Error> {
        if self.closed {
            return Err(Error::ShutDown);
        }
        let entry = self.entries.entry(name.clone()).or_default();
        entry.pinned = true;
        // Who is asked to stay stays, unless it has gone.
        if let Phase::Loaded { closing, .. } = &mut entry.phase {
            *closing = false;
        }
        self.want(now, name);
        Ok(())
    }

    pub(super) fn unpin(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.pinned = false;
            self.unwant(name);
        }
    }

    /// Loads a model once there is room that nobody else wants.
    pub(super) fn preload(&mut self, name: &Name) -> Result<(), Error> {
        if self.closed {
            return Err(Error::ShutDown);
        }
        let entry = self.entries.entry(name.clone()).or_default();
        entry.wished = matches!(entry.phase, Phase::Absent | Phase::Unloading { .. });
        Ok(())
    }

    /// Why a model of so many bytes has no room whoever goes, if it has none.
    fn never_fits(&self, name: &Name, bytes: u64) -> Option<Error> {
        let others = self.entries.iter().filter(|(other, _)| *other != name);
        let pinned: u64 = others
            .filter(|(_, entry)| entry.pinned && !matches!(entry.phase, Phase::Unloading { .. }))
            .map(|(_, entry)| entry.bytes())
            .sum();
        let budget = self.limits.budget;
        (bytes > budget.saturating_sub(pinned)).then(|| Error::LoadFailed {
            model: name.to_string(),
            reason: match pinned {
                0 => format!("it takes {bytes} bytes, there are {budget}: raise the budget"),
                _ => format!(
                    "it takes {bytes} bytes, and {pinned} of {budget} are pinned: unpin a model \
                     or raise the budget"
                ),
            },
            retry_after: None,
        })
    }

    /// Lets a model go as soon as it is idle.
    fn close(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name)
            && let Phase::Loaded { closing, .. } = &mut entry.phase
        {
            *closing = true;
        }
    }

    /// Bytes of those that will be free anyway.
    fn releasing(&self) -> u64 {
        self.entries.values().map(Entry::releasing).sum()
    }

    /// Loaded models that may go, with their names and whether they are in use.
    fn candidates(&self, may: impl Fn(&Name, bool) -> bool) -> Vec<room::Candidate> {
        let candidate = |(name, entry): (&Name, &Entry<S, T>)| match entry.phase {
            Phase::Loaded {
                bytes,
                in_use,
                closing,
                ..
            } if !(entry.pinned || entry.has_just_come() || closing && in_use == 0) => {
                let in_use = in_use > 0;
                may(name, in_use).then(|| room::Candidate {
                    name: name.clone(),
                    bytes,
                    worth: entry.worth,
                    in_use,
                })
            }
            _ => None,
        };
        self.entries.iter().filter_map(candidate).collect()
    }
}
