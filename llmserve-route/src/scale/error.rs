//! What is wrong with a scaling configuration.

/// A field of a scaling configuration cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: {reason}")]
pub struct ScaleConfigError {
    /// The field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub reason: &'static str,
}

/// That `field` cannot be.
pub(super) fn wrong<T>(
    field: impl Into<String>,
    value: impl ToString,
    reason: &'static str,
) -> Result<T, ScaleConfigError> {
    Err(ScaleConfigError {
        field: field.into(),
        value: value.to_string(),
        reason,
    })
}

/// Checks that a number is above 0 and finite.
pub(super) fn positive(field: &str, value: f64) -> Result<(), ScaleConfigError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    wrong(field, value, "it must be above 0 and finite")
}
