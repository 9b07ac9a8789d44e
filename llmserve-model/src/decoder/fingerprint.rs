//! 128 bits that differ when the weights, or what is computed with them, do.

use xxhash_rust::xxh3::Xxh3;

use super::DType;
use crate::config::{Activation, DecoderConfig, RopeScaling};
use crate::weights::fingerprint::{Fingerprint, number, text};

/// XXH3-128 over the type, the configuration and the weights.
pub(super) fn fingerprint(weights: &Fingerprint, config: &DecoderConfig, dtype: DType) -> u128 {
    let mut all = Xxh3::new();
    // Rounded weights make other keys and values.
    text(&mut all, &dtype.to_string());
    hash_config(&mut all, config);
    weights.finish(&mut all);
    all.digest128()
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
