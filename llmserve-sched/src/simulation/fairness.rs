//! How service is shared between tenants.

/// Jain's index over what tenants got against what they could claim.
///
/// In every window of time, tenant `i` was served `sᵢ` tokens and left `wᵢ` waiting (tokens of its
/// requests that hold no place in the batch). What it could claim of the window's service is its
/// max-min fair share `fᵢ` under the demand `sᵢ + wᵢ`: nobody gets more than it asked for, and what
/// one does not ask for is shared by the others. With `xᵢ = sᵢ / fᵢ`, the window's index is
/// `(Σ xᵢ)² / (n Σ xᵢ²)` (Jain, Chiu and Hawe, 1984) over the `n` tenants with any demand: 1 if all
/// were served alike, `1/n` if one had everything. The whole is the mean over the windows with at
/// least two such tenants, each weighed by the tokens served in it.
#[derive(Debug)]
pub(super) struct Fairness {
    window: u64,
    ends: u64,
    weighed: f64,
    weight: f64,
    /// Scratch: each tenant's demand and what it was served.
    claims: Vec<(f64, f64)>,
}

impl Fairness {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            ends: window,
            weighed: 0.0,
            weight: 0.0,
            claims: Vec::new(),
        }
    }

    /// Whether the window is over.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.ends
    }

    /// Closes the window: for each tenant, tokens served in it and tokens waiting now.
    pub(super) fn close(&mut self, now: u64, tenants: impl Iterator<Item = (u64, u64)>) {
        self.ends = (now / self.window)
            .saturating_add(1)
            .saturating_mul(self.window);
        self.claims.clear();
        let demands = tenants.filter(|(served, waiting)| served + waiting > 0);
        self.claims
            .extend(demands.map(|(served, waiting)| ((served + waiting) as f64, served as f64)));
        let served: f64 = self.claims.iter().map(|(_, served)| served).sum();
        if self.claims.len() < 2 || served == 0.0 {
            return;
        }
        self.weighed += served * index(&mut self.claims, served);
        self.weight += served;
    }

    /// 1 if there was never anything to share.
    pub(super) fn index(&self) -> f64 {
        if self.weight == 0.0 {
            1.0
        } else {
            self.weighed / self.weight
        }
    }
}

/// Jain's index of service over max-min share. Those who ask for least are given first: all they
/// ask for, or an equal part of what is left.
fn index(claims: &mut [(f64, f64)], mut left: f64) -> f64 {
    claims.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let n = claims.len();
    let (mut sum, mut squares) = (0.0, 0.0);
    for (at, &(demand, served)) in claims.iter().enumerate() {
        let share = demand.min(left / (n - at) as f64);
        left -= share;
        let got = served / share.max(f64::MIN_POSITIVE);
        sum += got;
        squares += got * got;
    }
    sum * sum / (n as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(windows: &[&[(u64, u64)]]) -> f64 {
        let mut fairness = Fairness::new(10);
        for (number, window) in windows.iter().enumerate() {
            let now = 10 * (number as u64 + 1);
            assert!(fairness.is_due(now) && !fairness.is_due(now - 1));
            fairness.close(now, window.iter().copied());
        }
        fairness.index()
    }

    #[test]
    fn one_who_asks_for_little_and_gets_it_is_treated_fairly() {
        assert_eq!(of(&[&[(1000, 5000), (10, 0)]]), 1.0);
        assert_eq!(of(&[&[(500, 5000), (500, 0)]]), 1.0);
    }

    #[test]
    fn one_who_waits_for_what_another_gets_is_not() {
        assert_eq!(of(&[&[(1000, 5000), (0, 100)]]), 0.5);
        let third = of(&[&[(900, 1), (0, 900), (0, 900)]]);
        assert!((third - 1.0 / 3.0).abs() < 1e-12, "{third}");
        let skewed = of(&[&[(800, 5000), (200, 5000)]]);
        assert!(
            (skewed - 1000.0f64.powi(2) / (2.0 * 680_000.0)).abs() < 1e-12,
            "{skewed}"
        );
    }

    #[test]
    fn windows_are_weighed_by_service_and_idle_ones_do_not_count() {
        assert_eq!(of(&[]), 1.0);
        assert_eq!(of(&[&[(0, 9), (0, 9)], &[(7, 0), (0, 0)]]), 1.0);
        let two = of(&[&[(300, 900), (0, 900)], &[(50, 0), (50, 0)]]);
        assert!((two - (0.5 * 300.0 + 100.0) / 400.0).abs() < 1e-12, "{two}");
    }
}
