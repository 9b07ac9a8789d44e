//! Which errors another replica might not have.

use llmserve_core::Error;

/// Whether `error` says something about the replica rather than about the request.
///
/// What is wrong with the request is wrong everywhere, so trying it elsewhere would only multiply
/// it. An error this crate does not know counts as the request's, for the same reason.
pub(crate) fn is_about_replica(error: &Error) -> bool {
    match error {
        Error::Overloaded { .. }
        | Error::ShutDown
        | Error::Model(_)
        | Error::Panicked { .. }
        | Error::TimedOut { .. }
        | Error::NoReplica { .. }
        | Error::LoadFailed { .. } => true,
        // No answer, its own failure, its own limits, or a key of ours that it does not know.
        Error::Upstream { status, .. } => {
            status.is_none_or(|code| code >= 500 || matches!(code, 401 | 403 | 408 | 425 | 429))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::{ModelError, TokenizerError};

    fn upstream(status: Option<u16>) -> Error {
        Error::Upstream {
            endpoint: "rack-1".into(),
            status,
            message: "as it said".into(),
            retry_after: None,
        }
    }

    #[test]
    fn only_what_another_replica_may_do_better() {
        for error in [
            Error::Overloaded {
                waiting: 1,
                limit: 1,
                unit: "requests",
                retry_after: None,
            },
            Error::ShutDown,
            Error::Model(ModelError::Backend("gone".into())),
            Error::Panicked {
                part: "model",
                message: "index".into(),
            },
            Error::TimedOut {
                what: "first token",
                limit: std::time::Duration::from_secs(1),
            },
            Error::NoReplica {
                reason: "all are draining".into(),
                retry_after: None,
            },
            Error::LoadFailed {
                model: "bard".into(),
                reason: "its disk is gone".into(),
                retry_after: None,
            },
            upstream(None),
            upstream(Some(429)),
            upstream(Some(503)),
        ] {
            assert!(is_about_replica(&error), "{error}");
        }
        for error in [
            Error::InvalidRequest {
                field: "n",
                reason: "0".into(),
            },
            Error::PromptTooLong {
                tokens: 9,
                limit: 8,
                limited_by: "context".into(),
            },
            Error::Tokenizer(TokenizerError::NoTemplate),
            Error::NonFiniteLogits {
                position: 0,
                token: 0,
                value: "NaN".into(),
            },
            Error::NothingToSample { position: 0 },
            Error::UnknownModel {
                name: "a".into(),
                known: "b".into(),
            },
            Error::Cancelled,
            upstream(Some(400)),
            upstream(Some(422)),
            Error::RateLimited {
                limit: 60,
                unit: "requests a minute",
                retry_after: None,
            },
        ] {
            assert!(!is_about_replica(&error), "{error}");
        }
    }
}
