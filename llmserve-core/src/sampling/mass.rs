//! How much probability lies where, nearly: fast sums of weights, and how far to trust them.

use std::cmp::Ordering;

use super::math::{SKETCHY, rough_exp, sketchy_exp};
use super::select::{BLOCK, Candidate};
use super::survey::Survey;

/// Sums taken side by side.
const LANES: usize = 8;

/// Beyond this distance from the best a weight is nothing: a whole vocabulary of them is less
/// than [`TRUST`] by ten orders.
const NOTHING: f32 = -40.0;

/// One block of so many is few to look into.
const FEW: usize = 4;

/// A sum of weights is right to this share of it, with much to spare: [`rough_exp`], the
/// distance it is of and the sum are each good to some 1e-6.
const TRUST: f64 = 1e-4;

/// Inverse temperatures that f32 has a precise number for, with all their products that matter.
const PRECISE: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// Weighs tokens of a row: e^(beta · (l − peak)), so that the best weighs 1.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    peak: f32,
    beta: f32,
}

impl Scales {
    /// None for a temperature so extreme that f32 cannot tell distances apart.
    pub(super) fn new(peak: f32, beta: f64) -> Option<Self> {
        let beta = PRECISE.contains(&beta).then_some(beta as f32)?;
        Some(Self { peak, beta })
    }

    fn distance(self, logit: f32) -> f32 {
        (logit - self.peak) * self.beta
    }

    /// The weight of all tokens of a row. One result for one row: the order is fixed.
    pub(super) fn all(self, logits: &[f32], survey: &Survey) -> f64 {
        let mut sum = 0.0;
        for (_, most, block) in survey.blocks(logits) {
            if self.distance(most) >= NOTHING {
                let mut weights = [0f32; BLOCK];
                self.weights(&padded(block), &mut weights);
                sum += total(&weights);
            }
        }
        sum
    }

    /// The weights of a block's tokens. On its own and of a fixed length, so that it is done for
    /// many lanes at once wherever it is called from.
    #[inline(never)]
    fn weights(self, logits: &[f32; BLOCK], weights: &mut [f32; BLOCK]) {
        for (weight, &logit) in weights.iter_mut().zip(logits) {
            *weight = rough_exp(self.distance(logit));
        }
    }

    /// As [`weights`](Self::weights), up to [`SKETCHY`] times too great.
    #[inline(never)]
    fn sketch(self, logits: &[f32; BLOCK], weights: &mut [f32; BLOCK]) {
        for (weight, &logit) in weights.iter_mut().zip(logits) {
            *weight = sketchy_exp(self.distance(logit));
        }
    }

    /// The weight of a block's tokens from `floor` on, and of those above `bar`.
    #[inline]
    fn block(self, weigh: Weigh, block: &[f32], floor: f32, bar: f32) -> (f64, f64) {
        if block.is_empty() {
            return (0.0, 0.0);
        }
        let logits = padded(block);
        let mut all = [0f32; BLOCK];
        weigh(self, &logits, &mut all);
        let mut above = all;
        for i in 0..BLOCK {
            all[i] = if logits[i] >= floor { all[i] } else { 0.0 };
            above[i] = if logits[i] > bar { above[i] } else { 0.0 };
        }
        (total(&all), total(&above))
    }

    /// What the tokens of each of up to [`BLOCK`] blocks weigh at most, by their greatest logits.
    fn bounds(self, greatest: &[f32]) -> [f32; BLOCK] {
        let greatest = padded(greatest);
        let mut weights = [0f32; BLOCK];
        self.weights(&greatest, &mut weights);
        for i in 0..BLOCK {
            // The weight of nothing is not quite nothing.
            let real = self.distance(greatest[i]) >= NOTHING;
            weights[i] = if real { weights[i] * BLOCK as f32 } else { 0.0 };
        }
        weights
    }
}

/// [`Scales::weights`] or [`Scales::sketch`].
type Weigh = fn(Scales, &[f32; BLOCK], &mut [f32; BLOCK]);

/// A block, or what there is of it and then nothing.
#[inline]
fn padded(block: &[f32]) -> [f32; BLOCK] {
    match block.first_chunk() {
        Some(&whole) => whole,
        None => {
            let mut padded = [f32::NEG_INFINITY; BLOCK];
            padded[..block.len()].copy_from_slice(block);
            padded
        }
    }
}

/// The sum, always in the same order.
#[inline]
fn total(weights: &[f32; BLOCK]) -> f64 {
    let mut lanes = [0f32; LANES];
    for group in weights.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            lanes[i] += group[i];
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

/// Asks whether tokens are within the top-p of what is left of a row from `floor` on.
pub(super) struct Nucleus<'a> {
    logits: &'a [f32],
    survey: &'a Survey,
    scales: Scales,
    floor: f32,
    top_p: f64,
    /// The weight of all tokens from `floor` on, once it is known.
    total: Option<f64>,
}

impl<'a> Nucleus<'a> {
    pub(super) fn new(
        logits: &'a [f32],
        survey: &'a Survey,
        scales: Scales,
        floor: f32,
        top_p: f64,
    ) -> Self {
        Self {
            logits,
            survey,
            scales,
            floor,
            top_p,
            total: None,
        }
    }

