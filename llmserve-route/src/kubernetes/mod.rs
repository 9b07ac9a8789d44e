//! What endpoint slices and scale subresources have in common.

mod error;

pub use error::KubernetesError;
