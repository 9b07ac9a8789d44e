//! What all drawings are made of: SVG that looks right on light and on dark pages.

use std::fmt::Write;

/// The width of a letter.
const LETTER: f64 = 7.0;

/// How many colours there are.
pub(super) const COLOURS: usize = 4;
/// Colours that can be told apart, on light and on dark ground (after Okabe and Ito, 2008).
const LIGHT: [&str; COLOURS] = ["#0072b2", "#c24e00", "#00805c", "#a8508a"];
const DARK: [&str; COLOURS] = ["#56b4e9", "#ff9d4d", "#3ccf9f", "#e79fcb"];

/// The beginning of a drawing of some width and height: both modes' styles, the ground, and the
/// title, `left` of the edge. `</svg>` ends it.
pub(super) fn head(out: &mut String, (width, height): (f64, f64), left: f64, title: &str) {
    // Both modes are spelled out: not every reader of SVG knows variables.
    let light = style("#ffffff", "#24292f", "#e6e8eb", LIGHT);
    let dark = style("#0d1117", "#d8dee6", "#262c35", DARK);
    let title = escaped(title);
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-family="system-ui, sans-serif" font-size="12">
<title>{title}</title>
<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>
<rect class="ground" width="{width}" height="{height}"/>
<text x="{left}" y="28" font-size="14">{title}</text>"#
    );
}

fn style(ground: &str, ink: &str, faint: &str, colours: [&str; COLOURS]) -> String {
    let mut css = format!(
        ".ground{{fill:{ground}}}text{{fill:{ink}}}.name{{font-style:italic}}\
         .grid{{stroke:{faint}}}.frame,.roof,.curve{{stroke:{ink};fill:none}}.roof,.curve{{stroke-width:1.6}}"
    );
    for (index, colour) in colours.iter().enumerate() {
        let _ = write!(
            css,
            ".c{index}{{fill:{colour};stroke:{ground}}}.l{index}{{stroke:{colour}}}.t{index}{{fill:{colour}}}"
        );
    }
    css
}

/// Round numbers between two powers of ten.
pub(super) fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let first = low.floor() as i32;
    (first..=high.ceil() as i32)
        .flat_map(|power| [1, 2, 5].map(|digit| (digit, power)))
        // Parsed, for the double that is nearest to the number as it is written.
        .filter_map(|(digit, power)| format!("{digit}e{power}").parse::<f64>().ok())
        .filter(|value| (low..=high).contains(&value.log10()))
        .collect()
}

/// Round numbers at equal distances, from 0 to `high`, four to ten of them; none up to nothing.
pub(super) fn even_ticks(high: f64) -> Vec<f64> {
    if high <= 0.0 {
        return Vec::new();
    }
    let rough = (high / 4.0).log10();
    let within = rough - rough.floor();
    let digit = [(5.0f64, 5), (2.0, 2)]
        .into_iter()
        .find(|(digit, _)| within >= digit.log10());
    let digit = digit.map_or(1, |(_, digit)| digit);
    let power = rough.floor() as i32;
    (0..=10)
        .filter_map(|count| format!("{}e{power}", count * digit).parse::<f64>().ok())
        .take_while(|value| *value <= high)
        .collect()
}

pub(super) fn line(out: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        out,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

pub(super) fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
        escaped(content)
    );
}

pub(super) fn width(text: &str) -> f64 {
    LETTER * text.chars().count() as f64
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks((-0.5, 1.1)), [0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(even_ticks(1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(
            even_ticks(799.0),
            [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]
        );
        assert_eq!(even_ticks(0.0), [0.0; 0]);
    }
}
