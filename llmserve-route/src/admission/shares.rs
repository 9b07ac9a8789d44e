//! Deficit round robin: whose turn it is among classes that want different amounts.

/// Tokens a class of weight 1 is given in a round.
const QUANTUM: u64 = 512;

/// What each class is owed.
#[derive(Debug)]
pub(super) struct Shares {
    classes: Vec<Share>,
    /// The class whose turn it is.
    at: usize,
    /// Whether it has been given this turn's quantum.
    given: bool,
}

#[derive(Debug)]
struct Share {
    quantum: u64,
    deficit: u64,
}

impl Shares {
    /// One for each weight.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let share = |weight: u32| Share {
            quantum: u64::from(weight) * QUANTUM,
            deficit: 0,
        };
        Self {
            classes: weights.into_iter().map(share).collect(),
            at: 0,
            given: false,
        }
    }

    /// The class whose turn it is among those that want something, and may have it: `wanted` says
    /// how much their next one takes. None if nobody wants anything.
    ///
    /// Turns go on until somebody has enough. Whole rounds in which nobody would are not gone
    /// through but counted.
    pub(super) fn next(&mut self, wanted: impl Fn(usize) -> Option<u64>) -> Option<usize> {
        let classes = self.classes.len();
        let rounds = (0..classes).filter_map(|class| {
            let share = &self.classes[class];
            Some(
                wanted(class)?
                    .saturating_sub(share.deficit)
                    .div_ceil(share.quantum),
            )
        });
        // All but the last round of those that it takes the first one.
        let skipped = rounds.min()?.saturating_sub(1);
        for class in 0..classes {
            if wanted(class).is_some() {
                let share = &mut self.classes[class];
                share.deficit += skipped * share.quantum;
            }
        }
        // Two more rounds: the one that is begun may be past the turn of the first to have enough.
        for _ in 0..=2 * classes {
            let class = self.at;
            if let Some(wanted) = wanted(class) {
                let share = &mut self.classes[class];
                if !std::mem::replace(&mut self.given, true) {
                    share.deficit += share.quantum;
                }
                if share.deficit >= wanted {
                    share.deficit -= wanted;
                    return Some(class);
                }
            }
            self.at = (class + 1) % classes;
            self.given = false;
        }
        None
    }

    /// A class that has nothing left to ask for keeps no claim: idle time earns nothing.
    pub(super) fn left(&mut self, class: usize) {
        self.classes[class].deficit = 0;
    }

    /// A class got `tokens` out of turn, at the cost of what it is owed.
    pub(super) fn charge(&mut self, class: usize, tokens: u64) {
        let share = &mut self.classes[class];
        share.deficit = share.deficit.saturating_sub(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_weights_whatever_the_sizes() {
        let mut shares = Shares::new([4, 1, 2]);
        // Large requests get no more than small ones.
        let sizes = [100_000, 30, 3_000];
        let mut got = [0u64; 3];
        for _ in 0..200_000 {
            let class = shares.next(|class| Some(sizes[class])).unwrap();
            got[class] += sizes[class];
        }
        let part = |class: usize, weight: f64| {
            let share = got[class] as f64 / got.iter().sum::<u64>() as f64;
            assert!((share - weight / 7.0).abs() < 0.01, "{class}: {share}");
        };
        part(0, 4.0);
        part(1, 1.0);
        part(2, 2.0);
    }

    #[test]
    fn a_class_that_may_not_is_passed_over() {
        let mut shares = Shares::new([1, 1]);
        for _ in 0..5 {
            let next = shares.next(|class| (class == 1).then_some(u64::from(u32::MAX)));
            assert_eq!(next, Some(1));
        }
        assert_eq!(shares.next(|_| None), None);
        assert_eq!(shares.next(|_| Some(0)), Some(1));
    }
}
