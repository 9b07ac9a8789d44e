//! How much probability lies where, nearly: fast sums of weights, and how far to trust them.

use std::cmp::Ordering;

use super::math::rough_exp;
use super::select::{BLOCK, Candidate};
use super::survey::Survey;

/// Sums taken side by side.
const LANES: usize = 8;

/// Beyond this distance from the best a weight is nothing: a whole vocabulary of them is less
/// than [`TRUST`] by ten orders.
const NOTHING: f32 = -40.0;

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
                sum += self.plain(block);
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

    /// The weight of a block's tokens.
    fn plain(self, block: &[f32]) -> f64 {
        let mut weights = [0f32; BLOCK];
        self.weights(&padded(block), &mut weights);
        total(&weights)
    }

    /// The weight of a block's tokens from `floor` on, and of those above `bar`.
    fn block(self, block: &[f32], floor: f32, bar: f32) -> (f64, f64) {
        if block.is_empty() {
            return (0.0, 0.0);
        }
        let logits = padded(block);
        let mut all = [0f32; BLOCK];
        self.weights(&logits, &mut all);
        let mut above = all;
        for i in 0..BLOCK {
            all[i] = if logits[i] >= floor { all[i] } else { 0.0 };
            above[i] = if logits[i] > bar { above[i] } else { 0.0 };
        }
        (total(&all), total(&above))
    }
}

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

    /// Whether `token` is in: the tokens better than it have less than `top_p` of the weight.
    /// None if that is too close to call.
    pub(super) fn holds(&mut self, token: Candidate) -> Option<bool> {
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
                let (all, above) = self.scales.block(part, self.floor, bar);
                seen += all;
                better += above;
            }
        }
        let least = better * (1.0 - TRUST);
        let most = better * (1.0 + TRUST);
        if most < self.top_p * seen * (1.0 - TRUST) {
            // What was not looked at only adds to the whole.
            return Some(true);
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

    /// The weight of the blocks that have nothing as good as `bar`.
    fn rest(&self, bar: f32) -> f64 {
        let mut sum = 0.0;
        for (_, most, block) in self.survey.blocks(self.logits) {
            if most < bar && most >= self.floor && self.scales.distance(most) >= NOTHING {
                sum += self.scales.block(block, self.floor, f32::INFINITY).0;
            }
        }
        sum
    }
}
