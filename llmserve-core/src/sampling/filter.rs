//! Which tokens a temperature sample may pick: min-p, then top-k, then top-p.
//!
//! Each keeps a prefix of the row in the order (probability descending, id ascending), so the
//! result is such a prefix too, and only its end has to be found:
//!
//! * min-p (Nguyen et al., "Turning Up the Heat", 2024) is a comparison with a logit;
//! * top-k is a selection;
//! * top-p (nucleus sampling, Holtzman et al., 2019) is a search by mass: a histogram over the
//!   distance from the best logit says in which narrow band the mass is reached, and only that
//!   band is looked at again, more finely, until few tokens or only equal ones are left.
//!
//! Mass is counted in integers (a token's weight relative to the best, times 2⁶²), so a sum does
//! not depend on the order it was taken in.

use super::mass::{Nucleus, Scales};
use super::math::{exp, ln};
use super::noise::Noise;
use super::params::Sampling;
use super::race::{pick_from, pick_from_row, scaled};
use super::select::{BLOCK, Candidate, best, better_first};
use super::survey::Survey;
use crate::contract::proposer::Distribution;
use crate::ids::TokenId;

/// The filters of a request with a positive temperature.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    temperature: f64,
    /// One over the temperature.
    beta: f64,
    min_p: f64,
    top_k: Option<usize>,
    top_p: f64,
}

/// The weight of the best token, as an integer.
const ONE: f64 = (1u64 << 62) as f64;
/// Bands of a histogram.
const BANDS: usize = 256;
/// A first look's bands to one unit of distance: beyond the last one a weight rounds to nothing.
const FIRST_FINENESS: f64 = 4.0;
/// As many tokens are better sorted than looked at once more.
const FEW: usize = 48;

/// Equal steps of distance from `start` downward; the last band takes all that is further.
#[derive(Clone, Copy)]
struct Scale {
    start: f64,
    fineness: f64,
}

impl Scale {
    fn band(self, distance: f64) -> usize {
        // The cast saturates, and takes a step that is no number for the first.
        (((self.start - distance) * self.fineness) as u32 as usize).min(BANDS - 1)
    }
}

