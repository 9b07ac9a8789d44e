//! A roofline drawing (Williams, Waterman and Patterson, 2009).

use std::fmt::Write;

use super::svg::{COLOURS, escaped, head, line, text, ticks, width};

/// The canvas.
const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 560.0;
/// The frame inside it: left, top, right, bottom.
const LEFT: f64 = 70.0;
const TOP: f64 = 48.0;
const RIGHT: f64 = WIDTH - 24.0;
const BOTTOM: f64 = HEIGHT - 54.0;
/// A label's height.
const LINE: f64 = 14.0;
/// Half of a marker.
const MARK: f64 = 5.0;

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A disc.
    Disc,
    /// A square.
    Square,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Point {
    /// What it is; points of the same series have a colour of their own.
    pub series: String,
    /// What stands beside it.
    pub label: String,
    /// How it is drawn.
    pub marker: Marker,
    /// Operations for each byte read; above 0.
    pub intensity: f64,
    /// Operations a second, in 10⁹; above 0.
    pub gflop_s: f64,
}

/// A machine's ceilings and what was measured below them, both axes logarithmic.
#[derive(Clone, Debug)]
pub struct Roofline {
    /// What stands above it.
    pub title: String,
    /// Bytes read a second, in 10⁹; above 0.
    pub read_gb_s: f64,
    /// Arithmetic ceilings: name, and operations a second in 10⁹; each above 0.
    pub ceilings: Vec<(String, f64)>,
    /// The measurements; those that are not above 0 are left out.
    pub points: Vec<Point>,
}

/// A rectangle that letters or marks take.
#[derive(Clone, Copy, Debug)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn overlap(&self, other: &Self) -> f64 {
        let along = |a: f64, b: f64, c: f64, d: f64| ((a + b).min(c + d) - a.max(c)).max(0.0);
        along(self.x, self.width, other.x, other.width)
            * along(self.y, self.height, other.y, other.height)
    }

    /// Where a line from a point meets it.
    fn nearest(&self, x: f64, y: f64) -> (f64, f64) {
        (
            x.clamp(self.x, self.x + self.width),
            y.clamp(self.y + 2.0, self.y + self.height - 2.0),
        )
    }

    fn inside_frame(&self) -> bool {
        self.x >= LEFT
            && self.x + self.width <= RIGHT
            && self.y >= TOP
            && self.y + self.height <= BOTTOM
    }
}

/// From figures to the canvas.
#[derive(Clone, Copy, Debug)]
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        let (low, high) = self.x;
        LEFT + (intensity.log10() - low) / (high - low) * (RIGHT - LEFT)
    }

    fn y(&self, gflop_s: f64) -> f64 {
        let (low, high) = self.y;
        BOTTOM - (gflop_s.log10() - low) / (high - low) * (BOTTOM - TOP)
    }
}

impl Roofline {
    /// The drawing.
    pub fn svg(&self) -> String {
        let points: Vec<&Point> = self
            .points
            .iter()
            .filter(|p| p.intensity > 0.0 && p.gflop_s > 0.0 && p.intensity.is_finite())
            .collect();
        let axes = self.axes(&points);
        let mut series: Vec<&str> = Vec::new();
        for point in &points {
            if !series.contains(&point.series.as_str()) {
                series.push(&point.series);
            }
        }
        let mut out = String::new();
        let mut taken = Vec::new();
        head(&mut out, (WIDTH, HEIGHT), LEFT, &self.title);
        grid(&mut out, axes);
        self.roof(&mut out, axes, &mut taken);
        legend(&mut out, &series, &mut taken);
        let spots: Vec<(f64, f64)> = points
            .iter()
            .map(|p| (axes.x(p.intensity), axes.y(p.gflop_s)))
            .collect();
        taken.extend(spots.iter().map(|&(x, y)| Area {
            x: x - MARK - 1.0,
            y: y - MARK - 1.0,
            width: 2.0 * MARK + 2.0,
            height: 2.0 * MARK + 2.0,
        }));
        for (point, &spot) in points.iter().zip(&spots) {
            let colour = series.iter().position(|s| *s == point.series).unwrap_or(0);
            label(&mut out, spot, &point.label, colour, &mut taken);
        }
        for (point, &spot) in points.iter().zip(&spots) {
            let colour = series.iter().position(|s| *s == point.series).unwrap_or(0);
            mark(&mut out, spot, point.marker, colour);
        }
        out.push_str("</svg>\n");
        out
    }

