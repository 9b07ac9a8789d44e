//! Packed weights in a file: written once, and mapped instead of packed again.
//!
//! ```text
//!  ┌ u64 ┬─ JSON header, padded to 4096 ─┬── the slab, as it is in memory ──┬─ embedding ─┐
//!  │     │ __metadata__: what it is      │ head.words, head.factors,        │ as in the   │
//!  │     │ names, shapes, offsets        │ layers.0.qkv.words, …            │ checkpoint  │
//!  └─────┴───────────────────────────────┴──────────────────────────────────┴─────────────┘
//! ```
//!
//! A safetensors file, so that other tools can look into it. Its layout is no choice of the file:
//! configuration and type determine every name, shape and offset, and a file in which one of them
//! is another is refused. The metadata are sealed with a hash, and name that of the data, which
//! only [`CpuModel::verify_packed`] reads.

mod save;

use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::build::Origin;
use super::slab::{EMBEDDING, Matrix, Slab};
use super::{CpuModel, CpuOptions, DType};
use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::kernels::format::Format;
use crate::kernels::packed::{PANEL, Section};
use crate::kernels::stored::Stored;
use crate::machine::Machine;
use crate::weights::Weights;
use crate::weights::packed::Metadata;

/// What the file is.
const FORMAT: &str = "llmserve packed weights";
/// Changed whenever a file of before must not be read any more.
const VERSION: &str = "1";
/// How numbers lie in panels.
const LAYOUT: &str = "le/panel32/int8:column/int4:32x16";
/// Data begin at a multiple of this: of a page, so of whatever a part is aligned to.
const DATA_ALIGN: usize = 4096;
/// Bytes hashed or written at a time.
const CHUNK: usize = 8 << 20;

/// The metadata's keys.
mod key {
    pub(super) const FORMAT: &str = "format";
    pub(super) const VERSION: &str = "version";
    pub(super) const LAYOUT: &str = "layout";
    pub(super) const DTYPE: &str = "dtype";
    pub(super) const CONFIG: &str = "config";
    pub(super) const FINGERPRINT: &str = "fingerprint";
    /// Of the checkpoint's files.
    pub(super) const STAMP: &str = "checkpoint";
    /// The hash of all data.
    pub(super) const DATA: &str = "data";
    /// The hash of all other entries.
    pub(super) const SEAL: &str = "seal";
}

impl CpuModel {
    /// Opens what [`save_packed`](Self::save_packed) wrote: nothing is packed, copied or read in
    /// advance, and results are those of the model that was saved, bit for bit. The weights stay in
    /// the mapped file, so several processes share one copy; whoever truncates or rewrites it in
    /// place while it is served breaks the process ([`save_packed`](Self::save_packed) does not).
    ///
    /// Everything about the file is checked except the numbers themselves:
    /// [`verify_packed`](Self::verify_packed) reads those.
    ///
    /// # Errors
    /// [`LoadError::Packed`] for a file that is damaged, foreign, or of another version;
    /// [`LoadError::InvalidOption`] for a type other than the file's;
    /// [`LoadError::Missing`], [`LoadError::NotAFile`] and [`LoadError::Io`];
    /// [`LoadError::Kernel`] and [`LoadError::Threads`] as [`build`](Self::build).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use llmserve_core::Model;
    /// use llmserve_model::{CpuModel, CpuOptions, DType, ModelFolder};
    /// # let folder = std::path::Path::new("tests/goldens/llama");
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("llama-int8.packed");
    /// let options = CpuOptions { dtype: DType::Int8, ..CpuOptions::default() };
    /// let built = ModelFolder::load(folder, options.clone())?.model;
    /// built.save_packed(&path)?;
    /// let mapped = CpuModel::open_packed(&path, &options)?;
    /// assert_eq!(mapped.info().fingerprint, built.info().fingerprint);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_packed(path: &Path, options: &CpuOptions) -> Result<Self, LoadError> {
        PackedFile::open(path)?.into_cpu(options)
    }

    /// Reads the whole packed file at `path` and compares its numbers with the hash taken when it
    /// was written.
    ///
    /// # Errors
    /// [`LoadError::Packed`] if they differ; otherwise as [`open_packed`](Self::open_packed).
    pub fn verify_packed(path: &Path) -> Result<(), LoadError> {
        PackedFile::open(path)?.verify()
    }
}