impl Filter {
    pub(super) fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: f64::from(sampling.temperature),
            beta: 1.0 / f64::from(sampling.temperature),
            min_p: f64::from(sampling.min_p),
            top_k: sampling.top_k,
            top_p: f64::from(sampling.top_p),
        }
    }

    /// Picks one of the tokens kept. `survey` is that of the row, `peak` its best token, and
    /// `candidates` memory.
    pub(super) fn pick(
        &self,
        logits: &[f32],
        survey: &Survey,
        peak: Candidate,
        noise: Noise,
        candidates: &mut Vec<Candidate>,
    ) -> TokenId {
        let picked = match self.top_k {
            Some(k) if k < logits.len() => None,
            _ => self.pick_by_rank(logits, survey, peak, noise),
        };
        picked.unwrap_or_else(|| {
            self.apply(logits, survey, peak.logit, candidates);
            pick_from(candidates, peak, self.beta, noise)
        })
    }

    /// Picks without saying which tokens are kept. They are the best few: whoever wins among all
    /// of them and is kept has won among those kept, and if the winner is not, none that is worse
    /// is either, and the race is run again among the better. So top-p costs the weight of the
    /// tokens better than a winner, and seldom more than one race. None if a winner is so close to
    /// the end of top-p that only counting tells.
    fn pick_by_rank(
        &self,
        logits: &[f32],
        survey: &Survey,
        peak: Candidate,
        noise: Noise,
    ) -> Option<TokenId> {
        let floor = self.floor(peak.logit);
        let from = |logit| Candidate {
            logit,
            id: TokenId::MAX,
        };
        let mut bar = from(floor);
        if self.top_p >= 1.0 {
            return Some(pick_from_row(logits, survey, peak, bar, self.beta, noise).id);
        }
        let scales = Scales::new(peak.logit, self.beta)?;
        let mut nucleus = Nucleus::new(logits, survey, scales, floor, self.top_p);
        bar = from(nucleus.bar());
        loop {
            let winner = pick_from_row(logits, survey, peak, bar, self.beta, noise);
            if winner.id == peak.id || nucleus.holds(winner)? {
                return Some(winner.id);
            }
            bar = winner;
        }
    }

    /// Picks, and fills `out` with the tokens kept and their probabilities.
    pub(super) fn distribution(
        &self,
        logits: &[f32],
        survey: &Survey,
        peak: Candidate,
        noise: Noise,
        candidates: &mut Vec<Candidate>,
        out: &mut Distribution,
    ) -> TokenId {
        self.apply(logits, survey, peak.logit, candidates);
        let weights = candidates.iter().map(|candidate| {
            let weight = exp(scaled(candidate.logit, peak.logit, self.beta));
            (candidate.id, weight)
        });
        out.extend(weights);
        let total: f64 = out.iter().map(|(_, weight)| weight).sum();
        for (_, weight) in out.iter_mut() {
            *weight /= total;
        }
        pick_from(candidates, peak, self.beta, noise)
    }

    /// Fills `out` with the tokens kept, in no order. `peak` is the row's greatest logit, finite;
    /// its lowest token is always kept.
    fn apply(&self, logits: &[f32], survey: &Survey, peak: f32, out: &mut Vec<Candidate>) {
        let k = self.top_k.unwrap_or(usize::MAX).max(1);
        best(logits, survey, self.floor(peak), k, out);
        if self.top_p < 1.0 {
            self.keep_mass(peak, out);
        }
    }

    /// The least logit that min-p keeps: p ≥ min_p · p_best, or l ≥ l_best + T ln min_p.
    fn floor(&self, peak: f32) -> f32 {
        if self.min_p <= 0.0 {
            return f32::MIN;
        }
        let floor = f64::from(peak) + self.temperature * ln(self.min_p.min(1.0));
        let nearest = floor as f32;
        if f64::from(nearest) < floor {
            nearest.next_up()
        } else {
            nearest
        }
    }

    /// Keeps the smallest prefix with `top_p` of the mass of `candidates`.
    fn keep_mass(&self, peak: f32, candidates: &mut Vec<Candidate>) {
        let distance = |c: &Candidate| scaled(c.logit, peak, self.beta);
        let mut scale = Scale {
            start: 0.0,
            fineness: FIRST_FINENESS,
        };
        let mut bands = self.histogram(peak, scale, candidates);
        let total: u128 = bands.iter().sum();
        let mut missing = ((total as f64 * self.top_p) as u128).clamp(1, total.max(1));
        // Those before `kept` are in; of those after it a prefix with the mass `missing` is.
        let mut kept = 0;
        loop {
            let mut last = 0;
            while last < BANDS - 1 && bands[last] < missing {
                missing -= bands[last];
                last += 1;
            }
            let first_open = kept;
            let mut end = kept;
            for i in first_open..candidates.len() {
                let candidate = candidates[i];
                let band = scale.band(distance(&candidate));
                if band > last {
                    continue;
                }
                candidates[end] = candidate;
                if band < last {
                    candidates.swap(end, kept);
                    kept += 1;
                }
                end += 1;
            }
            candidates.truncate(end);

            let open = &mut candidates[kept..];
            let (mut most, mut least) = (f32::NEG_INFINITY, f32::INFINITY);
            for candidate in open.iter() {
                most = most.max(candidate.logit);
                least = least.min(candidate.logit);
            }
            let nearest = scaled(most, peak, self.beta);
            let furthest = scaled(least, peak, self.beta);
            if open.len() <= FEW || nearest == furthest {
                break;
            }
            scale = Scale {
                start: nearest,
                fineness: (BANDS - 1) as f64 / (nearest - furthest),
            };
            bands = self.histogram(peak, scale, open);
        }

        let open = &mut candidates[kept..];
        let prefix = if open.len() <= FEW {
            open.sort_unstable_by(better_first);
            let mut mass = 0;
            open.iter()
                .position(|c| {
                    mass += weight(distance(c));
                    mass >= missing
                })
                .map_or(open.len(), |at| at + 1)
        } else {
            // All weigh the same, and something: the band reached what was missing.
            let each = weight(distance(&open[0])).max(1);
            let wanted = usize::try_from(missing.div_ceil(each)).unwrap_or(usize::MAX);
            let wanted = wanted.clamp(1, open.len());
            open.select_nth_unstable_by(wanted - 1, better_first);
            wanted
        };
        candidates.truncate(kept + prefix);
    }

    /// The mass in each band.
    fn histogram(&self, peak: f32, scale: Scale, candidates: &[Candidate]) -> [u128; BANDS] {
        let mut bands = [0u128; BANDS];
        let mut distances = [0f64; BLOCK];
        let mut weights = [0f64; BLOCK];
        for block in candidates.chunks(BLOCK) {
            // Three plain loops: the middle one is the cost, and is vectorised.
            for (slot, candidate) in distances.iter_mut().zip(block) {
                *slot = scaled(candidate.logit, peak, self.beta);
            }
            for (weight, &distance) in weights.iter_mut().zip(&distances) {
                *weight = exp(distance);
            }
            for (&weight, &distance) in weights.iter().zip(&distances).take(block.len()) {
                bands[scale.band(distance)] += in_integers(weight);
            }
        }
        bands
    }
}

