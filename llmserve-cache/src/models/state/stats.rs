//! What there is and has been, for those who ask.

use llmserve_core::Time;

use super::entry::{Entry, Phase, Size};
use super::{Counts, Name, Seen, State};
use crate::models::stats::{ModelCacheStats, ModelState, ModelStats};

impl<S, T> State<S, T> {
    /// Bytes taken or promised.
    pub(in crate::models) fn used(&self) -> u64 {
        self.entries.values().map(Entry::bytes).sum()
    }

    /// What has happened so far, how many wait, and what models take.
    pub(in crate::models) fn seen(&self) -> Seen {
        let Counts {
            loads,
            failures,
            evictions,
            ..
        } = self.counts;
        Seen {
            loads,
            failures,
            evictions,
            waiting: self.waiting,
            bytes: self.used(),
        }
    }

    pub(in crate::models) fn stats(&self, now: Time) -> ModelCacheStats {
        let model = |(name, entry): (&Name, &Entry<S, T>)| ModelStats {
            name: name.to_string(),
            state: match &entry.phase {
                Phase::Absent => ModelState::Absent,
                Phase::Loading { progress, .. } => ModelState::Loading {
                    progress: progress.fraction(),
                },
                Phase::Loaded { closing: false, .. } => ModelState::Loaded,
                Phase::Loaded { closing: true, .. } | Phase::Unloading { .. } => {
                    ModelState::Closing
                }
            },
            bytes: match (&entry.phase, entry.size) {
                (Phase::Absent, Size::Known(bytes)) => Some(bytes),
                (Phase::Absent, _) => None,
                _ => Some(entry.bytes()),
            },
            waiting: entry.waiting.len(),
            in_use: match entry.phase {
                Phase::Loaded { in_use, .. } => in_use,
                _ => 0,
            },
            pinned: entry.pinned,
            popularity: entry.asked.value(now, self.limits.half_life),
            load_time: entry.load,
        };
        let mut models: Vec<_> = self.entries.iter().map(model).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let counts = self.counts;
        ModelCacheStats {
            budget: self.limits.budget,
            bytes: self.used(),
            waiting: self.waiting,
            hits: counts.hits,
            waits: counts.waits,
            refused: counts.refused,
            gave_up: counts.gave_up,
            loads: counts.loads,
            failures: counts.failures,
            evictions: counts.evictions,
            models,
        }
    }
}