    /// Room for all points and ridges.
    fn axes(&self, points: &[&Point]) -> Axes {
        let ridges = self.ceilings.iter().map(|(_, rate)| rate / self.read_gb_s);
        let across = points.iter().map(|p| p.intensity).chain(ridges);
        let rates = self.ceilings.iter().map(|(_, rate)| *rate);
        let up = points.iter().map(|p| p.gflop_s).chain(rates);
        let room = |values: &mut dyn Iterator<Item = f64>, below: f64, above: f64| {
            let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
            if low.is_finite() && high > 0.0 {
                (low.log10() - below, high.log10() + above)
            } else {
                (0.0, 1.0)
            }
        };
        Axes {
            x: room(&mut { across }, 0.35, 0.8),
            y: room(&mut { up }, 0.45, 0.25),
        }
    }

    /// The ceilings, each with its name.
    fn roof(&self, out: &mut String, axes: Axes, taken: &mut Vec<Area>) {
        let highest = self.ceilings.iter().map(|c| c.1).fold(0.0, f64::max);
        let read = self.read_gb_s;
        // Where memory's line enters the frame: at its left or its bottom edge.
        let from = 10f64.powf(axes.x.0.max(axes.y.0 - read.log10()));
        let (x1, y1) = (axes.x(from), axes.y(from * read));
        let (x2, y2) = (axes.x(highest / read), axes.y(highest));
        line(out, "roof", (x1, y1), (x2, y2));
        // In its middle, along it.
        let angle = (y2 - y1).atan2(x2 - x1).to_degrees();
        let text = format!("memory {read:.1} GB/s");
        let (x, y) = (x1 + 0.42 * (x2 - x1), y1 + 0.42 * (y2 - y1));
        let _ = writeln!(
            out,
            r#"<text class="name" x="{x:.1}" y="{:.1}" text-anchor="middle" transform="rotate({angle:.2} {x:.1} {y:.1})">{}</text>"#,
            y - 7.0,
            escaped(&text),
        );
        // The line, and its name above it, in small pieces.
        for step in 0..=60 {
            let share = f64::from(step) / 60.0;
            let (x, y) = (x1 + share * (x2 - x1), y1 + share * (y2 - y1));
            let named = (x - (x1 + x2) / 2.0 + 0.08 * (x2 - x1)).abs() < 0.55 * width(&text);
            let above = if named { 22.0 } else { 3.0 };
            taken.push(Area {
                x: x - if named { 10.0 } else { 3.0 },
                y: y - above,
                width: if named { 13.0 } else { 6.0 },
                height: above + 3.0,
            });
        }
        // Two ceilings may be nearly the same: the lower one's name then goes below its line.
        let mut sorted: Vec<_> = self.ceilings.iter().collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut last = f64::NEG_INFINITY;
        for (name, rate) in sorted {
            let y = axes.y(*rate);
            let start = axes.x(rate / read);
            line(out, "roof", (start, y), (RIGHT, y));
            let text = format!("{name} {rate:.0} GFLOP/s");
            let above = y - last > LINE + 6.0;
            let base = if above { y - 5.0 } else { y + LINE };
            last = if above { y } else { y + LINE };
            let area = Area {
                x: RIGHT - 6.0 - width(&text),
                y: base - LINE + 3.0,
                width: width(&text),
                height: LINE,
            };
            let _ = writeln!(
                out,
                r#"<text class="name" x="{:.1}" y="{base:.1}" text-anchor="end">{}</text>"#,
                RIGHT - 6.0,
                escaped(&text),
            );
            taken.push(area);
            taken.push(Area {
                x: start,
                y: y - 2.0,
                width: RIGHT - start,
                height: 4.0,
            });
        }
    }
}

