//! What work of a size costs, learned from measurements.

/// Sizes up to here have a place of their own; above, a quarter of an octave shares one.
const SINGLE: usize = 16;

/// Samples of which the least is taken.
const FEW: u32 = 3;

/// A cost in seconds by size, a number of tokens or rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    /// By place, in order of size.
    points: Vec<Option<Point>>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    size: f64,
    cost: f64,
    samples: u32,
}

fn place(size: usize) -> usize {
    if size <= SINGLE {
        return size;
    }
    let octaves = (size as f64 / SINGLE as f64).log2();
    SINGLE + 1 + (octaves * 4.0) as usize
}

impl Curve {
    /// Learns that work of `size` took `cost` seconds.
    pub(super) fn learn(&mut self, size: usize, cost: f64) {
        if size == 0 || !cost.is_finite() || cost < 0.0 {
            return;
        }
        let at = place(size);
        if at >= self.points.len() {
            self.points.resize(at + 1, None);
        }
        let point = self.points[at].get_or_insert(Point {
            size: size as f64,
            cost,
            samples: 0,
        });
        point.samples = point.samples.saturating_add(1);
        let weight = 1.0 / f64::from(point.samples.min(8));
        if point.samples <= FEW {
            // Too few to tell a slow step from slow work: the least is nearest.
            point.cost = cost.min(point.cost);
        } else {
            // One step that the machine was busy with something else says little.
            point.cost += (cost.min(point.cost * 2.0) - point.cost) * weight;
        }
        point.size += (size as f64 - point.size) * weight;
    }

    /// Learns a cost that is now and then far too high: what is less is believed at once, what is
    /// more by and by.
    pub(super) fn learn_least(&mut self, size: usize, cost: f64) {
        let least = match self.points.get(place(size)) {
            Some(Some(point)) if cost > point.cost => {
                point.cost + 0.05 * (cost - point.cost).min(point.cost)
            }
            _ => cost,
        };
        if size > 0 && least.is_finite() && least >= 0.0 {
            if let Some(Some(point)) = self.points.get_mut(place(size)) {
                point.cost = least;
            } else {
                self.learn(size, least);
            }
        }
    }

    /// Whether work of about this size was measured, more than once: once says little.
    pub(super) fn knows(&self, size: usize) -> bool {
        matches!(self.points.get(place(size)), Some(Some(point)) if point.samples > 1)
    }

    /// What work of `size` costs: between two sizes measured, on the line between them. Below the
    /// smallest as much as that; above the greatest in proportion, or half-way from that to
    /// the line through the last two, if they are far enough apart to tell a slope. None before anything was measured.
    pub(super) fn at(&self, size: usize) -> Option<f64> {
        let size_f = size as f64;
        let known = || self.points.iter().flatten();
        let below = known().rfind(|p| p.size <= size_f);
        let above = known().find(|p| p.size >= size_f);
        match (below, above) {
            (Some(low), Some(high)) if high.size > low.size => {
                let share = (size_f - low.size) / (high.size - low.size);
                Some(low.cost + (high.cost - low.cost) * share)
            }
            (Some(point), Some(_)) | (None, Some(point)) => Some(point.cost),
            (Some(last), None) => {
                let proportional = last.cost * size_f / last.size;
                let before = known().rfind(|p| p.size * 1.2 <= last.size);
                let along = before.map(|before| {
                    let slope = (last.cost - before.cost) / (last.size - before.size);
                    last.cost + slope.max(0.0) * (size_f - last.size)
                });
                // Half-way: a slope between neighbours says little of what is far.
                let cautious = along.map(|along| (along.min(proportional) + proportional) / 2.0);
                Some(cautious.unwrap_or(proportional))
            }
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Curve;

    #[test]
    fn what_was_not_measured_lies_between_what_was() {
        let mut curve = Curve::default();
        assert_eq!(curve.at(3), None);
        curve.learn(1, 1.0);
        assert_eq!(curve.at(1), Some(1.0));
        assert_eq!(
            curve.at(4),
            Some(4.0),
            "nothing is known but that it takes longer"
        );
        curve.learn(5, 1.4);
        assert_eq!(curve.at(3), Some(1.2));
        let beyond = curve.at(10).unwrap();
        assert!((beyond - 2.35).abs() < 1e-9, "{beyond}");
        assert!(!curve.knows(5));
        curve.learn(5, 1.4);
        assert!(curve.knows(5) && !curve.knows(4));
    }

    #[test]
    fn one_slow_step_is_not_believed_and_many_are() {
        let mut curve = Curve::default();
        for _ in 0..20 {
            curve.learn(8, 1.0);
        }
        curve.learn(8, 100.0);
        assert!(curve.at(8).unwrap() < 1.2);
        for _ in 0..60 {
            curve.learn(8, 3.0);
        }
        assert!(curve.at(8).unwrap() > 2.9);
    }

    #[test]
    fn nonsense_is_not_learned() {
        let mut curve = Curve::default();
        curve.learn(0, 1.0);
        curve.learn(3, f64::NAN);
        curve.learn(3, -1.0);
        assert_eq!(curve.at(3), None);
    }
}
