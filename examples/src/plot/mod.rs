//! Drawings of figures, as SVG files for light and for dark pages.

mod chart;
mod roofline;
mod svg;

pub use chart::{Chart, Curve, Panel};
pub use roofline::{Marker, Point, Roofline};