/// Lines at 1, 2 and 5 of each power of ten, and the axes' names.
fn grid(out: &mut String, axes: Axes) {
    for value in ticks(axes.x) {
        let x = axes.x(value);
        line(out, "grid", (x, TOP), (x, BOTTOM));
        text(out, (x, BOTTOM + 17.0), "middle", &value.to_string());
    }
    for value in ticks(axes.y) {
        let y = axes.y(value);
        line(out, "grid", (LEFT, y), (RIGHT, y));
        text(out, (LEFT - 8.0, y + 4.0), "end", &value.to_string());
    }
    let _ = writeln!(
        out,
        r#"<rect class="frame" x="{LEFT}" y="{TOP}" width="{}" height="{}"/>"#,
        RIGHT - LEFT,
        BOTTOM - TOP
    );
    let (middle, centre) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
    text(
        out,
        (middle, HEIGHT - 12.0),
        "middle",
        "operations per byte read",
    );
    let _ = writeln!(
        out,
        r#"<text x="18" y="{centre}" text-anchor="middle" transform="rotate(-90 18 {centre})">GFLOP/s</text>"#
    );
}

/// Which colour is what, in the lower right, where points would be slow ones.
fn legend(out: &mut String, series: &[&str], taken: &mut Vec<Area>) {
    let widest = series.iter().map(|s| width(s)).fold(0.0, f64::max);
    let area = Area {
        x: RIGHT - 34.0 - widest,
        y: BOTTOM - 12.0 - 18.0 * series.len() as f64,
        width: widest + 26.0,
        height: 18.0 * series.len() as f64 + 4.0,
    };
    for (colour, name) in series.iter().enumerate() {
        let y = area.y + 12.0 + 18.0 * colour as f64;
        mark(out, (area.x + 10.0, y - 4.0), Marker::Disc, colour);
        text(out, (area.x + 22.0, y), "start", name);
    }
    taken.push(area);
}

/// A label where it covers least, near its point; with a thin line to it where it stands off.
fn label(out: &mut String, (x, y): (f64, f64), name: &str, colour: usize, taken: &mut Vec<Area>) {
    let colour = colour % COLOURS;
    let width = width(name);
    let at = |left: f64, top: f64| Area {
        x: left,
        y: top,
        width,
        height: LINE,
    };
    let mut places = Vec::new();
    for (ring, gap) in [MARK + 4.0, 20.0, 38.0, 58.0].into_iter().enumerate() {
        let beside = [
            at(x + gap, y - LINE / 2.0),
            at(x - gap - width, y - LINE / 2.0),
            at(x - width / 2.0, y + gap - 2.0),
            at(x - width / 2.0, y - gap - LINE + 2.0),
            at(x + gap, y + gap - LINE / 2.0),
            at(x - gap - width, y + gap - LINE / 2.0),
            at(x + gap, y - gap - LINE / 2.0),
            at(x - gap - width, y - gap - LINE / 2.0),
        ];
        places.extend(beside.map(|area| (ring, area)));
    }
    // A line from a label that stands off, in small pieces; what it crosses counts, too.
    let leader = |ring: usize, area: &Area| -> Vec<Area> {
        let (to_x, to_y) = area.nearest(x, y);
        let length = (to_x - x).hypot(to_y - y);
        let from = if ring > 0 { MARK + 2.0 } else { length };
        (0..)
            .map(|piece| from + 3.0 * f64::from(piece))
            .take_while(|along| *along < length)
            .map(|along| Area {
                x: x + (to_x - x) * along / length - 1.5,
                y: y + (to_y - y) * along / length - 1.5,
                width: 3.0,
                height: 3.0,
            })
            .collect()
    };
    let covers = |(ring, area): &(usize, Area)| -> f64 {
        let outside = if area.inside_frame() { 0.0 } else { 1e6 };
        let pieces = leader(*ring, area);
        let crossed = pieces
            .iter()
            .flat_map(|p| taken.iter().map(|t| t.overlap(p)));
        outside + taken.iter().map(|t| t.overlap(area)).sum::<f64>() + crossed.sum::<f64>()
    };
    // The first of the best: near before far.
    let mut best = places[0];
    let mut least = f64::INFINITY;
    for place in places {
        let covered = covers(&place);
        if covered < least {
            (best, least) = (place, covered);
        }
    }
    let (ring, area) = best;
    if ring > 0 {
        line(out, &format!("l{colour}"), (x, y), area.nearest(x, y));
        taken.extend(leader(ring, &area));
    }
    let _ = writeln!(
        out,
        r#"<text class="t{colour}" x="{:.1}" y="{:.1}">{}</text>"#,
        area.x,
        area.y + LINE - 3.5,
        escaped(name)
    );
    taken.push(area);
}

