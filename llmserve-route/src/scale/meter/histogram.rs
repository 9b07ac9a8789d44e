//! Times, counted in buckets that grow with them.

use std::time::Duration;

/// Buckets to each doubling, as a power of two: a bucket is at most a sixteenth of its time wide.
const FINE: u32 = 4;

/// Times are counted in microseconds up to 2 to this; what is longer, 19 hours, counts as that.
const LONGEST: u32 = 36;

const BUCKETS: usize = ((LONGEST - FINE + 1) << FINE) as usize;

/// A log-linear histogram, as HdrHistogram's: exact up to 16 µs, from there each doubling is cut
/// into 16 buckets of equal width. Its size is the same whatever is put in.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let count = &mut self.counts[bucket(time)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.total == 0 {
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(&*other.counts) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
    }

    pub(super) fn clear(&mut self) {
        if self.total > 0 {
            self.counts.fill(0);
            self.total = 0;
        }
    }

    /// The least upper edge of a bucket that this part of the times do not exceed; none where there
    /// are no times.
    pub(super) fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (part * self.total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += u64::from(*count);
            if below >= rank {
                return Some(upper(bucket));
            }
        }
        None
    }
}

fn bucket(time: Duration) -> usize {
    let longest = (1u64 << LONGEST) - 1;
    let micros = u64::try_from(time.as_micros()).map_or(longest, |micros| micros.min(longest));
    // The first doubling has the buckets that are exact, and those of the next are as wide.
    let doubling = (micros >> FINE).checked_ilog2().map_or(0, |log| log + 1);
    let shift = doubling.saturating_sub(1);
    // Of the doublings from the second on the highest bit is known, and is left out.
    let within = (micros >> shift) - (u64::from(doubling > 0) << FINE);
    ((u64::from(doubling) << FINE) + within) as usize
}

fn upper(bucket: usize) -> Duration {
    let (doubling, within) = (bucket >> FINE, bucket as u64 & ((1 << FINE) - 1));
    let first = u64::from(doubling > 0) << FINE;
    let shift = doubling.saturating_sub(1);
    Duration::from_micros((first + within + 1) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_its_bucket_and_edges_are_near() {
        let mut micros = vec![0, 1, 2];
        for power in 2..LONGEST {
            let near = 1u64 << power;
            micros.extend([near - 1, near, near + 1, near + near / 3]);
        }
        let mut last = 0;
        micros.sort_unstable();
        for micros in micros {
            let time = Duration::from_micros(micros);
            let at = bucket(time);
            assert!(at >= last && at < BUCKETS, "{micros}");
            last = at;
            assert!(time < upper(at), "{micros}: {:?}", upper(at));
            assert!(at == 0 || upper(at - 1) <= time, "{micros}");
            let over = upper(at).as_micros() as f64 - 1.0;
            assert!(over <= micros as f64 * 1.0625, "{micros}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::from_secs(200_000)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_what_was_added_and_merged() {
        let (mut all, mut half) = (Histogram::default(), Histogram::default());
        assert_eq!(all.quantile(0.95), None);
        for millis in 1..=100 {
            let of = if millis % 2 == 0 { &mut all } else { &mut half };
            of.add(Duration::from_millis(millis));
        }
        all.merge(&half);
        for (part, exact) in [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (1.0, 100.0)] {
            let told = all.quantile(part).unwrap().as_secs_f64() * 1e3;
            assert!((exact..=exact * 1.0626).contains(&told), "{part}: {told}");
        }
        all.clear();
        assert_eq!(all.quantile(0.5), None);
    }
}
