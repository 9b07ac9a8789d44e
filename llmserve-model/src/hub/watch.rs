//! Watching a download: for the host, and for its length.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hf_hub::progress::{DownloadEvent, FileStatus, ProgressEvent, ProgressHandler};

use super::error::HubError;

/// Is told how downloads get on. Called on the client's threads: be quick, and do not call the
/// [`crate::Hub`].
///
/// ```
/// struct Print;
/// impl llmserve_model::FetchProgress for Print {
///     fn advanced(&self, file: &str, done: u64, total: u64) {
///         println!("{file}: {done} of {total} bytes");
///     }
/// }
/// ```
pub trait FetchProgress: Send + Sync {
    /// `done` of `total` bytes of `file` are here. `total` is 0 where the hub does not say. Of files
    /// that the cache has, at most the end is told.
    fn advanced(&self, file: &str, done: u64, total: u64);
}

/// Passes progress on, and remembers the length that the hub announced.
pub(super) struct Watch {
    file: String,
    host: Option<Arc<dyn FetchProgress>>,
    announced: AtomicU64,
    /// Whether the announced content, and not an older one from the cache, is what was returned.
    complete: AtomicBool,
}

/// A file that lies in the cache, its length not yet compared.
pub(super) struct Fetched {
    file: String,
    path: PathBuf,
    announced: Option<u64>,
}

impl Watch {
    pub(super) fn new(file: &str, host: Option<Arc<dyn FetchProgress>>) -> Self {
        Self {
            file: file.to_owned(),
            host,
            announced: AtomicU64::new(0),
            complete: AtomicBool::new(false),
        }
    }

    pub(super) fn finish(&self, path: PathBuf) -> Fetched {
        Fetched {
            file: self.file.clone(),
            path,
            announced: match (
                self.complete.load(Ordering::Relaxed),
                self.announced.load(Ordering::Relaxed),
            ) {
                (false, _) | (_, 0) => None,
                (true, announced) => Some(announced),
            },
        }
    }

    fn tell(&self, done: u64, total: u64) {
        if let Some(host) = &self.host {
            host.advanced(&self.file, done, total);
        }
    }
}

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                self.announced.store(*total_bytes, Ordering::Relaxed);
            }
            DownloadEvent::Progress { files } => {
                for file in files {
                    if file.status == FileStatus::Complete {
                        self.complete.store(true, Ordering::Relaxed);
                    }
                    self.tell(file.bytes_completed, file.total_bytes);
                }
            }
            DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            } => self.tell(*bytes_completed, *total_bytes),
            DownloadEvent::Complete => {}
        }
    }
}

impl Fetched {
    /// The path, if the file is as long as announced. The library stores whatever a server sends
    /// after its headers, an error page included, and would serve it for good.
    pub(super) fn checked(self) -> Result<PathBuf, HubError> {
        let found = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(source) => {
                return Err(HubError::Load(crate::LoadError::Io {
                    path: self.path,
                    source,
                }));
            }
        };
        let Some(expected) = self.announced.filter(|&announced| announced != found) else {
            return Ok(self.path);
        };
        // The content first: without it the link in the snapshot leads nowhere.
        if let Ok(content) = std::fs::canonicalize(&self.path) {
            let _ = std::fs::remove_file(content);
        }
        let _ = std::fs::remove_file(&self.path);
        Err(HubError::Incomplete {
            file: self.file,
            expected,
            found,
        })
    }
}
