//! 128 bits that differ when the weights, or what is computed with them, do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::DType;
use crate::config::{Activation, DecoderConfig, RopeScaling};
use crate::error::LoadError;
use crate::threads::ThreadTeam;
use crate::weights::{FileDType, TensorView};

/// Bytes that are hashed by themselves, so that all threads share a tensor. Part of the
/// fingerprint's definition: another size is another fingerprint.
const PART: usize = 1 << 20;

/// XXH3-128 over the configuration and, in the order of their names, over every used tensor's name,
/// format, shape and the hashes of its parts of 1 MiB. In which order tensors were added, and by
/// how many threads, does not show.
#[derive(Debug, Default)]
pub(super) struct Fingerprint {
    tensors: BTreeMap<String, u128>,
}

impl Fingerprint {
    /// Hashes a tensor that the model is made of; a second time changes nothing.
    pub(super) fn add(
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

    pub(super) fn finish(&self, config: &DecoderConfig, dtype: DType) -> u128 {
        let mut all = Xxh3::new();
        // Rounded weights make other keys and values.
        text(&mut all, &dtype.to_string());
        hash_config(&mut all, config);
        for hash in self.tensors.values() {
            all.update(&hash.to_le_bytes());
        }
        all.digest128()
    }
}

/// Everything that changes a key or a value; not, say, which tokens end an answer.
fn hash_config(all: &mut Xxh3, config: &DecoderConfig) {
    text(all, &config.architecture);
    for size in [
        config.hidden_size,
        config.intermediate_size,
        config.num_layers,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.vocab_size,
    ] {
        number(all, size as u64);
    }
    for flag in [
        config.tie_embeddings,
        config.attention_bias,
        config.output_bias,
        config.mlp_bias,
    ] {
        number(all, u64::from(flag));
    }
    number(
        all,
        match config.activation {
            Activation::Silu => 0,
            Activation::Gelu => 1,
            Activation::GeluTanh => 2,
        },
    );
    number(all, u64::from(config.norm_eps.to_bits()));
    number(all, config.rope.theta.to_bits());
    match config.rope.scaling {
        RopeScaling::None => number(all, 0),
        RopeScaling::Linear { factor } => {
            number(all, 1);
            number(all, factor.to_bits());
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position,
        } => {
            number(all, 2);
            for factor in [factor, low_freq_factor, high_freq_factor] {
                number(all, factor.to_bits());
            }
            number(all, original_max_position as u64);
        }
    }
}

fn number(all: &mut Xxh3, number: u64) {
    all.update(&number.to_le_bytes());
}

/// With its length in front, so that no two lists of texts look the same.
fn text(all: &mut Xxh3, text: &str) {
    number(all, text.len() as u64);
    all.update(text.as_bytes());
}
