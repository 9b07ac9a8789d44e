//! Weights as they lie on disk: safetensors files, memory-mapped, checked, and lent out as views.
//!
//! ```text
//!  model.safetensors                     one file, or
//!  model.safetensors.index.json          name → shard, and the shards beside it
//!
//!  shard: ┌ u64 LE ┬──────── JSON header ────────┬──────────── data ─────────────┐
//!         │ length │ {"name": {dtype, shape,     │ tensor, tensor, … no gaps,    │
//!         │        │   data_offsets: [from, to]}}│ no overlap, to the last byte  │
//!         └────────┴─────────────────────────────┴───────────────────────────────┘
//! ```
//!
//! [`Weights::open`] reads and checks every header and touches no data: opening tens of gigabytes
//! costs milliseconds. A [`TensorView`] then borrows its bytes straight from the page cache.
//!
//! The header is read here rather than by a library because the errors are the point: which file,
//! which tensor, how many bytes are missing. The format is the one of the `safetensors` project.

pub(crate) mod fingerprint;
mod handle;
mod header;
mod index;
#[cfg(feature = "hub")]
pub(crate) use index::ShardMap;
mod mapped;
pub(crate) mod packed;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::fields::is_absent;
use crate::error::LoadError;

pub(crate) use handle::TensorHandle;
pub(crate) use mapped::MappedFile;
pub use view::{FileDType, TensorView};

/// The name of an unsharded checkpoint.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The name of a sharded checkpoint's table of contents.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint's tensors: memory-mapped safetensors, one file or sharded.
///
/// Views borrow from the mapping, so keep the `Weights` (say, in an `Arc`) as long as they are used.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use llmserve_model::{FileDType, Weights};
/// # let dir = tempfile::tempdir()?;
/// # let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
/// # let mut file = (header.len() as u64).to_le_bytes().to_vec();
/// # file.extend_from_slice(header);
/// # file.extend([1.0f32, -2.5].iter().flat_map(|x| x.to_le_bytes()));
/// # std::fs::write(dir.path().join("model.safetensors"), file)?;
/// let weights = Weights::open(dir.path())?;
/// let x = weights.tensor("x", &[2])?;
/// assert_eq!(x.dtype, FileDType::F32);
/// assert_eq!(x.to_f32(), [1.0, -2.5]);
/// assert!(weights.tensor("x", &[3]).is_err());
/// # Ok(())
/// # }
/// ```
pub struct Weights {
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, Located>,
}

/// Where a tensor lies.
struct Located {
    file: usize,
    dtype: String,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Opens the checkpoint in folder `dir`: `model.safetensors` if there is one, else the shards
    /// that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`LoadError::Missing`] for the folder, the checkpoint or a shard; [`LoadError::Truncated`],
    /// [`LoadError::Corrupt`] and [`LoadError::TooLarge`] for a file that is not what it claims;
    /// [`LoadError::NotAFile`] and [`LoadError::Io`].
    pub fn open(dir: &Path) -> Result<Self, LoadError> {
        if !dir.is_dir() {
            return Err(LoadError::Missing {
                what: "the model's folder".to_owned(),
                path: dir.to_owned(),
            });
        }
        let single = dir.join(SINGLE);
        if !is_absent(&single) {
            return Self::gather(vec![MappedFile::open(&single)?], None);
        }
        let index = dir.join(INDEX);
        if !is_absent(&index) {
            let map = index::read(&index)?;
            let mut files = Vec::new();
            for name in map.shards() {
                files.push(MappedFile::open(&dir.join(name)).map_err(|e| named_by(e, &index))?);
            }
            return Self::gather(files, Some((&index, &map)));
        }
        Err(LoadError::Missing {
            what: format!(
                "the checkpoint ({SINGLE}, or {INDEX} with its shards; other formats must be converted)"
            ),
            path: single,
        })
    }

