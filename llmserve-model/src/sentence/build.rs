//! From a checkpoint to packed weights.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use llmserve_core::Tokenizer;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::config::EncoderConfig;
use super::forward::{Running, Workspace};
use super::recipe::{Modules, Recipe};
use super::{EncoderOptions, Layer, Network, SentenceEncoder};
use crate::config::fields::read_bounded;
use crate::decoder::DType;
use crate::error::LoadError;
use crate::kernels::buffer::Buffer;
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::packed::{
    Arrangement, Linear, MatrixShape, Packed, check_finite, finite_vector, pack,
};
use crate::kernels::stored::Stored;
use crate::machine::Machine;
use crate::tokenizer::{HfTokenizer, MAX_TOKENIZER};
use crate::weights::fingerprint::{Fingerprint, text};
use crate::weights::{TensorView, Weights};

/// The word embeddings, whose rows stay in the file.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// Of tensors that a checkpoint may have and no vector needs: numbers 0, 1, …, and the layer behind
/// the first token that tells whether two sentences follow each other.
fn harmless(name: &str) -> bool {
    name == "embeddings.position_ids" || name.starts_with("pooler.")
}

impl SentenceEncoder {
    /// Opens the sentence embedder in the folder at `path`, as `sentence-transformers` saves it, and
    /// packs its weights.
    ///
    /// # Errors
    /// [`LoadError::Missing`] for a folder or a file that is not there;
    /// [`LoadError::UnsupportedArchitecture`] and [`LoadError::Unsupported`] for an embedder that is
    /// no BERT, or has parts, poolings or prompts that are not computed here; [`LoadError::Config`]
    /// for sizes that contradict each other; [`LoadError::MissingTensor`],
    /// [`LoadError::WrongShape`], [`LoadError::UnsupportedDType`] and [`LoadError::NonFinite`] for
    /// weights that are not those of the configuration or are damaged; [`LoadError::Tokenizer`];
    /// [`LoadError::Kernel`], [`LoadError::InvalidOption`] and [`LoadError::Threads`] for options
    /// that cannot be honoured; and those of [`Weights::open`].
    pub fn open(path: &Path, options: &EncoderOptions) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::Missing {
                what: "the sentence embedder's folder".to_owned(),
                path: path.to_owned(),
            });
        }
        let modules = Modules::read(path)?;
        let dir = &modules.transformer;
        let config = EncoderConfig::read(dir)?;
        let recipe = Recipe::read(path, &modules, &config)?;
        let (tokenizer, tokenizer_hash) = tokenizer(dir, &config, &recipe)?;
        let weights = Arc::new(Weights::open(dir)?);
        let mut machine = Machine::new(options.kernels, options.threads)?;
        let mut loader = Loader {
            weights: &weights,
            machine: &mut machine,
            fingerprint: Fingerprint::default(),
            used: HashSet::new(),
        };
        let network = loader.network(&config, options.dtype)?;
        loader.refuse_leftovers(&config)?;
        let mut all = Xxh3::new();
        text(&mut all, &options.dtype.to_string());
        config.hash(&mut all);
        recipe.hash(&mut all);
        all.update(&tokenizer_hash.to_le_bytes());
        loader.fingerprint.finish(&mut all);
        let words = weights
            .handle(WORDS)
            .ok_or_else(|| LoadError::MissingTensor {
                name: WORDS.to_owned(),
            })?;
        let threads = machine.team.threads();
        let workspace = Workspace::new(&config, &recipe, options.dtype, threads)?;
        Ok(Self {
            identity: format!("bert-{:032x}", all.digest128()),
            config,
            recipe,
            tokenizer,
            weights,
            words,
            network,
            level: machine.level,
            running: Mutex::new(Running {
                team: machine.team,
                workspace,
            }),
        })
    }
}