fn mark(out: &mut String, (x, y): (f64, f64), marker: Marker, colour: usize) {
    let colour = colour % COLOURS;
    let _ = match marker {
        Marker::Disc => writeln!(
            out,
            r#"<circle class="c{colour}" cx="{x:.1}" cy="{y:.1}" r="{MARK}"/>"#
        ),
        Marker::Square => writeln!(
            out,
            r#"<rect class="c{colour}" x="{:.1}" y="{:.1}" width="{side}" height="{side}"/>"#,
            x - MARK,
            y - MARK,
            side = 2.0 * MARK
        ),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(label: &str, intensity: f64, gflop_s: f64) -> Point {
        Point {
            series: "bf16".to_owned(),
            label: label.to_owned(),
            marker: Marker::Disc,
            intensity,
            gflop_s,
        }
    }

    fn roofline(points: Vec<Point>) -> Roofline {
        Roofline {
            title: "a < b & c".to_owned(),
            read_gb_s: 50.0,
            ceilings: vec![("f32".to_owned(), 200.0)],
            points,
        }
    }

    /// Where the `<text>` with this content stands, as an area.
    fn area(svg: &str, content: &str) -> Area {
        let end = format!(">{content}</text>");
        let found = svg.lines().find(|l| l.ends_with(&end)).unwrap();
        let number = |key: &str| -> f64 {
            let from = found.find(key).unwrap() + key.len();
            let rest = &found[from..];
            rest[..rest.find('"').unwrap()].parse().unwrap()
        };
        Area {
            x: number(" x=\""),
            y: number(" y=\"") - LINE + 3.5,
            width: width(content),
            height: LINE,
        }
    }

    #[test]
    fn labels_of_points_at_one_place_do_not_overlap() {
        let names = ["one", "two", "three", "four", "five"];
        let points = names.iter().map(|name| point(name, 2.0, 60.0)).collect();
        let svg = roofline(points).svg();
        let areas: Vec<Area> = names.iter().map(|name| area(&svg, name)).collect();
        for (index, one) in areas.iter().enumerate() {
            assert!(one.inside_frame(), "{one:?}");
            for other in &areas[..index] {
                assert!(one.overlap(other) < 1e-6, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn both_axes_are_logarithmic_and_hold_every_point() {
        let axes = roofline(Vec::new()).axes(&[&point("a", 1.0, 10.0), &point("b", 100.0, 1000.0)]);
        let (a, b, c) = (axes.x(1.0), axes.x(10.0), axes.x(100.0));
        assert!((b - a - (c - b)).abs() < 1e-9 && a > LEFT && c < RIGHT);
        let (a, b, c) = (axes.y(10.0), axes.y(100.0), axes.y(1000.0));
        assert!((b - a - (c - b)).abs() < 1e-9 && a < BOTTOM && c > TOP);
    }

    #[test]
    fn text_is_escaped_and_what_cannot_be_drawn_is_left_out() {
        let svg = roofline(vec![point("zero", 0.0, 1.0), point("nan", f64::NAN, 1.0)]).svg();
        assert!(svg.contains("a &lt; b &amp; c"));
        assert!(!svg.contains("zero") && !svg.to_lowercase().contains("nan<"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
