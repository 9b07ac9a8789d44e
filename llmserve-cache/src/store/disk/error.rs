//! What the builder refuses.

use std::path::PathBuf;

/// Why a [`DiskStore`](crate::DiskStore) cannot be opened. What is in its folder is no reason:
/// what is damaged there is forgotten.
///
/// ```
/// use llmserve_cache::{DiskBuildError, DiskStore};
/// let error = DiskStore::builder("answers").capacity(1).build().err();
/// assert!(matches!(error, Some(DiskBuildError::Capacity { given: 1, .. })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskBuildError {
    /// Too little to work with.
    #[error("capacity {given} is too little: it must be at least {least} bytes")]
    Capacity {
        /// What was asked for, in bytes.
        given: usize,
        /// What works, in bytes.
        least: usize,
    },
    /// Lookups would have no time.
    #[error("time_limit is less than a millisecond, so nothing would ever be found")]
    TimeLimit,
    /// No write could wait for the disk, or more than there can be.
    #[error("queue {given} is not possible: from 1 to {most} writes may wait for the disk")]
    Queue {
        /// What was asked for.
        given: usize,
        /// What works at most.
        most: usize,
    },
    /// Another store, here or in another process, has the folder open.
    #[error("{folder} is in use by another store: every process needs a folder of its own")]
    InUse {
        /// Which one.
        folder: PathBuf,
    },
    /// The folder cannot be made, read or written.
    #[error("{folder}: {reason}")]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The operating system gave no thread.
    #[error("the store's thread cannot start: {0}")]
    Thread(String),
}
