//! One question to a replica: are you well?

use std::pin::Pin;
use std::time::Duration;

use llmserve_core::Error;

/// An answer that is on its way.
pub type Probing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Asks a replica whether it is well, without giving it a request.
///
/// A closure that gives a future is one. No async runtime polls it, but the router's own thread
/// does: whatever it waits for has to wake it, as a channel does, and as
/// [`RemoteEndpoint::health_at`](crate::remote::RemoteEndpoint::health_at) (feature `http`) does.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use llmserve_core::Error;
/// use llmserve_route::health::Probe;
/// let up = Arc::new(AtomicBool::new(true));
/// let seen = up.clone();
/// let probe = move |_limit| {
///     let up = seen.load(Ordering::Relaxed);
///     async move { if up { Ok(()) } else { Err(Error::ShutDown) } }
/// };
/// fn is_probe(_: &impl Probe) {}
/// is_probe(&probe);
/// ```
pub trait Probe: Send + Sync {
    /// Begins to ask. Must not block. Who asks drops the answer after `limit`, and takes its
    /// absence for an error, as it does a panic.
    fn probe(&self, limit: Duration) -> Probing;
}

impl<F, Answer> Probe for F
where
    F: Fn(Duration) -> Answer + Send + Sync,
    Answer: Future<Output = Result<(), Error>> + Send + 'static,
{
    fn probe(&self, limit: Duration) -> Probing {
        Box::pin(self(limit))
    }
}