/// A packed file, mapped and checked.
pub(crate) struct PackedFile {
    pub(crate) config: DecoderConfig,
    pub(crate) dtype: DType,
    origin: Origin,
    weights: Arc<Weights>,
    slab: Slab,
    words: Stored<u32>,
    /// The hash of the data, when they were written.
    data: u128,
    /// Where they begin.
    begin: usize,
}

impl PackedFile {
    /// As [`CpuModel::open_packed`].
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let unusable = |reason: String| LoadError::Packed {
            path: path.to_owned(),
            reason,
        };
        if cfg!(target_endian = "big") {
            return Err(unusable("its numbers are little-endian".to_owned()));
        }
        Self::read(path).map_err(|error| match error {
            Unusable::Because(reason) => unusable(reason),
            Unusable::Load(
                error @ (LoadError::Missing { .. }
                | LoadError::NotAFile { .. }
                | LoadError::Io { .. }),
            ) => error,
            Unusable::Load(LoadError::Corrupt { reason, .. }) => unusable(reason),
            Unusable::Load(LoadError::Truncated {
                part,
                expected,
                found,
                ..
            }) => unusable(format!(
                "its {part} needs {expected} bytes, the file has {found}"
            )),
            Unusable::Load(error) => unusable(error.to_string()),
        })
    }

    fn read(path: &Path) -> Result<Self, Unusable> {
        let (weights, metadata) = Weights::open_file(path).map_err(|error| match error {
            LoadError::Missing { path, .. } => LoadError::Missing {
                what: "the packed file".to_owned(),
                path,
            },
            other => other,
        })?;
        let entry = |key: &str| metadata.get(key).map(String::as_str);
        let says = |key: &str, expected: &str| match entry(key) {
            Some(found) if found == expected => Ok(()),
            found => Err(format!("its {key} is {found:?}, expected {expected:?}")),
        };
        says(key::FORMAT, FORMAT)?;
        says(key::VERSION, VERSION)?;
        says(key::LAYOUT, LAYOUT)?;
        says(key::SEAL, &hex(seal(&metadata)))?;
        let text = |key: &str| entry(key).ok_or_else(|| format!("it has no {key}"));
        let hash = |key: &str| {
            let digits = text(key)?;
            u128::from_str_radix(digits, 16).map_err(|e| format!("its {key} is {digits:?}: {e}"))
        };
        let dtype: DType = text(key::DTYPE)?.parse()?;
        let config = DecoderConfig::from_record(text(key::CONFIG)?)?;
        let slab = Slab::new(&config, dtype)?;

        let first = parts(&slab).next().map(|part| part.name);
        let first = first.as_deref().and_then(|name| weights.place(name));
        let begin = first.map_or(0, |(_, _, bytes)| bytes.start);
        let mut count = 1;
        for part in parts(&slab) {
            let Some((format, shape, bytes)) = weights.place(&part.name) else {
                return Err(format!("it has no {:?}", part.name).into());
            };
            let from = begin + part.begin * size_of::<u32>();
            let expected = from..from + part.len * size_of::<u32>();
            if (format, shape) != (part.format, &part.shape[..]) || bytes != expected {
                return Err(format!(
                    "{:?} is {format} {shape:?} at bytes {bytes:?}, expected {} {:?} at {expected:?}",
                    part.name, part.format, part.shape
                )
                .into());
            }
            count += 1;
        }
        weights.tensor(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
        let end = begin + slab.len * size_of::<u32>();
        if let Some((.., bytes)) = weights.place(EMBEDDING)
            && bytes.start != end
        {
            return Err(format!("{EMBEDDING:?} is at bytes {bytes:?}, expected from {end}").into());
        }
        if weights.names().count() != count {
            return Err("it has more tensors than the model".to_owned().into());
        }
        let words = weights
            .file()
            .and_then(|file| Stored::mapped(file, begin..end))
            .ok_or("its data are not aligned")?;
        Ok(Self {
            dtype,
            origin: Origin {
                fingerprint: hash(key::FINGERPRINT)?,
                stamp: hash(key::STAMP)?,
            },
            data: hash(key::DATA)?,
            config,
            weights: Arc::new(weights),
            slab,
            words,
            begin,
        })
    }

    /// The stamp of the files that were packed ([`Weights::stamp`]).
    pub(crate) fn stamp(&self) -> u128 {
        self.origin.stamp
    }

    /// As [`CpuModel::open_packed`].
    pub(crate) fn into_cpu(self, options: &CpuOptions) -> Result<CpuModel, LoadError> {
        if options.dtype != self.dtype {
            return Err(LoadError::InvalidOption {
                option: "dtype",
                reason: format!(
                    "{}, and the file was packed as {}",
                    options.dtype, self.dtype
                ),
            });
        }
        CpuModel::assemble(
            &self.config,
            options,
            Machine::new(options.kernels, options.threads)?,
            &self.slab,
            self.words,
            self.weights,
            self.origin,
        )
    }

    fn verify(&self) -> Result<(), LoadError> {
        let Some(file) = self.weights.file() else {
            return Ok(());
        };
        let mut hash = Xxh3::new();
        let data = file.bytes().get(self.begin..).unwrap_or_default();
        for (index, chunk) in data.chunks(CHUNK).enumerate() {
            hash.update(chunk);
            let from = self.begin + index * CHUNK;
            file.release(from..from + chunk.len());
        }
        match hash.digest128() {
            found if found == self.data => Ok(()),
            found => Err(LoadError::Packed {
                path: file.path().to_owned(),
                reason: format!(
                    "the hash of its numbers is {}, and was {} when it was written",
                    hex(found),
                    hex(self.data)
                ),
            }),
        }
    }
}

