//! A source of random numbers that is the same for ever: SplitMix64 (Steele, Lea and Flood, 2014).

#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// A stream of its own for each number of one seed.
    pub(super) fn stream(seed: u64, number: u64) -> Self {
        Self {
            state: mix(seed).wrapping_add(mix(number.wrapping_add(1))),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `(0, 1]`, whose logarithm is finite.
    fn positive(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// Uniform in `0..n`; 0 for none.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Exponentially distributed.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.positive().ln()
    }

    /// Normally distributed around 0 with variance 1 (Box and Muller, 1958).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.positive().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;

    fn moments(mut draw: impl FnMut(&mut Random) -> f64) -> (f64, f64) {
        let mut random = Random::stream(3, 0);
        let draws: Vec<f64> = (0..100_000).map(|_| draw(&mut random)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let squares = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        (mean, squares / draws.len() as f64)
    }

    #[test]
    fn means_and_variances_are_those_of_the_distributions() {
        let close = |(mean, variance): (f64, f64), m: f64, v: f64| {
            assert!(
                (mean - m).abs() < 0.02 * v.sqrt() + 1e-9,
                "mean {mean}, not {m}"
            );
            assert!(
                (variance - v).abs() < 0.05 * v,
                "variance {variance}, not {v}"
            );
        };
        close(moments(Random::unit), 0.5, 1.0 / 12.0);
        close(moments(|r| r.exponential(3.0)), 3.0, 9.0);
        close(moments(Random::normal), 0.0, 1.0);
        close(moments(|r| r.below(10) as f64), 4.5, 99.0 / 12.0);
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draws = |seed, number| {
            let mut random = Random::stream(seed, number);
            [(); 4].map(|()| random.next())
        };
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
        assert_ne!(draws(1, 0), draws(2, 0));
    }
}
