//! What went wrong, without the key and without the prompt.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use llmserve_core::Error;

/// An error of the endpoint `name`.
pub(super) fn upstream(
    name: &str,
    status: Option<u16>,
    message: impl Into<String>,
    retry_after: Option<Duration>,
) -> Error {
    Error::Upstream {
        endpoint: name.to_owned(),
        status,
        message: message.into(),
        retry_after,
    }
}

/// What the transport says. Its own text has the address in it, which may be secret, and says too
/// little besides: the kind of failure is told.
pub(super) fn transport(name: &str, error: &reqwest::Error, connect: Duration) -> Error {
    if error.is_connect() && error.is_timeout() {
        return Error::TimedOut {
            what: "connection",
            limit: connect,
        };
    }
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            kind = Some(error.kind());
        }
        cause = error.source();
    }
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "timed out"
    } else {
        "the connection broke"
    };
    let message = match kind {
        Some(kind) => format!("{what}: {kind}"),
        None => what.to_owned(),
    };
    upstream(name, None, message, None)
}
