//! One file, mapped read-only.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::LoadError;

/// A regular file's bytes, mapped read-only.
pub(crate) struct MappedFile {
    path: PathBuf,
    /// When it was last written, as far as the system knows.
    modified: Option<SystemTime>,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`; links are followed, since hub caches are made of them.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => LoadError::Missing {
                what: "the weights file".to_owned(),
                path: path.to_owned(),
            },
            _ => LoadError::Io {
                path: path.to_owned(),
                source,
            },
        };
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let before = std::fs::metadata(path).map_err(io)?;
        let file = match before.is_file() {
            true => File::open(path).map_err(io)?,
            false => {
                return Err(LoadError::NotAFile {
                    path: path.to_owned(),
                });
            }
        };
        let metadata = file.metadata().map_err(io)?;
        let found = metadata.len();
        if found < 8 {
            return Err(LoadError::Truncated {
                path: path.to_owned(),
                part: "header length".to_owned(),
                expected: 8,
                found,
            });
        }
        // SAFETY: the mapping is private and read-only, and `map` keeps it alive as long as any
        // slice of it. What remains is the rule of every mapped file: whoever truncates or rewrites
        // the file in place while it is served breaks the process. Download tools do not (they
        // write aside and rename), and `Weights` documents no way to.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            modified: metadata.modified().ok(),
            map,
        })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder.
    pub(crate) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// When it was last written, when it was opened.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets go of the physical memory behind `range`. Its bytes stay readable: whoever does read
    /// them again takes them from the page cache, or from the disk.
    pub(crate) fn release(&self, range: Range<usize>) {
        /// The common size; where pages are larger, a neighbour's edge goes too, and comes back.
        const PAGE: usize = 4096;
        let from = range.start.next_multiple_of(PAGE);
        let to = range.end.min(self.map.len()) / PAGE * PAGE;
        if from >= to {
            return;
        }
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: nobody can write to the mapping, so each of its pages is the file's, and is
            // filled from the file again when it is next read: slices of it keep their contents.
            #[allow(unsafe_code)]
            let advised = unsafe { self.map.unchecked_advise_range(DontNeed, from, to - from) };
            if let Err(error) = advised {
                // It costs memory and nothing else.
                tracing::debug!(path = %self.path.display(), %error, "pages stay resident");
            }
        }
    }
}
