//! A straight line through points, and the median of values.

/// `y = intercept + slope * x`, the line of least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Where it is at 0.
    pub intercept: f64,
    /// What it gains with each 1.
    pub slope: f64,
    /// The largest distance of a point from it, as a share of the point's own `y`.
    pub worst_residual: f64,
}

impl Line {
    /// The line through `points`; none through fewer than two different `x`.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        let mean_x = points.iter().map(|p| p.0).sum::<f64>() / n;
        let mean_y = points.iter().map(|p| p.1).sum::<f64>() / n;
        let spread: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
        if spread.is_nan() || spread <= 0.0 {
            return None;
        }
        let together: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
        let slope = together / spread;
        let intercept = mean_y - slope * mean_x;
        let worst_residual = points
            .iter()
            .map(|(x, y)| ((intercept + slope * x - y) / y).abs())
            .fold(0.0, f64::max);
        Some(Self {
            intercept,
            slope,
            worst_residual,
        })
    }
}

/// The median; of an even number of values the upper of the middle two, of none NaN.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert_eq!(median([3.0, 1.0, 900.0, 2.0, 2.5].into_iter()), 2.5);
        assert_eq!(median([4.0, 1.0].into_iter()), 4.0);
        assert!(median([].into_iter()).is_nan());
    }

    #[test]
    fn points_on_a_line_give_it_back() {
        let points = [1.0, 2.0, 4.0, 8.0].map(|x| (x, 3.0 + 0.5 * x));
        let line = Line::through(&points).unwrap();
        assert!((line.slope - 0.5).abs() < 1e-12 && (line.intercept - 3.0).abs() < 1e-12);
        assert!(line.worst_residual < 1e-12);
    }

    #[test]
    fn a_parabola_is_no_line() {
        let points = [1.0, 2.0, 3.0].map(|x| (x, x * x));
        let line = Line::through(&points).unwrap();
        // Least squares through 1, 4, 9: 4x - 10/3, which is 2/3 at the first point.
        assert!((line.slope - 4.0).abs() < 1e-12);
        assert!((line.worst_residual - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn one_x_makes_no_line() {
        assert_eq!(Line::through(&[]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
