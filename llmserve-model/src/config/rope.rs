//! Rotary position embedding: how fast each pair of dimensions turns.

use crate::config::fields::{Fields, shown};
use crate::error::LoadError;

/// What `transformers` assumes for the architectures here when a file names no base.
const DEFAULT_THETA: f64 = 10_000.0;

/// Rotary position embedding (Su et al., 2021: *RoFormer*), halves rotated as `transformers` does.
///
/// Pair `i` of a head of width `d` turns by `theta^(-2i/d)` radians per position, changed by
/// [`RopeConfig::scaling`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies' geometric series.
    pub theta: f64,
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// How a model's frequencies were stretched when its context was extended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all (`default`).
    None,
    /// Every frequency divided by `factor` (position interpolation, Chen et al., 2023).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context before it was extended, in tokens.
        original_max_position: usize,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters`, or its elder `rope_theta` with `rope_scaling`.
    pub(super) fn from_fields(fields: &Fields) -> Result<Self, LoadError> {
        let nested = match (
            fields.opt_object("rope_parameters")?,
            fields.opt_object("rope_scaling")?,
        ) {
            (Some(_), Some(_)) if fields.get("rope_parameters") != fields.get("rope_scaling") => {
                return Err(LoadError::config(
                    "rope_scaling",
                    "it differs from rope_parameters, its newer spelling: keep one of them",
                ));
            }
            (Some(object), _) | (None, Some(object)) => object,
            (None, None) => Fields::default(),
        };
        let theta = match (
            nested.opt_number("rope_theta")?,
            fields.opt_number("rope_theta")?,
        ) {
            (Some(inner), Some(outer)) if inner != outer => {
                return Err(LoadError::config(
                    "rope_theta",
                    format!("{outer}, but rope_parameters says {inner}: keep one of them"),
                ));
            }
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => DEFAULT_THETA,
        };
        let rope = Self {
            theta,
            scaling: scaling(&nested)?,
        };
        rope.validate()?;
        Ok(rope)
    }

    /// Checks ranges.
    pub(super) fn validate(&self) -> Result<(), LoadError> {
        let check = |field: &str, value: f64, fits: bool, expected: &str| match fits {
            true if value.is_finite() => Ok(()),
            _ => Err(LoadError::config(
                field,
                format!("{value}, expected {expected}"),
            )),
        };
        check("rope_theta", self.theta, self.theta >= 1.0, "at least 1")?;
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => {
                check("rope factor", factor, factor >= 1.0, "at least 1")
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position,
            } => {
                check("rope factor", factor, factor >= 1.0, "at least 1")?;
                check("low_freq_factor", low, low > 0.0, "more than 0")?;
                check(
                    "high_freq_factor",
                    high,
                    high > low,
                    "more than low_freq_factor",
                )?;
                match original_max_position {
                    0 => Err(LoadError::config(
                        "original_max_position_embeddings",
                        "0, expected at least 1",
                    )),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn scaling(nested: &Fields) -> Result<RopeScaling, LoadError> {
    if let Some(layers) = nested
        .names()
        .find(|name| matches!(nested.get(name), Some(serde_json::Value::Object(_))))
    {
        return Err(LoadError::unsupported(
            nested.path(layers),
            "rotary parameters that differ by layer; supported: one set for all layers",
        ));
    }
    let kind = match (nested.opt_str("rope_type")?, nested.opt_str("type")?) {
        (Some(new), Some(old)) if new != old => {
            return Err(LoadError::unsupported(
                nested.path("type"),
                format!("{old:?} beside rope_type {new:?}: keep one of them"),
            ));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) => "default",
    };
    // What each type reads. Any other field would change the frequencies in a way that this type
    // does not have, so it is refused.
    let (scaling, read): (_, &[&str]) = match kind {
        "default" => (RopeScaling::None, &[]),
        "linear" => (
            RopeScaling::Linear {
                factor: nested.number("factor")?,
            },
            &["factor"],
        ),
        "llama3" => (
            RopeScaling::Llama3 {
                factor: nested.number("factor")?,
                low_freq_factor: nested.number("low_freq_factor")?,
                high_freq_factor: nested.number("high_freq_factor")?,
                original_max_position: nested.size(ORIGINAL, super::limit::POSITIONS)?,
            },
            &["factor", "low_freq_factor", "high_freq_factor"],
        ),
        other => {
            return Err(LoadError::unsupported(
                nested.path("rope_type"),
                format!("{other:?}; supported: default, linear, llama3"),
            ));
        }
    };
    for name in nested.names() {
        let neutral = match name {
            // The second is written for information by some tools.
            "rope_type" | "type" | "rope_theta" | ORIGINAL => true,
            "factor" | "attention_factor" | "partial_rotary_factor" if !read.contains(&name) => {
                nested.opt_number(name)? == Some(1.0)
            }
            _ => read.contains(&name),
        };
        if !neutral {
            return Err(LoadError::unsupported(
                nested.path(name),
                format!(
                    "{} with rope type {kind:?}, which has no such parameter here",
                    nested.get(name).map(shown).unwrap_or_default()
                ),
            ));
        }
    }
    Ok(scaling)
}

const ORIGINAL: &str = "original_max_position_embeddings";
