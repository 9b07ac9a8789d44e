//! How often to check a hit, so that wrong answers stay below a bound: evidence by entry.

/// The largest number of observations that an entry keeps. Later ones are not kept, as forgetting
/// early ones would be a choice made after looking at them.
const KEPT: usize = 1024;

/// The part of the bound that is left for the evidence being misleading.
const MISLEADING: f64 = 1.0 / 8.0;

/// Rates that bets are placed on. Certainty is one of them, as most entries are always right.
const RATES: [f64; 8] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0];

/// What to do with a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Give the entry's answer.
    Serve,
    /// Give it or the model's, but run the model, compare, and [record](Evidence::record).
    Verify,
}

/// The largest share of hits that may be wrong.
///
/// ```
/// use llmserve_cache::semantic::ErrorBound;
/// assert!(ErrorBound::new(0.02).is_some());
/// assert!(ErrorBound::new(-0.1).is_none() && ErrorBound::new(f64::NAN).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ErrorBound(f64);

impl ErrorBound {
    /// A share from 0, where every hit is verified, to 1, where none is.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// What is known of one entry: verified hits, at which similarity, and whether its answer was right.
///
/// The user's setting is the bound on wrong answers, not a cosine (after vCache, Schroeder et al.,
/// 2025, <https://arxiv.org/abs/2502.03771>): some cosine is right for one stored question and wrong
/// for the next, so each entry learns its own from hits that were *verified*, that is, answered by
/// the model too and compared.
///
/// # The guarantee
///
/// Let `p(s)` be the chance that an entry's answer is right for a question at similarity `s`, let it
/// not fall as `s` rises, and let verified answers tell. A hit at `s` is verified with chance `v` and
/// given unchecked otherwise, so it is wrong with chance `(1 − v)(1 − p(s))`.
///
/// `p(s)` is not known. For a guess `q`, take all verified hits of the entry at `s` or below; each
/// was right with chance at most `p(s)`. Bet on them being right more often than `q` says: from one
/// unit, a right one multiplies the stake by `r / q`, a wrong one by `(1 − r) / (1 − q)`, for some
/// `r > q`. If `p(s) ≤ q`, no bet gains on average whatever came before, so the stake ever reaches
/// `1/ε` with chance `ε` at most (Ville's inequality). That holds for a mixture of all `r` as well,
/// and at every moment, however it was decided what to verify. So let `q` be the largest guess at
/// which the stake stands at `1/ε`; `p(s)` is below it with chance `ε` at most, and
///
/// ```text
///  P(wrong) ≤ (1 − v)(1 − q) + ε ≤ bound       with   1 − v = (bound − ε) / (1 − q),  ε = bound / 8
/// ```
///
/// A new entry has no evidence: `q = 0`, and all but a share of `7/8 · bound` of its hits are
/// verified. Evidence at a similarity also counts above it. Under a bound of 2 %, a hundred right
/// answers in a row bring the verified share down to 77 %, five hundred to nothing: a guarantee for
/// each entry by itself is not cheap.
///
/// # Example
///
/// ```
/// use llmserve_cache::semantic::{Decision, ErrorBound, Evidence};
///
/// let bound = ErrorBound::new(0.05).expect("a share");
/// let mut evidence = Evidence::default();
/// assert!(evidence.share_to_verify(0.9, bound) > 0.9, "nothing is known");
///
/// for _ in 0..200 {
///     evidence.record(0.88, true);
/// }
/// assert_eq!(evidence.decide(0.9, bound, 0.3), Decision::Serve);
/// // What is right at 0.88 says nothing of 0.8.
/// assert_eq!(evidence.decide(0.8, bound, 0.3), Decision::Verify);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Similarity, and whether the answer was right.
    seen: Vec<(f32, bool)>,
}

impl Evidence {
    /// Adds a verified hit, unless 1024 are kept already. A similarity that is not a number is ignored.
    pub fn record(&mut self, similarity: f32, right: bool) {
        if !similarity.is_nan() && self.seen.len() < KEPT {
            self.seen.push((similarity, right));
        }
    }

    /// Verified hits kept, 1024 at most.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no hit was verified yet.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether to verify a hit at a similarity. `chance` is drawn evenly from 0 to 1, independent of
    /// the question.
    pub fn decide(&self, similarity: f32, bound: ErrorBound, chance: f64) -> Decision {
        if chance < self.share_to_verify(similarity, bound) {
            Decision::Verify
        } else {
            Decision::Serve
        }
    }

    /// The share of hits at a similarity that must be verified for the bound to hold, 0 to 1.
    pub fn share_to_verify(&self, similarity: f32, bound: ErrorBound) -> f64 {
        let below = || self.seen.iter().filter(|(at, _)| *at <= similarity);
        let right = below().filter(|(_, right)| *right).count();
        let wrong = below().count() - right;
        let misleading = bound.0 * MISLEADING;
        let error = 1.0 - rate_at_least(right, wrong, misleading);
        // All may be given unchecked where even the worst rate keeps the bound.
        let room = bound.0 - misleading;
        if error <= room || bound.0 >= 1.0 {
            return 0.0;
        }
        1.0 - room / error
    }
}

