//! The cheapest of all mixes.

use super::Kind;

/// Mixes looked at before the best so far is taken.
const MOST_MIXES: usize = 1_000_000;

/// One kind in one way to have it.
pub(super) struct Item<'a> {
    pub(super) kind: &'a Kind,
    pub(super) spot: bool,
    pub(super) cost: f64,
    pub(super) tokens: f64,
    pub(super) most: usize,
}

impl Item<'_> {
    /// What a token a second costs.
    pub(super) fn per_token(&self) -> f64 {
        self.cost / self.tokens
    }
}

/// Branch and bound over how many there are of each, the cheapest a token first: a branch whose rest
/// would cost too much, though it cost no more a token than the cheapest that is left, is given up.
pub(super) struct Search<'a> {
    items: &'a [Item<'a>],
    /// At each item, the least cost a token of those from there on that are not spot instances.
    lasting: Vec<f64>,
    counts: Vec<usize>,
    cost: f64,
    best: Option<Vec<usize>>,
    mixes: usize,
}

impl<'a> Search<'a> {
    /// Over `items`, the least [`per_token`](Item::per_token) first.
    pub(super) fn new(items: &'a [Item<'a>]) -> Self {
        let mut lasting = vec![f64::INFINITY; items.len()];
        let mut least = f64::INFINITY;
        for (at, item) in items.iter().enumerate().rev() {
            if !item.spot {
                // Those after it cost no less.
                least = item.per_token();
            }
            lasting[at] = least;
        }
        Self {
            items,
            lasting,
            counts: vec![0; items.len()],
            cost: f64::INFINITY,
            best: None,
            mixes: 0,
        }
    }

    /// The counts of the cheapest mix that was found, by item.
    pub(super) fn best(&mut self) -> Option<Vec<usize>> {
        self.best.take()
    }

    /// Whether every mix was looked at or cannot be cheaper.
    pub(super) fn is_proven(&self) -> bool {
        self.mixes < MOST_MIXES
    }

    /// `tokens` are missing, `lasting` of them not from spot instances, and `cost` is spent on
    /// items before `at`.
    pub(super) fn look(&mut self, at: usize, tokens: f64, lasting: f64, cost: f64) {
        const NOTHING: f64 = 1e-9;
        if tokens <= NOTHING && lasting <= NOTHING {
            if cost < self.cost - NOTHING {
                self.cost = cost;
                self.best = Some(self.counts.clone());
            }
            return;
        }
        let Some(item) = self.items.get(at) else {
            return;
        };
        let rest = (tokens.max(0.0) * item.per_token()).max(if lasting > NOTHING {
            lasting * self.lasting[at]
        } else {
            0.0
        });
        if cost + rest >= self.cost - NOTHING || self.mixes >= MOST_MIXES {
            return;
        }
        self.mixes += 1;
        let missing = if item.spot {
            tokens
        } else {
            tokens.max(lasting)
        };
        let enough = ((missing - NOTHING) / item.tokens).ceil().max(0.0) as usize;
        for count in (0..=enough.min(item.most)).rev() {
            let (spent, made) = (count as f64 * item.cost, count as f64 * item.tokens);
            self.counts[at] = count;
            let lasting = if item.spot { lasting } else { lasting - made };
            self.look(at + 1, tokens - made, lasting, cost + spent);
        }
        self.counts[at] = 0;
    }
}
