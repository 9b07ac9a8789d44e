//! A tensor found once and read many times, without looking its name up or borrowing.

use std::ops::Range;

use super::{FileDType, Weights};

/// Where a tensor lies, for the [`Weights`] that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorHandle {
    file: usize,
    bytes: Range<usize>,
    pub(crate) dtype: FileDType,
}

impl Weights {
    /// Where the tensor `name` lies, if it exists and is stored in a format that is read.
    pub(crate) fn handle(&self, name: &str) -> Option<TensorHandle> {
        let located = self.tensors.get(name)?;
        Some(TensorHandle {
            file: located.file,
            bytes: located.bytes.clone(),
            dtype: FileDType::from_safetensors(&located.dtype)?,
        })
    }

    /// [`release`](Self::release) for a tensor that was found before.
    pub(crate) fn release_handle(&self, handle: &TensorHandle) {
        if let Some(file) = self.files.get(handle.file) {
            file.release(handle.bytes.clone());
        }
    }

    /// The bytes of a tensor; none for a handle of other weights that does not fit these.
    pub(crate) fn bytes(&self, handle: &TensorHandle) -> &[u8] {
        let file = self.files.get(handle.file).map(|file| file.bytes());
        file.and_then(|bytes| bytes.get(handle.bytes.clone()))
            .unwrap_or_default()
    }
}