    fn gather(
        files: Vec<MappedFile>,
        index: Option<(&Path, &index::ShardMap)>,
    ) -> Result<Self, LoadError> {
        let mut all = Self {
            files: Vec::with_capacity(files.len()),
            tensors: BTreeMap::new(),
        };
        for file in files {
            let entries = header::read(file.path(), file.bytes())?;
            all.add(file, entries)?;
        }
        let Self { files, tensors } = &all;
        if let Some((path, map)) = index {
            for (tensor, shard) in map.iter() {
                let reason = match tensors.get(tensor) {
                    Some(located) if files[located.file].name() == shard => continue,
                    Some(located) => format!(
                        "it says that tensor {tensor:?} lies in {shard}, but {} holds it",
                        files[located.file].name()
                    ),
                    None => format!(
                        "it says that tensor {tensor:?} lies in {shard}, which has no such tensor"
                    ),
                };
                return Err(LoadError::Corrupt {
                    path: path.to_owned(),
                    reason,
                });
            }
        }
        Ok(all)
    }

    /// Takes in a file and the tensors that it has.
    fn add(&mut self, file: MappedFile, entries: Vec<header::Entry>) -> Result<(), LoadError> {
        for entry in entries {
            if let Some(earlier) = self.tensors.get(&entry.name) {
                let earlier = self
                    .files
                    .get(earlier.file)
                    .map_or(file.name(), |f| f.name());
                return Err(LoadError::Corrupt {
                    path: file.path().to_owned(),
                    reason: format!("tensor {:?} lies in {earlier} as well", entry.name),
                });
            }
            let located = Located {
                file: self.files.len(),
                dtype: entry.dtype,
                shape: entry.shape,
                bytes: entry.bytes,
            };
            self.tensors.insert(entry.name, located);
        }
        self.files.push(Arc::new(file));
        Ok(())
    }

    /// The tensor `name`, which must have exactly `shape` (row-major, outermost first).
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::WrongShape`], [`LoadError::UnsupportedDType`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, LoadError> {
        let view = self.view(name)?;
        if view.shape != shape {
            return Err(LoadError::WrongShape {
                tensor: view.name,
                expected: shape.to_vec(),
                found: view.shape,
            });
        }
        Ok(view)
    }

    /// The tensor `name`, whatever its shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::UnsupportedDType`].
    pub fn view(&self, name: &str) -> Result<TensorView<'_>, LoadError> {
        let located = self
            .tensors
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor {
                name: name.to_owned(),
            })?;
        let dtype = FileDType::from_safetensors(&located.dtype).ok_or_else(|| {
            LoadError::UnsupportedDType {
                tensor: name.to_owned(),
                dtype: located.dtype.clone(),
            }
        })?;
        Ok(TensorView {
            name: name.to_owned(),
            dtype,
            shape: located.shape.clone(),
            bytes: &self.files[located.file].bytes()[located.bytes.clone()],
        })
    }

    /// Lets go of the physical memory that reading the tensor `name` has filled, where the
    /// operating system can (Unix). Views stay valid; reading them takes the bytes from the page
    /// cache or the file again.
    pub fn release(&self, name: &str) {
        if let Some(located) = self.tensors.get(name) {
            self.files[located.file].release(located.bytes.clone());
        }
    }

    /// Whether there is a tensor `name`, of whatever shape and format.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in lexical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The files that are mapped.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.files.iter().map(|file| file.path().to_owned())
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|located| located.bytes.len() as u64)
            .sum()
    }
}

/// An absent shard, told apart from an absent checkpoint.
fn named_by(error: LoadError, index: &Path) -> LoadError {
    match error {
        LoadError::Missing { path, .. } => LoadError::Missing {
            what: format!("a shard that {} names", index.display()),
            path,
        },
        other => other,
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("files", &self.files.len())
            .field("tensors", &self.tensors.len())
            .field("bytes", &self.total_bytes())
            .finish()
    }
}