/// The weight of a token that far from the best.
fn weight(distance: f64) -> u128 {
    in_integers(exp(distance))
}

/// Rounded, so that a long tail of tiny weights is not lost to one side. The way over i64 is one
/// instruction; it holds all of 0 ..= 2⁶².
fn in_integers(weight: f64) -> u128 {
    (weight * ONE + 0.5) as i64 as u128
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::surveyed;
    use super::*;
    use proptest::prelude::*;

    fn filter(temperature: f32, min_p: f32, top_k: Option<usize>, top_p: f32) -> Filter {
        Filter::new(&Sampling {
            temperature,
            min_p,
            top_k,
            top_p,
            ..Sampling::default()
        })
    }

    fn kept(filter: &Filter, logits: &[f32]) -> Vec<TokenId> {
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut out = Vec::new();
        filter.apply(logits, &surveyed(logits), peak, &mut out);
        out.sort_by(better_first);
        out.iter().map(|c| c.id).collect()
    }

    /// Sort everything, then cut. Returns the tokens kept, and whether the top-p cut was too close
    /// to call in floating point.
    fn naive(filter: &Filter, logits: &[f32]) -> (Vec<TokenId>, bool) {
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |l: f32| ((f64::from(l) - f64::from(peak)) / filter.temperature).exp();
        let mut row: Vec<(TokenId, f32)> = (0..).zip(logits.iter().copied()).collect();
        row.retain(|&(_, l)| l > f32::NEG_INFINITY && weight(l) >= filter.min_p);
        row.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        row.truncate(filter.top_k.unwrap_or(usize::MAX));
        if filter.top_p >= 1.0 {
            return (row.iter().map(|r| r.0).collect(), false);
        }
        let total: f64 = row.iter().map(|&(_, l)| weight(l)).sum();
        let mut mass = 0.0;
        let mut close = false;
        let mut ids = Vec::new();
        for (id, l) in row {
            ids.push(id);
            mass += weight(l);
            close |= (mass / total - filter.top_p).abs() < 1e-11;
            if mass >= filter.top_p * total {
                break;
            }
        }
        (ids, close)
    }

    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            6 => -6.0f32..6.0,
            3 => (-6i8..=6).prop_map(f32::from),
            1 => Just(f32::NEG_INFINITY),
            1 => -80.0f32..-20.0,
        ];
        prop::collection::vec(logit, 1..300)
            .prop_filter("something is left", |row| row.iter().any(|l| l.is_finite()))
    }

    proptest! {
        #[test]
        fn every_filter_is_that_of_a_full_sort(
            logits in rows(),
            temperature in prop_oneof![Just(1.0f32), 0.05f32..3.0],
            min_p in prop_oneof![Just(0.0f32), 0.0001f32..1.0],
            top_k in prop_oneof![Just(None), (1usize..400).prop_map(Some)],
            top_p in prop_oneof![Just(1.0f32), 0.001f32..1.0, 0.99f32..1.0],
        ) {
            for filter in [
                filter(temperature, min_p, None, 1.0),
                filter(temperature, 0.0, top_k, 1.0),
                filter(temperature, 0.0, None, top_p),
                filter(temperature, min_p, top_k, top_p),
            ] {
                let (expected, close) = naive(&filter, &logits);
                if !close {
                    prop_assert_eq!(kept(&filter, &logits), expected, "{:?}", filter);
                }
            }
        }
    }

    /// The filter's pick, and that from all tokens it keeps.
    fn picks(filter: &Filter, logits: &[f32], noise: Noise) -> Option<(TokenId, TokenId)> {
        let survey = surveyed(logits);
        let peak = survey.peak(logits).ok()??;
        let mut kept = Vec::new();
        filter.apply(logits, &survey, peak.logit, &mut kept);
        let expected = pick_from(&kept, peak, filter.beta, noise);
        Some((
            filter.pick(logits, &survey, peak, noise, &mut kept),
            expected,
        ))
    }

    proptest! {
        #[test]
        fn a_pick_is_one_from_the_tokens_kept(
            logits in rows(),
            temperature in prop_oneof![Just(1.0f32), 0.05f32..3.0, Just(1e-45), Just(1e38)],
            min_p in prop_oneof![Just(0.0f32), 0.0001f32..1.0],
            top_k in prop_oneof![Just(None), (1usize..400).prop_map(Some)],
            top_p in prop_oneof![Just(1.0f32), 0.001f32..1.0, 0.99f32..1.0, Just(1e-30)],
            seed: u64,
        ) {
            for filter in [
                filter(temperature, min_p, None, 1.0),
                filter(temperature, 0.0, None, top_p),
                filter(temperature, min_p, None, top_p),
                filter(temperature, min_p, top_k, top_p),
            ] {
                for position in 0..4 {
                    let (picked, expected) = picks(&filter, &logits, Noise::new(seed, 0, position))
                        .unwrap_or_default();
                    prop_assert_eq!(picked, expected, "{:?}", filter);
                }
            }
        }
    }

    #[test]
    fn a_winner_beyond_top_p_never_stands() {
        // A flat row: nearly every winner is beyond a small top-p, and equals go by id.
        let mut flat = vec![0.5f32; 3000];
        let wide: Vec<f32> = (0..3000u32)
            .map(|i| (i * 37 % 3000) as f32 * 1e-3)
            .collect();
        flat[1234] = 0.6;
        for row in [&flat, &wide] {
            for top_p in [1e-3f32, 0.05, 0.5, 0.9, 0.999] {
                let filter = filter(1.0, 0.0, None, top_p);
                for position in 0..40 {
                    let noise = Noise::new(5, 0, position);
                    let Some((picked, expected)) = picks(&filter, row, noise) else {
                        panic!("a row with a best token")
                    };
                    assert_eq!(picked, expected, "{filter:?} at {position}");
                }
            }
        }
    }

    #[test]
    fn a_few_good_tokens_in_a_long_row_are_enough() {
        // Where few blocks hold the weight: far ahead, barely, beside others as good, at the end
        // of the row, and with equals of the last one kept in blocks of every kind.
        let long = |best: &[(usize, f32)], rest: f32| {
            let mut row: Vec<f32> = (0..5000u32)
                .map(|i| rest - (i * 797 % 1000) as f32 * 4e-3)
                .collect();
            for &(at, logit) in best {
                row[at] = logit;
            }
            row
        };
        let rows = [
            long(&[(700, 9.0), (701, 8.5), (1500, 8.0), (4999, 7.5)], -6.0),
            long(&[(700, 9.0), (701, 8.5), (1500, 8.0), (4999, 7.5)], 0.0),
            long(&[(0, 9.0), (1000, 2.0), (2000, 2.0), (3000, 2.0)], 2.0),
            long(&[(64, 5.0), (4900, 5.0), (4990, 5.0)], f32::NEG_INFINITY),
            long(&[(64, 90.0), (4900, 45.0)], -40.0),
        ];
        let mut narrow = 0;
        for row in &rows {
            for (temperature, top_p) in [
                (0.7f32, 0.95f32),
                (1.0, 0.9),
                (1.5, 0.999),
                (0.2, 0.5),
                (1.0, 0.02),
            ] {
                for min_p in [0.0f32, 0.01] {
                    let filter = filter(temperature, min_p, None, top_p);
                    let survey = surveyed(row);
                    if let Ok(Some(peak)) = survey.peak(row) {
                        let scales = Scales::new(peak.logit, filter.beta).unwrap();
                        let floor = filter.floor(peak.logit);
                        let bar = Nucleus::new(row, &survey, scales, floor, filter.top_p).bar();
                        narrow += usize::from(bar > floor);
                        let kept = kept(&filter, row);
                        assert!(kept.iter().all(|&id| row[id as usize] >= bar), "{filter:?}");
                    }
                    for position in 0..40 {
                        let noise = Noise::new(6, 0, position);
                        let (picked, expected) = picks(&filter, row, noise).unwrap();
                        assert_eq!(picked, expected, "{filter:?} at {position}");
                    }
                }
            }
        }
        assert!(narrow > 10, "{narrow}");
    }

    #[test]
    fn bands_are_refined_until_the_end_is_found() {
        // Distances of every magnitude, clusters far narrower than a first band, runs of equals.
        let mut row: Vec<f32> = (0..60).flat_map(|i| [-(0.5f32.powi(i)); 40]).collect();
        row.extend((0..3000u16).map(|i| -1.0 - f32::from(i) * 1e-6));
        row.extend((0..3000u16).map(|i| -f32::from(i % 7) * 1e-5));
        row.extend((0..500u16).map(|i| -f32::from(i) * 0.1));
        for temperature in [0.01f32, 1.0, 1e3, 1e30] {
            for top_p in [1e-6f32, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.9999] {
                let filter = filter(temperature, 0.0, None, top_p);
                let (expected, close) = naive(&filter, &row);
                assert!(close || kept(&filter, &row) == expected, "{filter:?}");
            }
        }
    }

    #[test]
    fn ties_are_broken_toward_the_lower_id() {
        let flat = [1.0f32; 1000];
        assert_eq!(kept(&filter(1.0, 0.0, Some(3), 1.0), &flat), [0, 1, 2]);
        let half: Vec<TokenId> = (0..500).collect();
        assert_eq!(kept(&filter(1.0, 0.0, None, 0.5), &flat), half);
        assert_eq!(kept(&filter(1.0, 0.0, None, 1e-9), &flat), [0]);
        assert_eq!(kept(&filter(1.0, 1.0, None, 1.0), &flat).len(), 1000);
    }

    #[test]
    fn the_edges_keep_what_they_should() {
        let row = [0.0f32, 3.0, f32::NEG_INFINITY, 3.0, 1.0];
        assert_eq!(kept(&filter(1.0, 1.0, None, 1.0), &row), [1, 3]);
        assert_eq!(kept(&filter(1.0, 0.0, Some(99), 1.0), &row), [1, 3, 4, 0]);
        assert_eq!(kept(&filter(1.0, 0.0, None, f32::MIN_POSITIVE), &row), [1]);
        // The greatest p below 1 needs the last token too: nothing is lost to rounding.
        let p = 1.0f32.next_down();
        assert_eq!(kept(&filter(1.0, 0.0, None, p), &row), [1, 3, 4, 0]);
    }

    #[test]
    fn extreme_temperatures_and_logits_are_no_trouble() {
        let row = [f32::MAX, f32::MIN, f32::MAX, 0.0, f32::NEG_INFINITY];
        for temperature in [1e-45f32, 1e-30, 1.0] {
            assert_eq!(kept(&filter(temperature, 0.0, None, 0.9), &row), [0, 2]);
            assert_eq!(kept(&filter(temperature, 0.5, None, 1.0), &row), [0, 2]);
            assert_eq!(kept(&filter(temperature, 0.1, Some(1), 0.9), &row), [0]);
        }
        assert_eq!(
            kept(&filter(f32::MAX, 0.0, None, 0.7), &[3.0, 2.0, 1.0, 0.0]),
            [0, 1, 2]
        );
    }
}
