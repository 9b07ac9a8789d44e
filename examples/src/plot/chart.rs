//! Curves in panels, one above the other.

use std::fmt::Write;

use super::svg::{COLOURS, escaped, even_ticks, head, line, text, ticks, width};

/// The canvas, and a panel's frame on it: left, right, and its height.
const WIDTH: f64 = 920.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 24.0;
const HEIGHT: f64 = 190.0;
/// Above the first panel's frame, and from one frame to the next.
const TOP: f64 = 66.0;
const BETWEEN: f64 = 74.0;

/// One line of a panel.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// From left to right; points that are no numbers, or not above 0 on a logarithmic axis, are
    /// left out.
    pub points: Vec<(f64, f64)>,
}

/// Curves over one axis; upwards it is linear from 0.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What goes to the right.
    pub across: String,
    /// What goes upwards.
    pub up: String,
    /// Whether the axis to the right is logarithmic; else it is linear from 0.
    pub logarithmic: bool,
    /// What is drawn.
    pub curves: Vec<Curve>,
}

/// A drawing of panels.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

impl Chart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let height = TOP + self.panels.len() as f64 * (HEIGHT + BETWEEN) - BETWEEN + 54.0;
        let mut out = String::new();
        head(&mut out, (WIDTH, height), LEFT, &self.title);
        for (number, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut out, TOP + number as f64 * (HEIGHT + BETWEEN));
        }
        out.push_str("</svg>\n");
        out
    }
}

impl Panel {
    fn drawable(&self, (x, y): (f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && x >= 0.0 && (x > 0.0 || !self.logarithmic)
    }

    /// Draws it with its frame's upper edge at `top`.
    fn draw(&self, out: &mut String, top: f64) {
        let points = self
            .curves
            .iter()
            .flat_map(|curve| curve.points.iter().copied());
        let (mut least, mut most, mut high) = (f64::INFINITY, 0.0f64, 0.0f64);
        for (x, y) in points.filter(|point| self.drawable(*point)) {
            (least, most, high) = (least.min(x), most.max(x), high.max(y));
        }
        // With nothing to draw, any axis will do.
        let (least, most) = if most > 0.0 {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        let high = if high > 0.0 { 1.06 * high } else { 1.0 };
        let (low, span) = if self.logarithmic {
            (least.log10(), (most / least).log10().max(0.1))
        } else {
            (0.0, most)
        };
        let across = |x: f64| if self.logarithmic { x.log10() } else { x };
        let x = |value: f64| LEFT + (across(value) - low) / span * (RIGHT - LEFT);
        let y = |value: f64| top + HEIGHT - value / high * HEIGHT;

        let marks = if self.logarithmic {
            ticks((low, low + span))
        } else {
            even_ticks(most)
        };
        for mark in marks {
            line(out, "grid", (x(mark), top), (x(mark), top + HEIGHT));
            text(
                out,
                (x(mark), top + HEIGHT + 16.0),
                "middle",
                &mark.to_string(),
            );
        }
        for mark in even_ticks(high) {
            line(out, "grid", (LEFT, y(mark)), (RIGHT, y(mark)));
            text(out, (LEFT - 8.0, y(mark) + 4.0), "end", &mark.to_string());
        }
        let _ = writeln!(
            out,
            r#"<rect class="frame" x="{LEFT}" y="{top}" width="{}" height="{HEIGHT}"/>"#,
            RIGHT - LEFT
        );
        let middle = ((LEFT + RIGHT) / 2.0, top + HEIGHT + 32.0);
        text(out, middle, "middle", &self.across);
        text(out, (LEFT, top - 8.0), "start", &self.up);
        let mut end = RIGHT;
        for (number, curve) in self.curves.iter().enumerate().rev() {
            let colour = number % COLOURS;
            let _ = writeln!(
                out,
                r#"<text class="t{colour}" x="{end:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                top - 8.0,
                escaped(&curve.name)
            );
            end -= width(&curve.name) + 16.0;
        }
        for (number, curve) in self.curves.iter().enumerate() {
            let points = curve.points.iter().filter(|point| self.drawable(**point));
            let mut path = String::new();
            for &(at, value) in points {
                let _ = write!(path, "{:.1},{:.1} ", x(at), y(value));
            }
            let _ = writeln!(
                out,
                r#"<polyline class="curve l{}" points="{}"/>"#,
                number % COLOURS,
                path.trim_end()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(logarithmic: bool, points: Vec<(f64, f64)>) -> String {
        let curve = Curve {
            name: "a < b".to_owned(),
            points,
        };
        let panel = Panel {
            across: "seconds".to_owned(),
            up: "share".to_owned(),
            logarithmic,
            curves: vec![curve],
        };
        let title = "title".to_owned();
        let panels = vec![panel.clone(), panel];
        Chart { title, panels }.svg()
    }

    fn drawn(svg: &str) -> Vec<(f64, f64)> {
        let from = svg.find("points=\"").expect("a curve") + 8;
        let path = &svg[from..from + svg[from..].find('"').expect("its end")];
        let number = |n: &str| n.parse::<f64>().expect("a number");
        let pair = |p: &str| p.split_once(',').map(|(x, y)| (number(x), number(y)));
        path.split_whitespace().filter_map(pair).collect()
    }

    #[test]
    fn axes_hold_every_point_and_are_as_told() {
        let points = vec![(1.0, 0.0), (10.0, 0.5), (100.0, 1.0)];
        let log = drawn(&chart(true, points.clone()));
        assert!(
            (log[1].0 - log[0].0 - (log[2].0 - log[1].0)).abs() < 0.2,
            "{log:?}"
        );
        let even = drawn(&chart(false, points));
        assert!((even[2].0 - RIGHT).abs() < 0.1 && even[1].0 < LEFT + 0.11 * (RIGHT - LEFT));
        for (x, y) in log.into_iter().chain(even) {
            assert!((LEFT..=RIGHT).contains(&x) && (TOP..=TOP + HEIGHT).contains(&y));
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        let svg = chart(
            true,
            vec![
                (0.0, 1.0),
                (f64::NAN, 1.0),
                (2.0, f64::INFINITY),
                (3.0, 1.0),
            ],
        );
        assert_eq!(drawn(&svg).len(), 1);
        for points in [vec![], vec![(0.0, 0.0)], vec![(5.0, 0.0)]] {
            let svg = chart(false, points);
            assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("a &lt; b"));
        }
    }
}
