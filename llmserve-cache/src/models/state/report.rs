//! What loads, estimates and unloads have come to.

use llmserve_core::{Error, Time};

use super::entry::{Failures, Phase, Size};
use super::{Name, State, room, worth};

impl<S: Clone, T> State<S, T> {
    /// The loader has said what a model takes.
    pub(in crate::models) fn sized(&mut self, now: Time, name: &Name, size: Result<u64, Error>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        match size {
            Ok(bytes) => {
                entry.size = Size::Known(bytes);
                if let Some(error) = self.never_fits(name, bytes) {
                    self.give_up(name, &error);
                }
            }
            Err(error) => {
                entry.size = Size::Unknown;
                self.failed(now, name, error);
            }
        }
    }

    /// A load has ended.
    pub(in crate::models) fn loaded(
        &mut self,
        now: Time,
        name: &Name,
        result: Result<(S, u64), Error>,
    ) {
        let half_life = self.limits.half_life;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let Phase::Loading {
            began, progress, ..
        } = &entry.phase
        else {
            return;
        };
        let (took, cancelled) = (now.saturating_sub(*began), progress.is_cancelled());
        entry.phase = Phase::Absent;
        let (service, bytes) = match result {
            Ok(loaded) => loaded,
            // It was loaded on suspicion, and made room for one that was asked for.
            Err(Error::Cancelled) if cancelled => return self.again(now, name),
            Err(error) => return self.failed(now, name, error),
        };
        entry.size = Size::Known(bytes);
        entry.load = Some(took);
        entry.failures = Failures::default();
        let frequency = entry.asked.value(now, half_life);
        entry.worth = worth::worth(self.age, frequency, entry.load, bytes);
        entry.phase = Phase::Loaded {
            service,
            bytes,
            in_use: 0,
            closing: false,
        };
        self.counts.loads += 1;
        let mean = self.mean_load.unwrap_or(took);
        self.mean_load = Some((mean * 3 + took) / 4);
        if let Some(error) = self.never_fits(name, bytes) {
            self.close(name);
            self.give_up(name, &error);
        } else {
            self.mend(now, name);
        }
    }

    /// Everybody's bytes are known, and may be more than there are: others go, or else `newcomer`.
    fn mend(&mut self, now: Time, newcomer: &Name) {
        let held = self.used().saturating_sub(self.releasing());
        let Some(excess) = held.checked_sub(self.limits.budget).filter(|by| *by > 0) else {
            return;
        };
        let idle = self.candidates(|name, in_use| name != newcomer && !in_use);
        match room::victims(idle, excess) {
            Some(victims) => victims.iter().for_each(|name| self.close(name)),
            None => {
                self.close(newcomer);
                self.again(now, newcomer);
            }
        }
    }

    /// Puts a model that was to be loaded back to the front of the line, if anybody wants it.
    fn again(&mut self, now: Time, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name)
            && (entry.pinned || !entry.waiting.is_empty())
            && entry.in_line.is_none()
        {
            entry.in_line = Some(now);
            self.line.push_front(name.clone());
        }
    }

    /// A model's memory is free.
    pub(in crate::models) fn unloaded(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name)
            && matches!(entry.phase, Phase::Unloading { .. })
        {
            entry.phase = Phase::Absent;
        }
    }

    /// A model could not be loaded, or not be sized. Not to be tried again for a while.
    pub(super) fn failed(&mut self, now: Time, name: &Name, error: Error) {
        self.counts.failures += 1;
        let (first, most) = self.limits.retry;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let failures = &mut entry.failures;
        let doubled = first.saturating_mul(1 << failures.count.min(20));
        let wait = doubled.min(most);
        failures.count = failures.count.saturating_add(1);
        failures.until = now.saturating_add(wait);
        let error = match error {
            Error::LoadFailed { model, reason, .. } => Error::LoadFailed {
                model,
                reason,
                retry_after: Some(wait),
            },
            other => other,
        };
        failures.last = Some(error.clone());
        // Its files may be others by then.
        entry.size = Size::Unknown;
        self.give_up(name, &error);
    }

    /// Ends all that is wanted of a model that is not loaded.
    pub(super) fn give_up(&mut self, name: &Name, error: &Error) {
        let requests = self.take_waiting(name);
        let told = requests.into_iter().map(|r| (r.ticket, error.clone()));
        self.failed.extend(told);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.wished = false;
            if entry.in_line.take().is_some() {
                self.line.retain(|other| other != name);
            }
        }
    }
}