/// A rate that the true one is above, with chance `1 − level`.
fn rate_at_least(right: usize, wrong: usize, level: f64) -> f64 {
    if level <= 0.0 {
        return 0.0;
    }
    // The stake falls as the guess rises towards the rate seen, so halving finds where it crosses.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let guess = (low + high) / 2.0;
        if stake(right, wrong, guess) >= -level.ln() {
            low = guess;
        } else {
            high = guess;
        }
    }
    low
}

/// The logarithm of what one unit, spread over [`RATES`], has become against a guess.
fn stake(right: usize, wrong: usize, guess: f64) -> f64 {
    let (right, wrong) = (right as f64, wrong as f64);
    let bet = |rate: f64| {
        // Nobody bets on less than the guess: that unit is kept.
        if rate <= guess {
            return 0.0;
        }
        let lost = if wrong > 0.0 {
            wrong * ((1.0 - rate) / (1.0 - guess)).ln()
        } else {
            0.0
        };
        right * (rate / guess).ln() + lost
    };
    let bets = RATES.map(bet);
    let most = bets.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = bets.into_iter().map(|bet| (bet - most).exp()).sum();
    most + (sum / RATES.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Even numbers from 0 to 1.
    struct Chance(u64);

    impl Chance {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Hits of one entry, of which an answer is right with chance `right(similarity)`. Wrong answers
    /// given, and hits verified.
    fn run(
        hits: usize,
        bound: f64,
        chance: &mut Chance,
        right: impl Fn(f64) -> f64,
    ) -> (usize, usize) {
        let bound = ErrorBound::new(bound).expect("a share");
        let mut evidence = Evidence::default();
        let (mut wrong, mut verified) = (0, 0);
        for _ in 0..hits {
            let similarity = 0.8 + 0.2 * chance.next();
            let is_right = chance.next() < right(similarity);
            match evidence.decide(similarity as f32, bound, chance.next()) {
                Decision::Verify => {
                    verified += 1;
                    evidence.record(similarity as f32, is_right);
                }
                Decision::Serve => wrong += usize::from(!is_right),
            }
        }
        (wrong, verified)
    }

    #[test]
    fn wrong_answers_stay_below_the_bound() {
        // Entries of every sort, at every length of life: those that are never right, those that
        // turn at some similarity, those just worse than the bound, where learning is slowest.
        type Sort = fn(f64) -> f64;
        let sorts: [(&str, Sort); 6] = [
            ("never", |_| 0.0),
            ("half", |_| 0.5),
            ("nearly", |_| 0.93),
            ("step", |s| if s < 0.9 { 0.0 } else { 1.0 }),
            ("slope", |s| (s - 0.8) / 0.2),
            ("late", |s| if s < 0.97 { 0.6 } else { 0.99 }),
        ];
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for bound in [0.01, 0.05] {
            for (name, right) in sorts {
                for hits in [20, 150, 600] {
                    let entries = 8_000 / hits / 2;
                    let total = entries * hits;
                    let wrong: usize = (0..entries)
                        .map(|_| run(hits, bound, &mut chance, right).0)
                        .sum();
                    // Three standard deviations of a share that is exactly at the bound.
                    let most = bound + 3.0 * (bound / total as f64).sqrt();
                    let share = wrong as f64 / total as f64;
                    assert!(share <= most, "{name}, {hits} hits: {share} of {bound}");
                }
            }
        }
    }

    #[test]
    fn entries_that_are_right_are_soon_left_alone() {
        let mut chance = Chance(7);
        let (wrong, verified) = run(2_000, 0.05, &mut chance, |_| 1.0);
        assert_eq!(wrong, 0);
        assert!(verified < 700, "{verified} of 2000");
    }

    #[test]
    fn more_right_ones_never_ask_for_more_checks() {
        let bound = ErrorBound::new(0.02).expect("a share");
        let mut evidence = Evidence::default();
        let mut last = 1.0;
        for _ in 0..300 {
            let share = evidence.share_to_verify(0.9, bound);
            assert!(share <= last, "{share} after {last}");
            last = share;
            evidence.record(0.9, true);
        }
        evidence.record(0.9, false);
        assert!(evidence.share_to_verify(0.9, bound) > last);
        // A wrong one above says nothing of what is below it.
        let before = evidence.share_to_verify(0.95, bound);
        evidence.record(0.99, false);
        assert_eq!(evidence.share_to_verify(0.95, bound), before);
    }

    #[test]
    fn what_the_documentation_says() {
        let bound = ErrorBound::new(0.02).expect("a share");
        let after = |hits: usize| {
            let mut evidence = Evidence::default();
            (0..hits).for_each(|_| evidence.record(0.9, true));
            evidence.share_to_verify(0.9, bound)
        };
        assert!((after(0) - (1.0 - 0.02 * 7.0 / 8.0)).abs() < 1e-9);
        assert!((after(100) - 0.77).abs() < 0.01, "{}", after(100));
        assert_eq!(after(500), 0.0);
    }

    #[test]
    fn bounds_at_their_ends() {
        let evidence = Evidence::default();
        let (none, all) = (ErrorBound(0.0), ErrorBound(1.0));
        assert_eq!(evidence.decide(0.9, none, 0.999_999), Decision::Verify);
        assert_eq!(evidence.decide(0.9, all, 0.0), Decision::Serve);
        let mut full = Evidence::default();
        full.record(f32::NAN, true);
        assert!(full.is_empty());
        for _ in 0..2 * KEPT {
            full.record(0.9, true);
        }
        assert_eq!(full.len(), KEPT);
    }
}
