//! Which matrices a model has, of which layers of the checkpoint they are made, and where in the
//! slab they lie: all of it follows from the configuration and the type.

use super::DType;
use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::kernels::packed::{Arrangement, MatrixShape};

/// The name of the embedding, whose rows stay as they are.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the output head, where it is not the embedding.
pub(super) const HEAD: &str = "lm_head.weight";
/// Matrices of a layer: q, k and v; output; gate and up; down.
pub(super) const PER_LAYER: usize = 4;

/// A linear layer of the checkpoint.
#[derive(Debug)]
pub(super) struct Source {
    /// The name of its weight.
    pub(super) weight: String,
    pub(super) outputs: usize,
    /// The name of a bias, and whether there is one. None: it cannot have one.
    pub(super) bias: Option<(String, bool)>,
}

/// A packed matrix to be.
#[derive(Debug)]
pub(super) struct Matrix {
    /// What a packed file calls it.
    pub(super) name: String,
    pub(super) sources: Vec<Source>,
    pub(super) arrangement: Arrangement,
    /// The name of the norm in front of it, if there is one.
    pub(super) norm: Option<String>,
    pub(super) shape: MatrixShape,
    /// Its first word in the slab.
    pub(super) base: usize,
    /// Its words.
    pub(super) len: usize,
}

/// All matrices, the head first and then layer by layer, and how many words they take.
#[derive(Debug)]
pub(super) struct Slab {
    pub(super) matrices: Vec<Matrix>,
    pub(super) len: usize,
}

impl Slab {
    /// Bytes of all matrices.
    pub(super) fn bytes(&self) -> u64 {
        (self.len * size_of::<u32>()) as u64
    }

    /// # Errors
    /// [`LoadError::InvalidOption`] for more words than this machine can count.
    pub(super) fn new(config: &DecoderConfig, dtype: DType) -> Result<Self, LoadError> {
        let mut slab = Self {
            matrices: Vec::with_capacity(1 + PER_LAYER * config.num_layers),
            len: 0,
        };
        let mut add = |name: String, depth, sources, arrangement, norm| {
            slab.add(dtype, name, depth, sources, arrangement, norm)
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_heads * config.head_dim;
        let keys = config.num_kv_heads * config.head_dim;
        let head = match config.tie_embeddings {
            true => EMBEDDING,
            false => HEAD,
        };
        let head = Source {
            weight: head.to_owned(),
            outputs: config.vocab_size,
            bias: None,
        };
        let one_by_one = Arrangement::Concatenated;
        // First, to be packed while little else is in memory: it is the largest.
        let norm = Some("model.norm.weight".to_owned());
        add("head".to_owned(), hidden, vec![head], one_by_one, norm)?;
        for index in 0..config.num_layers {
            let part = |part: &str| format!("model.layers.{index}.{part}");
            let linear = |name: &str, outputs, bias| Source {
                weight: part(&format!("{name}.weight")),
                outputs,
                bias: Some((part(&format!("{name}.bias")), bias)),
            };
            let bias = config.attention_bias;
            add(
                format!("layers.{index}.qkv"),
                hidden,
                vec![
                    linear("self_attn.q_proj", queries, bias),
                    linear("self_attn.k_proj", keys, bias),
                    linear("self_attn.v_proj", keys, bias),
                ],
                one_by_one,
                Some(part("input_layernorm.weight")),
            )?;
            add(
                format!("layers.{index}.output"),
                queries,
                vec![linear("self_attn.o_proj", hidden, config.output_bias)],
                one_by_one,
                None,
            )?;
            add(
                format!("layers.{index}.gate_up"),
                hidden,
                vec![
                    linear("mlp.gate_proj", inner, config.mlp_bias),
                    linear("mlp.up_proj", inner, config.mlp_bias),
                ],
                Arrangement::Paired,
                Some(part("post_attention_layernorm.weight")),
            )?;
            add(
                format!("layers.{index}.down"),
                inner,
                vec![linear("mlp.down_proj", hidden, config.mlp_bias)],
                one_by_one,
                None,
            )?;
        }
        Ok(slab)
    }

    fn add(
        &mut self,
        dtype: DType,
        name: String,
        depth: usize,
        sources: Vec<Source>,
        arrangement: Arrangement,
        norm: Option<String>,
    ) -> Result<(), LoadError> {
        let outputs: Vec<_> = sources.iter().map(|source| source.outputs).collect();
        let biased = |source: &Source| matches!(source.bias, Some((_, true)));
        let shape = MatrixShape::new(
            dtype.format(),
            depth,
            &outputs,
            arrangement,
            sources.iter().any(biased),
            norm.is_some(),
        );
        let end = shape
            .sections()
            .and_then(|sections| Some((sections.total, self.len.checked_add(sections.total)?)));
        let Some((len, end)) = end.filter(|(_, end)| end.checked_mul(size_of::<u32>()).is_some())
        else {
            return Err(LoadError::InvalidOption {
                option: "dtype",
                reason: format!("{dtype}: the weights have more bytes than can be counted here"),
            });
        };
        self.matrices.push(Matrix {
            name,
            sources,
            arrangement,
            norm,
            shape,
            base: self.len,
            len,
        });
        self.len = end;
        Ok(())
    }
}
