//! A packed model's file, as far as it is a file of tensors, and what tells one checkpoint from
//! another without reading it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::Xxh3;

use super::{MappedFile, Weights, header};
use crate::error::LoadError;

/// What a file says of itself.
pub(crate) type Metadata = BTreeMap<String, String>;

impl Weights {
    /// Opens one safetensors file, whatever its name, with its metadata.
    pub(crate) fn open_file(path: &Path) -> Result<(Self, Metadata), LoadError> {
        let file = MappedFile::open(path)?;
        let (metadata, entries) = header::read_with::<Metadata>(path, file.bytes())?;
        let mut all = Self {
            files: Vec::with_capacity(1),
            tensors: BTreeMap::new(),
        };
        all.add(file, entries)?;
        Ok((all, metadata.unwrap_or_default()))
    }

    /// The first file.
    pub(crate) fn file(&self) -> Option<&Arc<MappedFile>> {
        self.files.first()
    }

    /// Format, shape and place in its file of the tensor `name`, be it of numbers or of words.
    pub(crate) fn place(&self, name: &str) -> Option<(&str, &[usize], Range<usize>)> {
        let located = self.tensors.get(name)?;
        Some((&located.dtype, &located.shape, located.bytes.clone()))
    }

    /// A number that is another when a file was written since, or has another name or length, or
    /// other bytes in its first 64 KiB or in one of 64 samples: times of change may be copied along
    /// or made alike.
    pub(crate) fn stamp(&self) -> u128 {
        let mut stamp = Xxh3::new();
        let mut text = |bytes: &[u8]| {
            stamp.update(&(bytes.len() as u64).to_le_bytes());
            stamp.update(bytes);
        };
        for file in &self.files {
            let since = file.modified().map(|at| at.duration_since(UNIX_EPOCH));
            // Before 1970 counts backwards.
            let nanos = since.map(|since| match since {
                Ok(after) => after.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            });
            text(file.name().as_bytes());
            text(&(file.bytes().len() as u64).to_le_bytes());
            text(&nanos.unwrap_or(0).to_le_bytes());
            let bytes = file.bytes();
            text(&bytes[..bytes.len().min(1 << 16)]);
            for sample in 0..64 {
                let at = bytes.len() / 64 * sample;
                text(&bytes[at..bytes.len().min(at + 1024)]);
            }
            // Each sample brought its neighbourhood into memory.
            file.release(0..bytes.len());
        }
        stamp.digest128()
    }
}
