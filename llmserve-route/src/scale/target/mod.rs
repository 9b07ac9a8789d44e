//! What is scaled: one file for each kind.
//!
//! [`RouterTarget`] starts and stops replicas of a router in this process; `KubernetesScale`
//! (feature `kube`) tells Kubernetes. A host that has its machines elsewhere writes a
//! [`ScaleTarget`] of its own; one that lets HPA or KEDA decide needs none, since
//! [gauges](super::SignalGauges) are what they read.

#[cfg(feature = "kube")]
mod kubernetes;
mod router;

#[cfg(feature = "kube")]
pub use kubernetes::KubernetesScale;
pub use router::RouterTarget;

/// Something of which there can be more or fewer.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use llmserve_route::scale::{ScaleError, ScaleTarget};
///
/// struct Fleet(AtomicUsize);
/// impl ScaleTarget for Fleet {
///     fn current(&self) -> usize {
///         self.0.load(Ordering::Relaxed)
///     }
///     fn scale_to(&self, replicas: usize) -> Result<(), ScaleError> {
///         self.0.store(replicas, Ordering::Relaxed);
///         Ok(())
///     }
/// }
/// assert!(Fleet(AtomicUsize::new(1)).scale_to(3).is_ok());
/// ```
pub trait ScaleTarget: Send + Sync {
    /// How many there are, those that are going away not among them. Called at each tick.
    fn current(&self) -> usize;

    /// Makes it so many. Called from the thread that ticks, and may take as long as starting
    /// takes; whatever has been done when it fails stays done.
    ///
    /// # Errors
    /// [`ScaleError`].
    fn scale_to(&self, replicas: usize) -> Result<(), ScaleError>;
}

/// Why there are not as many as there should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {current} of {wanted} replicas: {message}")]
#[non_exhaustive]
pub struct ScaleError {
    /// How many there should be.
    pub wanted: usize,
    /// How many there are.
    pub current: usize,
    /// What went wrong.
    pub message: String,
}

impl ScaleError {
    /// That there are `current` of `wanted`, and why.
    pub fn new(wanted: usize, current: usize, message: impl Into<String>) -> Self {
        Self {
            wanted,
            current,
            message: message.into(),
        }
    }
}
