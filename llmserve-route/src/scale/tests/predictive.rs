//! Weeks that are like the last.

use super::*;

#[test]
fn hours_of_the_week_with_a_trend() {
    let predictive = Predictive::new(10.0).unwrap();
    for (noise, off) in [(0.0, 0.05), (0.2, 0.15)] {
        let mut history = weeks(6, noise);
        // The order is nothing, and neither is what is no measurement.
        history.reverse();
        history.push(Demand {
            at: at(9_000),
            per_second: f64::NAN,
        });
        for hour in 6 * 168..7 * 168 {
            let forecast = predictive
                .forecast(&history, at(hour * 3_600 + 1_800))
                .unwrap();
            assert_eq!(forecast.basis, Basis::Weeks(6));
            let ratio = forecast.per_second / expected(hour);
            assert!((ratio - 1.0).abs() < off, "hour {hour}: {ratio}");
        }
    }
    // Eight o'clock: nine is within the lead, and three times as much.
    let history = weeks(4, 0.0);
    let eight = at((4 * 168 + 8) * 3_600);
    let soon = predictive.replicas(&history, eight).unwrap();
    let late = predictive
        .clone()
        .lead(at(7_200))
        .replicas(&history, eight)
        .unwrap();
    assert!(late as f64 > 1.5 * soon as f64, "{soon} {late}");
}

#[test]
fn while_history_is_short_the_last_hour_goes_on() {
    let predictive = Predictive::new(10.0).unwrap();
    assert_eq!(predictive.forecast(&[], at(0)), None);
    let history = weeks(1, 0.0);
    let forecast = predictive.forecast(&history, at(9_999_999)).unwrap();
    assert_eq!(forecast.basis, Basis::LastHour);
    assert_eq!(forecast.per_second, expected(167));
    assert_eq!(predictive.replicas(&history, at(700_000)), None);
    // Weeks with too few hours do not count.
    let sparse: Vec<_> = weeks(4, 0.0).into_iter().step_by(2).collect();
    let basis = |predictive: &Predictive| predictive.forecast(&sparse, at(0)).unwrap().basis;
    assert_eq!(basis(&predictive), Basis::LastHour);
    let mut lenient = predictive;
    lenient.coverage = 0.5;
    assert_eq!(basis(&lenient), Basis::Weeks(4));
    // Nothing was ever asked for; and a demand that falls does not fall below nothing.
    let nothing: Vec<_> = weeks(3, 0.0)
        .into_iter()
        .map(|d| Demand {
            per_second: 0.0,
            ..d
        })
        .collect();
    assert_eq!(lenient.replicas(&nothing, at(1_900_000)), Some(0));
    let falling = weeks(3, 0.0).into_iter().map(|d| Demand {
        per_second: 100.0 * (1.0 - d.at.as_secs_f64() / (3.2 * 604_800.0)),
        ..d
    });
    let falling: Vec<_> = falling.collect();
    assert_eq!(
        lenient
            .forecast(&falling, at(9 * 604_800))
            .unwrap()
            .per_second,
        0.0
    );
}

#[test]
fn what_cannot_be_predicted_by() {
    assert!(Predictive::new(0.0).is_err());
    let predictive = || Predictive::new(1.0).unwrap();
    assert!(predictive().headroom(0.9).check().is_err());
    assert!(predictive().min_weeks(0).check().is_err());
}
