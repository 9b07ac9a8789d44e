//! What goes wrong with an API server.

use std::time::Duration;

use kube::core::Status;

/// Why Kubernetes' API server did not do what it was asked for. Never with the server's own words,
/// nor with credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// 401.
    #[error("the API server knows no such credentials: it was asked to {what}")]
    Unauthorized {
        /// What it was asked for.
        what: &'static str,
    },
    /// 403.
    #[error("the API server forbids it to {what}: the account's role has to allow that")]
    Forbidden {
        /// What it was asked for.
        what: &'static str,
    },
    /// 404.
    #[error("the API server knows nothing of that name, or not in that namespace, to {what}")]
    NotFound {
        /// What it was asked for.
        what: &'static str,
    },
    /// 409, again and again.
    #[error("somebody else changed it each time that the API server was asked to {what}")]
    Conflict {
        /// What it was asked for.
        what: &'static str,
    },
    /// It refused with another status.
    #[error("the API server answered {status} ({reason}): it was asked to {what}")]
    Refused {
        /// What it was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// Kubernetes' name for it, such as `Invalid`; empty where it has none.
        reason: String,
    },
    /// No answer, or none that can be read.
    #[error("the API server could not be asked to {what}: {reason}")]
    Unreachable {
        /// What it was asked for.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// No answer in time.
    #[error("the API server took longer than {limit:?} to {what}")]
    TimedOut {
        /// What it was asked for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// There is no tokio runtime where one is needed.
    #[error("to {what} takes a tokio runtime: call it from a task")]
    NoRuntime {
        /// What it is needed for.
        what: &'static str,
    },
}

impl KubernetesError {
    pub(crate) fn of(what: &'static str, error: &kube::Error) -> Self {
        let reason = match error {
            kube::Error::Api(status) => return Self::of_status(what, status),
            kube::Error::Auth(_) => "there are no credentials to ask with",
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => "its answer cannot be read",
            kube::Error::ReadEvents(_) => "its answer broke off",
            kube::Error::BuildRequest(_) => "a name makes no URL",
            _ => "the connection failed",
        };
        Self::Unreachable { what, reason }
    }

    pub(crate) fn of_status(what: &'static str, status: &Status) -> Self {
        match status.code {
            401 => Self::Unauthorized { what },
            403 => Self::Forbidden { what },
            404 => Self::NotFound { what },
            409 => Self::Conflict { what },
            code => {
                // A name is one word; what is not might be anything.
                let word = status.reason.chars().all(|c| c.is_ascii_alphanumeric());
                let short = word && status.reason.len() <= 64;
                Self::Refused {
                    what,
                    status: code,
                    reason: if short {
                        status.reason.clone()
                    } else {
                        String::new()
                    },
                }
            }
        }
    }
}
