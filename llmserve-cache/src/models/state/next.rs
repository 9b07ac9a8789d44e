//! What is to be done next.

use std::sync::Arc;

use llmserve_core::{Error, LoadProgress, Time};

use super::entry::{Phase, Size};
use super::{Name, State, Waiting, room};

/// Something to be done by whoever drives the state, and reported back where it takes time.
#[derive(Debug)]
pub(in crate::models) enum Act<S, T> {
    /// Ask the loader what the model takes, and report to [`State::sized`].
    Size(Name),
    /// Load it, and report to [`State::loaded`].
    Load(Name, Arc<LoadProgress>),
    /// Drop the service, and report to [`State::unloaded`].
    Unload(Name, S),
    /// Ask the service these requests. Each is a use of it that [`State::ended`] ends.
    Start(Name, S, Vec<Waiting<T>>),
    /// Tell these requests of errors.
    Fail(Vec<(T, Error)>),
    /// Nothing will ever be to do again.
    Done,
}

impl<S: Clone, T> State<S, T> {
    /// What is to be done now; nothing until the next call from outside, or the time that
    /// [`due`](Self::due) says.
    pub(in crate::models) fn next(&mut self, now: Time) -> Option<Act<S, T>> {
        self.expire(now);
        if self.closed {
            self.wind_down();
        }
        self.line_up(now);
        if !self.failed.is_empty() {
            return Some(Act::Fail(std::mem::take(&mut self.failed)));
        }
        self.start()
            .or_else(|| self.unload())
            .or_else(|| self.load(now))
            .or_else(|| self.size())
            .or_else(|| self.is_done().then_some(Act::Done))
    }

    /// When there may be something to do although nothing has happened.
    pub(in crate::models) fn due(&self, now: Time) -> Option<Time> {
        let deadline = self.deadlines.first().map(|(at, ..)| *at);
        let head = self.line.front().and_then(|name| self.entries.get(name));
        let patience = head
            .and_then(|entry| entry.in_line)
            .map(|since| since.saturating_add(self.limits.patience))
            .filter(|at| *at > now);
        [deadline, patience].into_iter().flatten().min()
    }

    /// Nothing new any more; `now` whatever is unfinished ends as well.
    pub(in crate::models) fn close_all(&mut self, now: bool) {
        self.closed = true;
        self.stopping |= now;
    }

    fn expire(&mut self, now: Time) {
        while let Some((at, id, name)) = self.deadlines.first().cloned()
            && at <= now
        {
            let entry = self.entries.get(&name);
            let limit = entry
                .and_then(|entry| entry.waiting.iter().find(|request| request.id == id))
                .and_then(|request| request.until)
                .map(|(_, limit)| limit);
            match (self.gave_up(&name, id), limit) {
                (Some(ticket), Some(limit)) => {
                    let what = "loaded model";
                    self.failed.push((ticket, Error::TimedOut { what, limit }));
                }
                _ => {
                    self.deadlines.remove(&(at, id, name));
                }
            }
        }
    }

    /// Lets go whatever nobody waits for.
    fn wind_down(&mut self) {
        let names: Vec<Name> = self.entries.keys().cloned().collect();
        for name in names {
            if self.stopping {
                self.give_up(&name, &Error::ShutDown);
            }
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            entry.pinned = false;
            entry.wished = false;
            let wanted = !entry.waiting.is_empty();
            match &mut entry.phase {
                Phase::Loading { progress, .. } if !wanted => progress.cancel(),
                Phase::Loaded {
                    in_use, closing, ..
                } if !wanted && (*in_use == 0 || self.stopping) => *closing = true,
                _ => {}
            }
            self.unwant(&name);
        }
    }

    /// Decides who makes room for the first in line, and that nobody else has to.
    fn line_up(&mut self, now: Time) {
        if !self.stopping {
            for entry in self.entries.values_mut() {
                if let Phase::Loaded {
                    in_use: 1..,
                    closing,
                    ..
                } = &mut entry.phase
                {
                    *closing = false;
                }
            }
        }
        loop {
            self.make_room(now);
            let (mut left, mut waited_for) = (false, false);
            let entries = &mut self.entries;
            self.line.retain(|name| match entries.get_mut(name) {
                Some(entry) if entry.is_open() => {
                    entry.in_line = None;
                    left = true;
                    waited_for |= !entry.waiting.is_empty();
                    false
                }
                Some(_) => true,
                None => false,
            });
            // One that requests wait for is asked first: it must not be closed again before.
            if !left || waited_for {
                return;
            }
        }
    }

    fn make_room(&mut self, now: Time) {
        while let Some(name) = self.line.front().cloned() {
            let Some(entry) = self.entries.get(&name) else {
                self.line.pop_front();
                continue;
            };
            let (Size::Known(bytes), Phase::Absent, Some(since)) =
                (entry.size, &entry.phase, entry.in_line)
            else {
                return;
            };
            if let Some(error) = self.never_fits(&name, bytes) {
                self.give_up(&name, &error);
                continue;
            }
            let free = self.limits.budget.saturating_sub(self.used());
            let coming = free.saturating_add(self.releasing());
            let Some(lacking) = bytes.checked_sub(coming).filter(|by| *by > 0) else {
                return;
            };
            // What is loaded on suspicion is in the way of what was asked for.
            let mut cancelled = false;
            for entry in self.entries.values_mut() {
                if let Phase::Loading {
                    progress,
                    asked: false,
                    ..
                } = &entry.phase
                    && !progress.is_cancelled()
                {
                    progress.cancel();
                    cancelled = true;
                }
            }
            if cancelled {
                continue;
            }
            let patient = now < since.saturating_add(self.limits.patience);
            let candidates = self.candidates(|_, in_use| !(patient && in_use));
            if let Some(victims) = room::victims(candidates, lacking) {
                victims.iter().for_each(|name| self.close(name));
            }
            return;
        }
    }