/// The tokenizer, which cuts texts as `sentence-transformers` does, and the hash of its file.
fn tokenizer(
    dir: &Path,
    config: &EncoderConfig,
    recipe: &Recipe,
) -> Result<(HfTokenizer, u128), LoadError> {
    let path = dir.join("tokenizer.json");
    let hash = xxh3_128(&read_bounded(&path, "the tokenizer", MAX_TOKENIZER)?);
    let refused = |reason: String| LoadError::Tokenizer {
        path: path.clone(),
        reason,
    };
    let tokenizer =
        HfTokenizer::from_dir(dir)?.ok_or_else(|| refused("it went away".to_owned()))?;
    if tokenizer.vocab_size() > config.vocab {
        return Err(refused(format!(
            "it has {} tokens, and config.json's vocab_size is {}: some would have no embedding",
            tokenizer.vocab_size(),
            config.vocab
        )));
    }
    // Before the library is told to cut: it cannot cut to fewer.
    let empty = tokenizer
        .encode("", true)
        .map_err(|error| refused(error.to_string()))?;
    if empty.is_empty() || empty.len() > recipe.max_tokens {
        return Err(refused(format!(
            "it frames the empty text with {} tokens, expected 1 to {}",
            empty.len(),
            recipe.max_tokens
        )));
    }
    let tokenizer = tokenizer
        .with_truncation(recipe.max_tokens, recipe.cut_front)
        .map_err(refused)?;
    Ok((tokenizer, hash))
}

struct Loader<'a> {
    weights: &'a Weights,
    machine: &'a mut Machine,
    fingerprint: Fingerprint,
    /// Tensors that became part of the encoder.
    used: HashSet<String>,
}

/// A matrix to be packed: its shape, what it is made of, and its first word in the slab.
struct Matrix<'a> {
    shape: MatrixShape,
    layers: Vec<Linear<'a>>,
    base: usize,
    len: usize,
}

