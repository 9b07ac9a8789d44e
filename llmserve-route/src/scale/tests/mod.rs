//! Decisions in virtual time.

mod autoscaling;
mod hardware;
mod horizontal;
mod predictive;

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many weeks of a day and night that grow by a tenth of the first week each week.
fn weeks(of: u64, noise: f64) -> Vec<Demand> {
    let rng = crate::random::Rng::seeded(7);
    (0..of * 168)
        .map(|hour| {
            let noise = 1.0 + noise * (rng.unit() - 0.5);
            Demand {
                at: at(hour * 3_600 + 1_800),
                per_second: expected(hour) * noise,
            }
        })
        .collect()
}

fn expected(hour: u64) -> f64 {
    let day = if (9..18).contains(&(hour % 24)) {
        3.0
    } else {
        1.0
    };
    let weekend = if hour % 168 >= 120 { 0.5 } else { 1.0 };
    100.0 * day * weekend * (1.0 + 0.1 * hour as f64 / 168.0)
}