    /// Requests that wait for a model that is there.
    fn start(&mut self) -> Option<Act<S, T>> {
        let ready = |(_, entry): &(&Name, &super::Entry<S, T>)| {
            entry.is_open() && !entry.waiting.is_empty()
        };
        let name = self.entries.iter().find(ready)?.0.clone();
        let requests = self.take_waiting(&name);
        let Phase::Loaded {
            service, in_use, ..
        } = &mut self.entries.get_mut(&name)?.phase
        else {
            return None;
        };
        *in_use += requests.len();
        Some(Act::Start(name, service.clone(), requests))
    }

    /// A model that is to go and is idle.
    fn unload(&mut self) -> Option<Act<S, T>> {
        let stopping = self.stopping;
        for (name, entry) in &mut self.entries {
            let Phase::Loaded {
                bytes,
                in_use,
                closing: true,
                ..
            } = entry.phase
            else {
                continue;
            };
            if in_use > 0 && !stopping {
                continue;
            }
            let gone = std::mem::replace(&mut entry.phase, Phase::Unloading { bytes });
            let Phase::Loaded { service, .. } = gone else {
                continue;
            };
            if !self.closed {
                self.age = self.age.max(entry.worth);
                self.counts.evictions += 1;
            }
            return Some(Act::Unload(name.clone(), service));
        }
        None
    }

    /// The first in line if it has room, or else, if nobody is in line, one on suspicion.
    fn load(&mut self, now: Time) -> Option<Act<S, T>> {
        let free = self.limits.budget.saturating_sub(self.used());
        let running = |asked: bool| {
            let phases = self.entries.values().map(|entry| &entry.phase);
            phases
                .filter(|phase| matches!(phase, Phase::Loading { asked: a, .. } if *a == asked))
                .count()
        };
        let (name, bytes, asked) = match self.line.front() {
            Some(name) => {
                let entry = self.entries.get(name)?;
                let (Size::Known(bytes), Phase::Absent) = (entry.size, &entry.phase) else {
                    return None;
                };
                if bytes > free || running(true) >= self.limits.loads {
                    return None;
                }
                (name.clone(), bytes, true)
            }
            None => {
                if self.closed || running(true) + running(false) > 0 {
                    return None;
                }
                let (name, bytes) = self.suspect(now, free)?;
                (name, bytes, false)
            }
        };
        let entry = self.entries.get_mut(&name)?;
        entry.wished = false;
        if entry.in_line.take().is_some() {
            self.line.pop_front();
        }
        let progress = Arc::new(LoadProgress::default());
        entry.phase = Phase::Loading {
            bytes,
            progress: progress.clone(),
            began: now,
            asked,
        };
        Some(Act::Load(name, progress))
    }

    /// A model worth loading although nobody waits for it: one that a host wishes for, or else the
    /// most popular, if there is room for it as things are.
    fn suspect(&self, now: Time, free: u64) -> Option<(Name, u64)> {
        let fits = self
            .entries
            .iter()
            .filter_map(|(name, entry)| match entry.size {
                Size::Known(bytes)
                    if matches!(entry.phase, Phase::Absent)
                        && bytes <= free
                        && (entry.failures.last.is_none() || now >= entry.failures.until) =>
                {
                    let asked = entry.asked.value(now, self.limits.half_life);
                    Some((name, bytes, entry.wished, asked))
                }
                _ => None,
            });
        let least = self.limits.popular;
        fits.filter(|(_, _, wished, asked)| *wished || least.is_some_and(|least| *asked >= least))
            .max_by(|a, b| {
                let order = a.2.cmp(&b.2).then(a.3.total_cmp(&b.3));
                order.then_with(|| b.0.cmp(a.0))
            })
            .map(|(name, bytes, ..)| (name.clone(), bytes))
    }

    /// A model of which the size is not known and will be needed: one at a time.
    fn size(&mut self) -> Option<Act<S, T>> {
        if self
            .entries
            .values()
            .any(|entry| entry.size == Size::Asking)
        {
            return None;
        }
        let unknown = |name: &&Name| {
            let entry = self.entries.get(*name);
            entry.is_some_and(|entry| entry.size == Size::Unknown)
        };
        let wished = self.entries.iter().filter(|(_, entry)| entry.wished);
        let name = self
            .line
            .iter()
            .find(unknown)
            .or_else(|| wished.map(|(name, _)| name).filter(unknown).min())?
            .clone();
        self.entries.get_mut(&name)?.size = Size::Asking;
        Some(Act::Size(name))
    }

    fn is_done(&self) -> bool {
        let idle = |entry: &super::Entry<S, T>| {
            matches!(entry.phase, Phase::Absent) && entry.size != Size::Asking
        };
        self.closed && self.waiting == 0 && self.entries.values().all(idle)
    }
}