impl<'a> Loader<'a> {
    fn network(&mut self, config: &EncoderConfig, dtype: DType) -> Result<Network, LoadError> {
        let (hidden, inner) = (config.hidden, config.inner);
        let words = self.weights.tensor(WORDS, &[config.vocab, hidden])?;
        let mut matrices = Vec::with_capacity(4 * config.layers);
        let mut total = 0;
        for index in 0..config.layers {
            let linear = |name: &str, outputs: usize, depth: usize| -> Result<_, LoadError> {
                let name = format!("encoder.layer.{index}.{name}");
                Ok(Linear {
                    weight: self
                        .weights
                        .tensor(&format!("{name}.weight"), &[outputs, depth])?,
                    bias: Some(self.weights.tensor(&format!("{name}.bias"), &[outputs])?),
                })
            };
            let of_attention = |name| linear(name, hidden, hidden);
            for layers in [
                vec![
                    of_attention("attention.self.query")?,
                    of_attention("attention.self.key")?,
                    of_attention("attention.self.value")?,
                ],
                vec![of_attention("attention.output.dense")?],
                vec![linear("intermediate.dense", inner, hidden)?],
                vec![linear("output.dense", hidden, inner)?],
            ] {
                matrices.push(matrix(dtype, layers, &mut total)?);
            }
        }
        let no_memory = || LoadError::InvalidOption {
            option: "dtype",
            reason: format!("no memory for {total} words of 4 bytes: a smaller type needs less"),
        };
        let mut slab = Buffer::try_zeroed_huge(total).ok_or_else(no_memory)?;
        for matrix in &matrices {
            let part = &mut slab[matrix.base..matrix.base + matrix.len];
            let Machine { level, team } = &mut *self.machine;
            let (shape, layers) = (&matrix.shape, &matrix.layers);
            pack(
                team,
                *level,
                shape,
                layers,
                Arrangement::Concatenated,
                None,
                part,
            )?;
            for Linear { weight, bias } in layers {
                self.done(weight)?;
                bias.iter().try_for_each(|bias| self.done(bias))?;
            }
        }
        let slab = Stored::owned(slab);
        let mut packed = matrices
            .iter()
            .map(|matrix| Packed::at(&matrix.shape, &slab, matrix.base));
        let mut next = || packed.next().flatten().ok_or_else(no_memory);
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(Layer {
                qkv: next()?,
                output: next()?,
                inner: next()?,
                down: next()?,
                after_attention: self
                    .norm(config, &format!("encoder.layer.{index}.attention.output"))?,
                after_feed_forward: self.norm(config, &format!("encoder.layer.{index}.output"))?,
            });
        }
        let Machine { level, team } = &mut *self.machine;
        check_finite(team, *level, &words)?;
        self.done(&words)?;
        Ok(Network {
            positions: self.positions(config)?,
            norm: self.norm(config, "embeddings")?,
            layers,
        })
    }

    /// What is added to a token's embedding at each position: that of the position, and that of the
    /// first kind of segment.
    fn positions(&mut self, config: &EncoderConfig) -> Result<Vec<f32>, LoadError> {
        let hidden = config.hidden;
        let weights = self.weights;
        let mut tensor = |name: &str, rows: usize| {
            let view = weights.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden])?;
            let numbers = finite_vector(&view)?;
            self.done(&view)?;
            Ok::<_, LoadError>(numbers)
        };
        let mut positions = tensor("position_embeddings", config.positions)?;
        let types = tensor("token_type_embeddings", config.types)?;
        for row in positions.chunks_exact_mut(hidden) {
            for (x, kind) in row.iter_mut().zip(&types) {
                *x += kind;
            }
        }
        Ok(positions)
    }

    fn norm(&mut self, config: &EncoderConfig, part: &str) -> Result<LayerNorm, LoadError> {
        let weights = self.weights;
        let mut tensor = |name: &str| {
            let name = format!("{part}.LayerNorm.{name}");
            let view = weights.tensor(&name, &[config.hidden])?;
            let numbers = finite_vector(&view)?;
            self.done(&view)?;
            Ok::<_, LoadError>(numbers)
        };
        Ok(LayerNorm::new(
            tensor("weight")?,
            tensor("bias")?,
            config.eps,
        ))
    }

    /// Hashes a tensor while its pages are warm, and lets go of them.
    fn done(&mut self, view: &TensorView<'_>) -> Result<(), LoadError> {
        self.used.insert(view.name.clone());
        self.fingerprint.add(&mut self.machine.team, view)?;
        self.weights.release(&view.name);
        Ok(())
    }

    /// A checkpoint with more than the configuration describes is another model.
    fn refuse_leftovers(&self, config: &EncoderConfig) -> Result<(), LoadError> {
        let mut names = self.weights.names();
        match names.find(|name| !self.used.contains(*name) && !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(LoadError::unsupported(
                name,
                format!(
                    "the checkpoint has this tensor, and a BERT encoder of {} layers, as \
                     config.json describes it, does not",
                    config.layers
                ),
            )),
        }
    }
}

fn matrix<'a>(
    dtype: DType,
    layers: Vec<Linear<'a>>,
    total: &mut usize,
) -> Result<Matrix<'a>, LoadError> {
    let size = |dimension: usize| {
        let sizes = layers
            .iter()
            .map(move |layer: &Linear<'_>| layer.weight.shape.get(dimension).copied().unwrap_or(0));
        sizes.collect::<Vec<_>>()
    };
    let (outputs, depth) = (size(0), size(1)[0]);
    let one_by_one = Arrangement::Concatenated;
    let shape = MatrixShape::new(dtype.format(), depth, &outputs, one_by_one, true, false);
    let base = *total;
    let placed = shape.sections().and_then(|sections| {
        *total = base.checked_add(sections.total)?;
        Some(sections.total)
    });
    let len = placed.ok_or_else(|| LoadError::InvalidOption {
        option: "dtype",
        reason: format!("{dtype}: the weights have more bytes than can be counted here"),
    })?;
    Ok(Matrix {
        shape,
        layers,
        base,
        len,
    })
}
