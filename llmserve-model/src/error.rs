//! Why a model could not be loaded.

use std::path::PathBuf;

/// Why a model could not be loaded. Every message names the thing, the limit and the way out.
///
/// ```
/// use llmserve_model::{LoadError, Weights};
/// let error = Weights::open("/no/such/folder".as_ref()).unwrap_err();
/// assert!(matches!(error, LoadError::Missing { .. }));
/// assert!(error.to_string().contains("/no/such/folder"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A folder or file that must be there is not.
    #[error("{what} is missing: there is no {}", path.display())]
    Missing {
        /// What was looked for, and what would do instead.
        what: String,
        /// Where.
        path: PathBuf,
    },
    /// Something other than a regular file lies where a file must be (a folder, a pipe, a device).
    #[error("{} is not a regular file: put the file itself, or a link to it, there", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// The operating system refused to open, read or map a file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system refused to write a file.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of packed weights is damaged, foreign, or of another time or model.
    #[error("{} cannot be used: {reason}: pack the checkpoint again", path.display())]
    Packed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file ends before what its own header promises: an interrupted download or copy.
    #[error(
        "{} is truncated: its {part} needs {expected} bytes, the file has {found}: fetch it again",
        path.display()
    )]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        part: String,
        /// The least number of bytes that the file would need.
        expected: u64,
        /// The file's bytes.
        found: u64,
    },
    /// A file's content contradicts its format or itself.
    #[error("{} is corrupt: {reason}: fetch it again", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is longer than any honest one of its kind.
    #[error("{} has {found} bytes, the limit for such a file is {limit}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The model's architecture is not one that this build computes.
    #[error("architecture {name:?} is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// The architecture, as `config.json` names it.
        name: String,
        /// Those supported, separated by commas.
        supported: String,
    },
    /// The model needs something that this build does not compute.
    #[error("{feature} is not supported: {reason}")]
    Unsupported {
        /// The feature, by the name of its field in the model's files.
        feature: String,
        /// The value found, and what would be accepted.
        reason: String,
    },
    /// The weights lack a tensor.
    #[error(
        "the weights have no tensor {name:?}: is this the checkpoint that config.json describes?"
    )]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {tensor:?} has shape {found:?}, config.json asks for {expected:?}")]
    WrongShape {
        /// The tensor.
        tensor: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a number format that is not read.
    #[error("tensor {tensor:?} is stored as {dtype}; F32, F16 and BF16 are supported: convert it")]
    UnsupportedDType {
        /// The tensor.
        tensor: String,
        /// The format, as the file names it.
        dtype: String,
    },
    /// A weight is infinite or not a number; every answer would be, too.
    #[error("tensor {tensor:?} holds {value} at element {index}: the checkpoint is damaged")]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A field of `config.json` or its kin is absent or makes no sense.
    #[error("config: {field}: {reason}")]
    Config {
        /// The field.
        field: String,
        /// Its value, and what would be accepted.
        reason: String,
    },
    /// The CPU lacks the instructions of the kernels that were asked for.
    #[error("kernels {requested} cannot run on this CPU; available: {available}")]
    Kernel {
        /// The level asked for.
        requested: String,
        /// The levels there are, separated by commas.
        available: String,
    },
    /// An option of the model makes no sense.
    #[error("invalid option {option}: {reason}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// Its value, and what would be accepted.
        reason: String,
    },
    /// Whoever wanted the model does not want it any more.
    #[error("loading was cancelled")]
    Cancelled,
    /// The worker threads could not be started.
    #[error("cannot start the model's threads: {reason}: ask for fewer")]
    Threads {
        /// What the operating system said.
        reason: String,
    },
    /// `tokenizer.json` or `tokenizer_config.json` cannot be used.
    #[error("tokenizer: {}: {reason}", path.display())]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template does not compile.
    #[error("chat template: {}: {reason}", path.display())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// What is wrong with it, and in which line.
        reason: String,
    },
}

impl LoadError {
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        LoadError::Config {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(feature: impl Into<String>, reason: impl Into<String>) -> Self {
        LoadError::Unsupported {
            feature: feature.into(),
            reason: reason.into(),
        }
    }
}
