//! A distribution in constant memory.

/// Bins of an octave, and the values below which every integer has a bin of its own.
const BINS: usize = 128;
const BITS: u32 = BINS.trailing_zeros();

/// Counts of whole numbers (nanoseconds, or times something happened) in logarithmic bins.
///
/// Every octave from 128 on has 128 bins of equal width, so a quantile is off by at most 1/256 of
/// itself (0.4 %); numbers below 256, the smallest and the greatest are exact, and so is the mean.
/// An octave takes 1 KiB once something falls into it: 57 KiB at most, whatever is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    octaves: Vec<Option<Box<[u64; BINS]>>>,
    count: u64,
    sum: f64,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn record(&mut self, value: u64) {
        let (octave, bin) = place(value);
        if octave >= self.octaves.len() {
            self.octaves.resize_with(octave + 1, || None);
        }
        self.octaves[octave].get_or_insert_with(|| Box::new([0; BINS]))[bin] += 1;
        if self.count == 0 {
            self.min = value;
        }
        self.count += 1;
        self.sum += value as f64;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many fell into the bin of 0.
    pub(super) fn zeros(&self) -> u64 {
        let first = self.octaves.first().and_then(Option::as_ref);
        first.map_or(0, |bins| bins[0])
    }

    /// 0 for an empty one.
    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// The least values that these shares of all do not exceed; shares ascending, `0.0..=1.0`.
    /// Zeros for an empty one.
    pub(super) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [u64; N] {
        let mut found = [self.max; N];
        let ranks = shares.map(|share| rank(share, self.count));
        let (mut next, mut seen) = (0, 0);
        for (octave, bins) in self.octaves.iter().enumerate() {
            let Some(bins) = bins else { continue };
            for (bin, &count) in bins.iter().enumerate() {
                seen += count;
                while next < N && ranks[next] <= seen {
                    // The first and the last of all are known.
                    found[next] = match ranks[next] {
                        rank if rank == self.count => self.max,
                        1 => self.min,
                        _ => middle(octave, bin).clamp(self.min, self.max),
                    };
                    next += 1;
                }
            }
        }
        found
    }
}

/// How many numbers of `count` are this share of them, rounded up, at least one. A product that
/// is a whole number but for its last bits is that number: 0.07 of 100 are 7.
fn rank(share: f64, count: u64) -> u64 {
    let exact = share * count as f64;
    let whole = exact.round();
    let rank = match (exact - whole).abs() <= whole * 4.0 * f64::EPSILON {
        true => whole,
        false => exact.ceil(),
    };
    (rank as u64).max(1)
}

/// The octave of a number, and its bin there.
fn place(value: u64) -> (usize, usize) {
    let above = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    if value < BINS as u64 {
        return (0, value as usize);
    }
    (above as usize + 1, (value >> above) as usize - BINS)
}

/// What stands for all numbers of a bin.
fn middle(octave: usize, bin: usize) -> u64 {
    let Some(above) = octave.checked_sub(1) else {
        return bin as u64;
    };
    let width = 1u64 << above;
    ((BINS + bin) as u64 * width) + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_are_exact_and_the_greatest_has_a_bin() {
        for value in 0..256 {
            let (octave, bin) = place(value);
            assert_eq!(middle(octave, bin), value);
        }
        assert_eq!(place(u64::MAX), (57, BINS - 1));
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantiles([0.0, 1.0]), [0, 0]);
        histogram.record(u64::MAX);
        histogram.record(0);
        assert_eq!(histogram.quantiles([0.5, 1.0]), [0, u64::MAX]);
        assert_eq!((histogram.min, histogram.zeros()), (0, 1));
    }

    #[test]
    fn shares_that_are_whole_numbers_are_those() {
        for hundreds in [1, 3, 10] {
            let mut histogram = Histogram::default();
            (0..hundreds * 100).for_each(|at| histogram.record(at / hundreds));
            for percent in 1..=100 {
                let share = percent as f64 / 100.0;
                assert_eq!(rank(share, hundreds * 100), percent * hundreds);
                assert_eq!(histogram.quantiles([share]), [percent - 1], "{share}");
            }
        }
        assert_eq!((rank(0.5, 3), rank(0.0, 9), rank(1.0, 9)), (2, 1, 9));
        assert_eq!(rank(0.5, 1 << 50), 1 << 49);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_promised_error(
            mut values in prop::collection::vec(0..u64::MAX >> 1, 1..200),
            shift in 0..60u32,
        ) {
            values.iter_mut().for_each(|value| *value >>= shift);
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            let shares = [0.0, 0.01, 0.5, 0.9, 0.99, 1.0];
            for (share, found) in shares.into_iter().zip(histogram.quantiles(shares)) {
                let exact = values[rank(share, values.len() as u64) as usize - 1];
                prop_assert!(found.abs_diff(exact) <= exact / 256, "{share}: {found}, not {exact}");
            }
            prop_assert_eq!(histogram.min, values[0]);
            prop_assert_eq!(histogram.max(), values[values.len() - 1]);
        }
    }
}