    /// A logit that the whole nucleus reaches, as good a one as a look into few blocks tells, the
    /// others taken for as heavy as their greatest logit allows; `floor` if that tells nothing.
    pub(super) fn bar(&self) -> f32 {
        /// Bands of distance from the peak, a quarter each, up to [`NOTHING`].
        const BANDS: usize = 160;
        const FINENESS: f32 = 4.0;
        let mut bands = [0f32; BANDS];
        let mut counts = [0u16; BANDS];
        // The best of each block alone: a bound of the whole weight from below.
        let mut least = 0.0;
        for greatest in self.survey.greatest().chunks(BLOCK) {
            let bounds = self.scales.bounds(greatest);
            for (&most, &bound) in greatest.iter().zip(&bounds) {
                // The cast saturates.
                let band = (self.scales.distance(most) * -FINENESS) as usize;
                let band = band.min(BANDS - 1);
                bands[band] += bound;
                counts[band] = counts[band].saturating_add(1);
                least += if most >= self.floor { bound } else { 0.0 };
            }
        }
        // Leaving out half of what top-p may is enough to be sure, if not all that might be.
        let mut spare = (1.0 - self.top_p) / 2.0 * f64::from(least) / BLOCK as f64;
        let mut first_out = BANDS;
        while first_out > 0 && f64::from(bands[first_out - 1]) <= spare {
            spare -= f64::from(bands[first_out - 1]);
            first_out -= 1;
        }
        let looked: usize = counts[..first_out].iter().map(|&n| usize::from(n)).sum();
        if looked * FEW > self.survey.greatest().len() {
            return self.floor;
        }
        let distance = -(first_out as f32) / FINENESS;
        let bar = (self.scales.peak + distance / self.scales.beta).max(self.floor);
        let below = bar.next_down();
        let (mut above, mut rest) = (0.0, self.at_most(bar));
        for (_, most, block) in self.survey.blocks(self.logits) {
            if most >= bar {
                let (all, high) = self.scales.block(Scales::weights, block, self.floor, below);
                above += high;
                rest += all - high;
            }
        }
        if above * (1.0 - TRUST) > self.top_p * (above + rest) * (1.0 + TRUST) {
            bar
        } else {
            self.floor
        }
    }

    /// What the blocks that have nothing as good as `bar` weigh at most.
    fn at_most(&self, bar: f32) -> f64 {
        let mut sum = 0.0;
        for greatest in self.survey.greatest().chunks(BLOCK) {
            let bounds = self.scales.bounds(greatest);
            for (&most, &bound) in greatest.iter().zip(&bounds) {
                let counts = most < bar && most >= self.floor;
                sum += if counts { f64::from(bound) } else { 0.0 };
            }
        }
        sum
    }

    /// Whether `token` is in: the tokens better than it have less than `top_p` of the weight.
    /// None if that is too close to call.
    pub(super) fn holds(&mut self, token: Candidate) -> Option<bool> {
        // What is not looked at only adds to the whole.
        let (seen, better) = self.weigh(Scales::sketch, token);
        if better * (1.0 + TRUST) < self.top_p * seen / SKETCHY * (1.0 - TRUST) {
            return Some(true);
        }
        let (seen, better) = self.weigh(Scales::weights, token);
        let least = better * (1.0 - TRUST);
        let most = better * (1.0 + TRUST);
        if most < self.top_p * seen * (1.0 - TRUST) {
            return Some(true);
        }
        if self.total.is_none() {
            let whole = seen + self.at_most(token.logit);
            if least > self.top_p * whole * (1.0 + TRUST) {
                return Some(false);
            }
        }
        let total = match self.total {
            Some(total) => total,
            None => *self.total.insert(seen + self.rest(token.logit)),
        };
        if most < self.top_p * total * (1.0 - TRUST) {
            Some(true)
        } else if least > self.top_p * total * (1.0 + TRUST) {
            Some(false)
        } else {
            None
        }
    }

    /// The weight of the blocks that have something as good as `token`, and of the tokens that
    /// are better.
    fn weigh(&self, weigh: Weigh, token: Candidate) -> (f64, f64) {
        let place = token.id as usize / BLOCK;
        // An equal is better if its id is lower.
        let or_equal = token.logit.next_down();
        let (mut seen, mut better) = (0.0, 0.0);
        for (number, (first, most, block)) in self.survey.blocks(self.logits).enumerate() {
            if most < token.logit {
                continue;
            }
            let (before, after) = match number.cmp(&place) {
                Ordering::Less => (block, &[][..]),
                Ordering::Equal => block.split_at((token.id - first) as usize),
                Ordering::Greater => (&[][..], block),
            };
            for (part, bar) in [(before, or_equal), (after, token.logit)] {
                let (all, above) = self.scales.block(weigh, part, self.floor, bar);
                seen += all;
                better += above;
            }
        }
        (seen, better)
    }

    /// The weight of the blocks that have nothing as good as `bar`.
    fn rest(&self, bar: f32) -> f64 {
        let mut sum = 0.0;
        for (_, most, block) in self.survey.blocks(self.logits) {
            if most < bar && most >= self.floor && self.scales.distance(most) >= NOTHING {
                sum += self
                    .scales
                    .block(Scales::weights, block, self.floor, f32::INFINITY)
                    .0;
            }
        }
        sum
    }
}
