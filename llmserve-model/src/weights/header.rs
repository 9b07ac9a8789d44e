//! The safetensors header: what lies where in one file, trusted only after checking.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::LoadError;

/// The format's own limit, which keeps a lying length from costing memory.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes before the header: its length.
const LENGTH: usize = 8;

/// One tensor of one file; `bytes` counts from the file's start.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// Reads and checks the header of `file`, the whole content of the file at `path`.
///
/// What is returned lies within `file`, does not overlap, and is as long as shape and format say.
pub(super) fn read(path: &Path, file: &[u8]) -> Result<Vec<Entry>, LoadError> {
    Ok(read_with::<IgnoredAny>(path, file)?.1)
}

/// [`read`], and what the header says of the whole file, if it says anything.
pub(super) fn read_with<'a, M: Deserialize<'a>>(
    path: &Path,
    file: &'a [u8],
) -> Result<(Option<M>, Vec<Entry>), LoadError> {
    let corrupt = |reason: String| LoadError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    let truncated = |part: String, expected: u64| LoadError::Truncated {
        path: path.to_owned(),
        part,
        expected,
        found: file.len() as u64,
    };

    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(truncated("header length".to_owned(), LENGTH as u64));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(corrupt(format!(
            "it announces a header of {length} bytes, the format allows {MAX_HEADER}"
        )));
    }
    // Fits: at most MAX_HEADER.
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        return Err(truncated("header".to_owned(), (LENGTH + length) as u64));
    };
    let Header {
        metadata,
        mut tensors,
    } = serde_json::from_slice(header).map_err(|e| corrupt(format!("its header: {e}")))?;

    let base = LENGTH + length;
    let data = file.len() - base;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut entries = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for (name, tensor) in tensors {
        let (from, to) = tensor.data_offsets;
        if from > to {
            return Err(corrupt(format!(
                "tensor {name:?} ends (byte {to}) before it starts (byte {from})"
            )));
        }
        if from != end {
            let fault = if from < end {
                "overlaps"
            } else {
                "leaves a gap after"
            };
            return Err(corrupt(format!(
                "tensor {name:?} starts at data byte {from} and {fault} its predecessor, which ends at {end}"
            )));
        }
        end = to;
        let elements = elements(&tensor.shape).ok_or_else(|| {
            corrupt(format!(
                "tensor {name:?} has an impossible shape {:?}",
                tensor.shape
            ))
        })?;
        if let Some(bits) = bits_per_element(&tensor.dtype) {
            // In 128 bits neither side overflows; a fraction of a byte is never equal.
            if u128::from(elements) * u128::from(bits) != u128::from(to - from) * 8 {
                return Err(corrupt(format!(
                    "tensor {name:?} of shape {:?} and format {} is given {} bytes",
                    tensor.shape,
                    tensor.dtype,
                    to - from
                )));
            }
        }
        if to > data as u64 {
            return Err(truncated(
                format!("tensor {name:?}"),
                to.saturating_add(base as u64),
            ));
        }
        // Both fit: at most `data`, a usize.
        let (from, to) = (from as usize, to as usize);
        let shape = tensor.shape.iter().map(|&n| n as usize).collect();
        entries.push(Entry {
            name,
            dtype: tensor.dtype,
            shape,
            bytes: base + from..base + to,
        });
    }
    if end != data as u64 {
        return Err(corrupt(format!(
            "{} bytes follow its last tensor",
            data as u64 - end
        )));
    }
    Ok((metadata, entries))
}

/// Elements of a shape, if every dimension and their product fit both u64 and usize.
fn elements(shape: &[u64]) -> Option<u64> {
    let mut product = 1u64;
    for &n in shape {
        usize::try_from(n).ok()?;
        product = product.checked_mul(n)?;
    }
    usize::try_from(product).ok()?;
    Some(product)
}

/// Bits of one element; `None` for a format that is newer than this code, whose size cannot be
/// checked (and which [`super::Weights::view`] refuses).
fn bits_per_element(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "F8_E5M2FNUZ" | "F8_E4M3FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order. A map would let the second of two equal names win.
struct Header<M> {
    metadata: Option<M>,
    tensors: Vec<(String, Tensor)>,
}

impl<'de, M: Deserialize<'de>> Deserialize<'de> for Header<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<M>(PhantomData<M>);
        impl<'de, M: Deserialize<'de>> Visitor<'de> for Entries<M> {
            type Value = Header<M>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<M>, A::Error> {
                let mut header = Header {
                    metadata: None,
                    tensors: Vec::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = Some(map.next_value()?);
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
