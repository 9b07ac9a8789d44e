//! A hash that differs when the weights do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{FileDType, TensorView};
use crate::error::LoadError;
use crate::threads::ThreadTeam;

/// Bytes that are hashed by themselves, so that all threads share a tensor. Part of the
/// fingerprint's definition: another size is another fingerprint.
const PART: usize = 1 << 20;

/// In the order of their names, every used tensor's name, format, shape and the XXH3-128 of its parts
/// of 1 MiB. In which order tensors were added, and by how many threads, does not show.
#[derive(Debug, Default)]
pub(crate) struct Fingerprint {
    tensors: BTreeMap<String, u128>,
}

impl Fingerprint {
    /// Hashes a tensor that the model is made of; a second time changes nothing.
    pub(crate) fn add(
        &mut self,
        team: &mut ThreadTeam,
        view: &TensorView<'_>,
    ) -> Result<(), LoadError> {
        // Halves, since there is no atomic of 128 bits.
        let parts: Vec<[AtomicU64; 2]> = (0..view.bytes.len().div_ceil(PART))
            .map(|_| Default::default())
            .collect();
        team.run(parts.len(), |index, _| {
            let end = view.bytes.len().min((index + 1) * PART);
            let hash = xxh3_128(&view.bytes[index * PART..end]);
            parts[index][0].store(hash as u64, Ordering::Relaxed);
            parts[index][1].store((hash >> 64) as u64, Ordering::Relaxed);
        })
        .map_err(|panic| LoadError::Threads {
            reason: panic.to_string(),
        })?;

        let mut tensor = Xxh3::new();
        text(&mut tensor, &view.name);
        number(
            &mut tensor,
            match view.dtype {
                FileDType::F32 => 0,
                FileDType::F16 => 1,
                FileDType::BF16 => 2,
            },
        );
        number(&mut tensor, view.shape.len() as u64);
        for &size in &view.shape {
            number(&mut tensor, size as u64);
        }
        for half in parts.iter().flatten() {
            number(&mut tensor, half.load(Ordering::Relaxed));
        }
        self.tensors.insert(view.name.clone(), tensor.digest128());
        Ok(())
    }

    /// Adds all of it to a hash that says what else a model is made of.
    pub(crate) fn finish(&self, all: &mut Xxh3) {
        for hash in self.tensors.values() {
            all.update(&hash.to_le_bytes());
        }
    }
}

pub(crate) fn number(all: &mut Xxh3, number: u64) {
    all.update(&number.to_le_bytes());
}

/// With its length in front, so that no two lists of texts look the same.
pub(crate) fn text(all: &mut Xxh3, text: &str) {
    number(all, text.len() as u64);
    all.update(text.as_bytes());
}
