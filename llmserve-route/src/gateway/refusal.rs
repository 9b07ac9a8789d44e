//! What a client is told when there is no answer: OpenAI's error shape and statuses.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use llmserve_core::Error;
use serde_json::{Value, json};

/// When to try again where the service did not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest piece of a client's own text that an error repeats, in bytes.
const QUOTED: usize = 200;

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// OpenAI's `type`.
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code,
            retry_after: None,
        }
    }

    /// The body is no request at all.
    pub(super) fn body(reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            None,
            reason,
        )
    }

    /// A field that is wrong, unknown, or cannot be honoured here.
    pub(super) fn field(name: &str, reason: impl std::fmt::Display) -> Self {
        let name = shortened(name);
        Self {
            param: Some(name.to_owned()),
            ..Self::body(format!("{name}: {}", shortened(&reason.to_string())))
        }
    }

    pub(super) fn unknown_model(name: &str, known: &str) -> Self {
        Self {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                Some("model_not_found"),
                format!(
                    "the model {:?} does not exist; there are: {known}",
                    shortened(name)
                ),
            )
        }
    }

    /// The body of an error, for an answer or an event of a stream.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

/// No more of `text` than an error repeats.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTED)]
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let retry_after = error.retry_after();
        let invalid = |code, message| {
            let kind = "invalid_request_error";
            Self::new(StatusCode::BAD_REQUEST, kind, code, message)
        };
        // What went wrong inside is for the host's logs: a client is told that it did.
        let internal = |kind: &str| {
            let message = format!("the request failed: {kind}");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Self::new(status, "server_error", None, message)
        };
        let busy = |message| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Self {
                retry_after: Some(retry_after.unwrap_or(RETRY_AFTER)),
                ..Self::new(status, "server_error", Some("overloaded"), message)
            }
        };
        let limited = |message| Self {
            retry_after,
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                message,
            )
        };
        match &error {
            Error::InvalidRequest { field, reason } => Self::field(field, reason),
            Error::PromptTooLong { .. } => {
                invalid(Some("context_length_exceeded"), error.to_string())
            }
            Error::Tokenizer(_) | Error::Grammar(_) | Error::NothingToSample { .. } => {
                invalid(None, shortened(&error.to_string()).to_owned())
            }
            Error::UnknownModel { name, known } => Self::unknown_model(name, known),
            Error::Overloaded { .. } => busy(error.to_string()),
            // Whom we asked, and how many there are, is no client's business.
            Error::NoReplica { .. } => busy("nobody can answer now: try again later".to_owned()),
            // Nor what our disks and memory are like.
            Error::LoadFailed { model, .. } => {
                busy(format!("the model {model:?} cannot be loaded now"))
            }
            Error::ShutDown => busy("the service is shutting down".to_owned()),
            Error::RateLimited { .. } => limited(error.to_string()),
            Error::TimedOut { .. } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "server_error",
                Some("timeout"),
                error.to_string(),
            ),
            Error::Upstream {
                status, message, ..
            } => match status {
                Some(429) => limited("an upstream endpoint's limit was reached".to_owned()),
                Some(503) => busy("an upstream endpoint is overloaded".to_owned()),
                // It is the request that is wrong, and no key of ours: the client's to mend.
                Some(code @ (400 | 404 | 413 | 422)) => Self::new(
                    StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_REQUEST),
                    "invalid_request_error",
                    None,
                    shortened(message),
                ),
                _ => Self::new(
                    StatusCode::BAD_GATEWAY,
                    "server_error",
                    Some("upstream"),
                    "an upstream endpoint failed",
                ),
            },
            // Nobody is left to read it, where the client cancelled.
            Error::Cancelled => internal("cancelled"),
            _ => internal(error.kind()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(after) = self.retry_after {
            // Whole seconds, and never earlier than was said.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            let value = HeaderValue::from(seconds.max(1));
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::{ModelError, TokenizerError};

    fn status(error: Error) -> (u16, Option<String>) {
        let response = Refusal::from(error).into_response();
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.map(|value| value.to_str().expect("text").to_owned());
        (response.status().as_u16(), after)
    }

    #[test]
    fn every_error_has_its_status() {
        let upstream = |status| Error::Upstream {
            endpoint: "rack-1".into(),
            status,
            message: "as it said".into(),
            retry_after: Some(Duration::from_millis(2300)),
        };
        let cases = [
            (Error::invalid_request("n", "0"), 400, None),
            (Error::Tokenizer(TokenizerError::NoTemplate), 400, None),
            (
                Error::UnknownModel {
                    name: "x".into(),
                    known: "y".into(),
                },
                404,
                None,
            ),
            (
                Error::RateLimited {
                    limit: 3,
                    unit: "requests a minute",
                    retry_after: Some(Duration::from_secs(20)),
                },
                429,
                Some("20"),
            ),
            (
                Error::Overloaded {
                    waiting: 1,
                    limit: 1,
                    unit: "requests",
                    retry_after: None,
                },
                503,
                Some("1"),
            ),
            (Error::ShutDown, 503, Some("1")),
            (
                Error::NoReplica {
                    reason: "all down".into(),
                    retry_after: Some(Duration::from_millis(10)),
                },
                503,
                Some("1"),
            ),
            (
                Error::LoadFailed {
                    model: "x".into(),
                    reason: "/its/disk is gone".into(),
                    retry_after: Some(Duration::from_secs(4)),
                },
                503,
                Some("4"),
            ),
            (
                Error::TimedOut {
                    what: "first token",
                    limit: Duration::from_secs(1),
                },
                504,
                None,
            ),
            (upstream(None), 502, None),
            (upstream(Some(500)), 502, None),
            (upstream(Some(401)), 502, None),
            (upstream(Some(400)), 400, None),
            (upstream(Some(429)), 429, Some("3")),
            (upstream(Some(503)), 503, Some("3")),
            (Error::Model(ModelError::Backend("x".into())), 500, None),
        ];
        for (error, code, after) in cases {
            let name = error.to_string();
            assert_eq!(status(error), (code, after.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn what_went_wrong_inside_stays_inside() {
        let error = Error::Panicked {
            part: "model",
            message: "secret".into(),
        };
        let text = Refusal::from(error).to_json().to_string();
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "é".repeat(500);
        let text = Refusal::field(&name, "no").to_json().to_string();
        assert!(text.len() < 600, "{}", text.len());
    }
}
