//! How long answers turn out to be.

/// Ended sequences that are remembered.
const REMEMBERED: usize = 256;

/// Sequences that are taken to have used up what they might, before any has ended.
const ASSUMED: usize = 16;

/// What the latest sequences to end generated, as shares of what they might have.
#[derive(Debug)]
pub(super) struct Ended {
    /// A ring once it is full: the oldest is at `next`. Until then those assumed go first.
    shares: Vec<f32>,
    next: usize,
    /// The same, in ascending order.
    sorted: Vec<f32>,
    /// How many of them are assumed.
    assumed: usize,
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            shares: vec![1.0; ASSUMED],
            next: 0,
            sorted: vec![1.0; ASSUMED],
            assumed: ASSUMED,
        }
    }
}

impl Ended {
    /// One ended that had generated this share of what it might have.
    pub(super) fn note(&mut self, share: f32) {
        let remembered = self.shares.len();
        if self.assumed > 0 || remembered == REMEMBERED {
            self.assumed = self.assumed.saturating_sub(1);
            let old = std::mem::replace(&mut self.shares[self.next], share);
            let at = self.sorted.partition_point(|other| *other < old);
            self.sorted.remove(at);
            self.next = (self.next + 1) % remembered;
        } else {
            self.shares.push(share);
            self.next = 0;
        }
        let at = self.sorted.partition_point(|other| *other < share);
        self.sorted.insert(at, share);
    }

    /// How many tokens one will have generated in the end that has generated `generated` and may
    /// generate `most`: as many as one of those that went on beyond that, picked by its number, so
    /// that of many sequences each length comes as often as it did. All it may if none did.
    pub(super) fn length(&self, generated: usize, most: usize, number: u64) -> usize {
        let share = generated as f32 / most.max(1) as f32;
        let longer = &self.sorted[self.sorted.partition_point(|other| *other <= share)..];
        // Multiples of the golden ratio lie evenly between 0 and 1, however many of them there are.
        let golden = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = (u128::from(golden) * longer.len() as u128) >> 64;
        let length = match longer.get(pick as usize) {
            Some(share) => (f64::from(*share) * most as f64).round() as usize,
            None => most,
        };
        length.clamp(generated + 1, most.max(generated + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_any_has_ended_all_is_expected() {
        let ended = Ended::default();
        assert_eq!(ended.length(0, 100, 7), 100);
        assert_eq!(ended.length(99, 100, 7), 100);
        assert_eq!(ended.length(100, 100, 7), 101, "beyond its most: one more");
    }

    #[test]
    fn lengths_come_as_often_as_they_did_among_the_longer_ones() {
        let mut ended = Ended::default();
        for share in (1..=100).map(|percent| percent as f32 / 100.0) {
            ended.note(share);
        }
        let mean = |generated| {
            let lengths = (0..1000).map(|number| ended.length(generated, 1000, number));
            lengths.sum::<usize>() / 1000
        };
        assert!((500..=510).contains(&mean(0)), "{}", mean(0));
        assert!((748..=760).contains(&mean(500)), "{}", mean(500));
        assert!((0..1000).all(|number| ended.length(500, 1000, number) > 500));
    }

    #[test]
    fn what_was_assumed_goes_first_and_then_the_oldest() {
        let mut ended = Ended::default();
        (0..ASSUMED).for_each(|_| ended.note(0.5));
        assert_eq!(ended.length(0, 1000, 3), 500);
        assert_eq!(ended.shares.len(), ASSUMED);
        (0..REMEMBERED).for_each(|_| ended.note(0.25));
        assert_eq!(ended.shares.len(), REMEMBERED);
        assert!((0..99).all(|number| ended.length(0, 1000, number) == 250));
        let sorted = ended.sorted.is_sorted();
        assert!(sorted && ended.sorted.len() == REMEMBERED);
    }

    #[test]
    fn no_share_breaks_it() {
        let mut ended = Ended::default();
        (0..300).for_each(|at| ended.note(at as f32));
        assert_eq!(ended.length(0, usize::MAX, 1), usize::MAX);
        assert_eq!(ended.length(5, 0, 1), 6);
    }
}
