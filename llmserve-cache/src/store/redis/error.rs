//! What the builder refuses.

/// What is wrong with a [`RedisStore`](crate::RedisStore)'s settings. That no server can be
/// reached is no error: the store connects when one can be.
///
/// ```
/// use llmserve_cache::{RedisBuildError, RedisStore};
/// let error = RedisStore::builder("http://localhost").build().err();
/// assert!(matches!(error, Some(RedisBuildError::Url { position: 0 })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisBuildError {
    /// Not an address of a Redis server. The address is not repeated, as it may hold a password.
    #[error(
        "url {position} (counted from 0) is not redis:// or rediss://, optional user:password@, host, optional :port and /database: percent-encode what is special in a password"
    )]
    Url {
        /// Which one, counted from 0.
        position: usize,
    },
    /// The addresses do not go together: a cluster's nodes all use TLS or none does, share their
    /// user and password, and have no database but 0.
    #[error(
        "the nodes of a cluster must share TLS, user and password, and use no database but 0: {0}"
    )]
    Nodes(String),
    /// A setting that nothing could work with.
    #[error("{setting} is {given}: it must be at least {least}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What was asked for, with its unit.
        given: String,
        /// What works.
        least: &'static str,
    },
    /// The root certificate is not one in PEM form.
    #[error("root_certificate is no certificate in PEM form: {0}")]
    Certificate(String),
    /// The operating system gave no thread.
    #[error("the store's thread cannot start: {0}")]
    Thread(String),
}
