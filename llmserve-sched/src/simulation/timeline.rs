//! How things went over time, in constant memory.

/// Most slots. With one more, two each become one of twice the width.
const SLOTS: usize = 512;

/// Sums over one slot of time, in nanoseconds times what they sum.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) running: f64,
    pub(super) waiting: f64,
    pub(super) kv: f64,
    pub(super) tokens: f64,
}

impl Slot {
    fn add(&mut self, level: &Slot, share: f64) {
        self.running += share * level.running;
        self.waiting += share * level.waiting;
        self.kv += share * level.kv;
        self.tokens += share * level.tokens;
    }
}

#[derive(Debug)]
pub(super) struct Timeline {
    width: u64,
    slots: Vec<Slot>,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            width: 1_000_000,
            slots: Vec::with_capacity(SLOTS),
        }
    }

    /// From `from` to `to` nanoseconds after the first request came, things stood at `level` (its sums for one nanosecond).
    pub(super) fn add(&mut self, from: u64, to: u64, level: &Slot) {
        while to.div_ceil(self.width) > SLOTS as u64 {
            self.widen();
        }
        let mut from = from;
        while from < to {
            let at = (from / self.width) as usize;
            let end = (at as u64 + 1).saturating_mul(self.width).min(to);
            if at >= self.slots.len() {
                self.slots.resize(at + 1, Slot::default());
            }
            self.slots[at].add(level, (end - from) as f64);
            from = end;
        }
    }

    fn widen(&mut self) {
        for at in 0..self.slots.len().div_ceil(2) {
            let mut both = self.slots[2 * at];
            if let Some(second) = self.slots.get(2 * at + 1) {
                both.add(second, 1.0);
            }
            self.slots[at] = both;
        }
        self.slots.truncate(self.slots.len().div_ceil(2));
        self.width = self.width.saturating_mul(2);
    }

    /// Nanoseconds of a slot, and the slots from the first request on.
    pub(super) fn slots(&self) -> (u64, &[Slot]) {
        (self.width, &self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_keeps_every_sum() {
        let mut timeline = Timeline::new();
        let level = Slot {
            tokens: 1.0,
            running: 3.0,
            ..Slot::default()
        };
        let (mut now, mut busy) = (0u64, 0u64);
        for step in 0..5000u64 {
            let took = 700_000 + step * 1000;
            timeline.add(now, now + took, &level);
            busy += took;
            now += took + step % 7 * 400_000;
        }
        let (width, slots) = timeline.slots();
        assert!(slots.len() <= SLOTS && slots.len() as u64 * width >= now - 4_000_000);
        let sum = |of: fn(&Slot) -> f64| slots.iter().map(of).sum::<f64>();
        assert!((sum(|s| s.tokens) - busy as f64).abs() < 1e-3 * width as f64);
        assert!((sum(|s| s.running) - 3.0 * busy as f64).abs() < 1e-3 * width as f64);
        assert!(slots.iter().all(|s| s.tokens <= 1.001 * width as f64));
    }

    #[test]
    fn a_step_across_many_slots_or_ages_fills_them() {
        let mut timeline = Timeline::new();
        let level = Slot {
            tokens: 1.0,
            ..Slot::default()
        };
        timeline.add(500_000, 10_500_000, &level);
        timeline.add(u64::MAX / 4, u64::MAX / 2, &level);
        let (_, slots) = timeline.slots();
        let sum: f64 = slots.iter().map(|s| s.tokens).sum();
        assert!((sum / (u64::MAX / 4) as f64 - 1.0).abs() < 1e-6);
    }
}