/// Why a file cannot be used.
enum Unusable {
    Because(String),
    Load(LoadError),
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Unusable::Because(reason)
    }
}

impl From<&str> for Unusable {
    fn from(reason: &str) -> Self {
        Unusable::Because(reason.to_owned())
    }
}

impl From<LoadError> for Unusable {
    fn from(error: LoadError) -> Self {
        Unusable::Load(error)
    }
}

/// One tensor of the slab.
struct Part {
    name: String,
    /// As safetensors names it.
    format: &'static str,
    shape: Vec<usize>,
    /// In words, from the slab's first.
    begin: usize,
    /// With what lies between it and the next.
    len: usize,
}

/// The tensors that the slab consists of, in their order and without a gap.
fn parts(slab: &Slab) -> impl Iterator<Item = Part> {
    slab.matrices.iter().flat_map(matrix_parts)
}

fn matrix_parts(matrix: &Matrix) -> impl Iterator<Item = Part> {
    // Counted when the slab was.
    let sections = matrix.shape.sections();
    let part = |suffix: &str, section: &Section, rows: usize, numbers: bool| Part {
        name: format!("{}.{suffix}", matrix.name),
        format: if numbers { "F32" } else { "U32" },
        shape: match rows {
            0 => vec![section.padded],
            rows => vec![rows, section.padded / rows],
        },
        begin: matrix.base + section.begin,
        len: section.padded,
    };
    let mut all = Vec::new();
    if let Some(sections) = sections {
        let panels = matrix.shape.panels;
        let whole = sections.words.padded.is_multiple_of(panels);
        let numbers = matrix.shape.format == Format::F32;
        all.push(part(
            "words",
            &sections.words,
            if whole { panels } else { 0 },
            numbers,
        ));
        for (suffix, section, rows) in [
            ("scales", &sections.scales, panels),
            ("bias", &sections.bias, panels),
            ("factors", &sections.factors, 0),
        ] {
            all.extend(
                section
                    .iter()
                    .map(|section| part(suffix, section, rows, true)),
            );
        }
    }
    all.into_iter()
}

/// The hash of all metadata but the seal itself.
fn seal(metadata: &Metadata) -> u128 {
    let mut hash = Xxh3::new();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != key::SEAL) {
        for text in [key, value] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    hash.digest128()
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

const _: () = assert!(PANEL == 32, "the layout's name says so");
