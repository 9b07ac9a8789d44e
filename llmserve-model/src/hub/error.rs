//! Why a model could not be fetched.

use std::time::Duration;

use hf_hub::HFError;

use crate::error::LoadError;

/// Why a model could not be fetched. Names the repository, the file and the way out; never holds
/// the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// An option makes no sense.
    #[error("hub: {option}: {reason}")]
    InvalidOption {
        /// The option, by its name in [`crate::HubBuilder`].
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The client could not be set up.
    #[error("hub: the client cannot be set up: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// The name is none that a repository has.
    #[error("hub: {id:?} is no repository name: {reason}")]
    InvalidRepository {
        /// The name.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The hub wants a token, or another one. It also answers so for repositories that do not exist.
    #[error(
        "hub: {repository} is private, gated, or does not exist: give a token that may read it, after its terms were accepted on the hub"
    )]
    Unauthorized {
        /// The repository.
        repository: String,
    },
    /// There is no such repository, revision or file.
    #[error("hub: {repository} at {revision:?} has no {file}: check the name and the revision")]
    NotFound {
        /// The repository.
        repository: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file.
        file: String,
    },
    /// The repository holds no weights in a format that is read.
    #[error(
        "hub: {repository} at {revision:?} has neither model.safetensors nor an index of shards: use a repository that does"
    )]
    NoWeights {
        /// The repository.
        repository: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// Offline, and the cache lacks the file.
    #[error(
        "hub: the cache has no {file} of {repository} at {revision:?}: fetch the model once without offline mode"
    )]
    NotCached {
        /// The repository.
        repository: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file.
        file: String,
    },
    /// Too many requests.
    #[error("hub: too many requests: try {repository} again later")]
    RateLimited {
        /// The repository.
        repository: String,
        /// When, where the hub says so.
        retry_after: Option<Duration>,
    },
    /// No connection, or it broke, or the hub itself is out of order (5xx).
    #[error("hub: cannot fetch {file} of {repository}: {reason}")]
    Unreachable {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What the network said.
        reason: String,
    },
    /// The hub answered, but not with the file.
    #[error("hub: cannot fetch {file} of {repository}: {reason}")]
    Server {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What it said instead.
        reason: String,
    },
    /// What arrived is not as long as the hub had announced. It has been removed from the cache.
    #[error("hub: {file} has {found} bytes, the hub announced {expected}: fetch it again")]
    Incomplete {
        /// The file.
        file: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
    /// The cache cannot be written or read.
    #[error("hub: the cache cannot be used for {file} of {repository}: {reason}")]
    Cache {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What the operating system said.
        reason: String,
    },
    /// The index of shards that was fetched is broken.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl HubError {
    /// The library's error, with what the reader needs and without what nobody may read.
    pub(super) fn of(
        error: HFError,
        repository: &str,
        revision: &str,
        file: &str,
        token: Option<&str>,
    ) -> Self {
        let (repository, file) = (repository.to_owned(), file.to_owned());
        let revision = revision.to_owned();
        let reason = redacted(&chain(&error), token);
        match error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                HubError::Unauthorized { repository }
            }
            HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. } => HubError::NotFound {
                repository,
                revision,
                file,
            },
            HFError::LocalEntryNotFound { .. } => HubError::NotCached {
                repository,
                revision,
                file,
            },
            HFError::RateLimited { retry_after, .. } => HubError::RateLimited {
                repository,
                retry_after,
            },
            HFError::Http { ref context } if !context.status.is_server_error() => {
                HubError::Server {
                    repository,
                    file,
                    reason,
                }
            }
            HFError::Request { .. } | HFError::Http { .. } => HubError::Unreachable {
                repository,
                file,
                reason,
            },
            HFError::Io(_) | HFError::CacheLockTimeout { .. } => HubError::Cache {
                repository,
                file,
                reason,
            },
            _ => HubError::Server {
                repository,
                file,
                reason,
            },
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// `text` without the token, should a server have echoed it.
pub(super) fn redacted(text: &str, token: Option<&str>) -> String {
    match token.filter(|token| !token.is_empty()) {
        Some(token) => text.replace(token, "…"),
        None => text.to_owned(),
    }
}
