//! From a checkpoint to packed weights.

use std::collections::HashSet;
use std::sync::Arc;

use llmserve_core::{KvGroupSpec, LoadProgress, ModelInfo};
use parking_lot::Mutex;

use super::fingerprint::fingerprint;
use super::slab::{EMBEDDING, HEAD, Matrix, PER_LAYER, Slab};
use super::{CpuModel, CpuOptions, DType, Embedding, Layer};
use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::buffer::Buffer;
use crate::kernels::packed::{Linear, Packed, check_finite, finite_vector, pack};
use crate::kernels::rope::frequencies;
use crate::kernels::stored::Stored;
use crate::machine::Machine;
use crate::pages::{Pages, layout_name};
use crate::weights::fingerprint::Fingerprint;
use crate::weights::{TensorView, Weights};

impl CpuModel {
    /// Packs the weights that `config` describes. The embedding's rows stay in the mapped file, so
    /// the model keeps `weights`. The other tensors leave memory as soon as they are packed
    /// ([`Weights::release`]): at its peak, loading needs the packed weights, the embedding, and
    /// the few tensors that become one matrix.
    ///
    /// # Errors
    /// [`LoadError::Kernel`] for kernels that this CPU lacks, [`LoadError::InvalidOption`] and
    /// [`LoadError::Threads`] for other options that cannot be honoured; [`LoadError::Config`] for
    /// a configuration that contradicts itself; [`LoadError::MissingTensor`],
    /// [`LoadError::WrongShape`], [`LoadError::UnsupportedDType`] and [`LoadError::NonFinite`] for
    /// weights that are not those of the configuration or are damaged; [`LoadError::Unsupported`]
    /// for tensors that the configuration does not know.
    pub fn build(
        config: &DecoderConfig,
        weights: Arc<Weights>,
        options: &CpuOptions,
    ) -> Result<Self, LoadError> {
        Self::build_watched(config, weights, options, &LoadProgress::default())
    }

    /// As [`build`](Self::build), telling how far it has come, in bytes, and ending with
    /// [`LoadError::Cancelled`] once it is not wanted any more.
    pub(crate) fn build_watched(
        config: &DecoderConfig,
        weights: Arc<Weights>,
        options: &CpuOptions,
        progress: &LoadProgress,
    ) -> Result<Self, LoadError> {
        config.validate()?;
        let mut machine = Machine::new(options.kernels, options.threads)?;
        let slab = Slab::new(config, options.dtype)?;
        let mut loader = Loader {
            weights: &weights,
            machine: &mut machine,
            fingerprint: Fingerprint::default(),
            used: HashSet::new(),
        };
        // Before memory is asked for: a configuration of another model may ask for any amount.
        let embedding = [config.vocab_size, config.hidden_size];
        weights.tensor(EMBEDDING, &embedding)?;
        for matrix in &slab.matrices {
            loader.views(matrix)?;
        }
        let mut words =
            Buffer::try_zeroed_huge(slab.len).ok_or_else(|| LoadError::InvalidOption {
                option: "dtype",
                reason: format!(
                    "no memory for {} words of {} bytes: a smaller type needs less",
                    slab.len,
                    size_of::<u32>()
                ),
            })?;
        let bytes = |words: usize| (words * size_of::<u32>()) as u64;
        for matrix in &slab.matrices {
            progress.check().map_err(|_| LoadError::Cancelled)?;
            let end = matrix.base + matrix.len;
            loader.matrix(config, matrix, &mut words[matrix.base..end])?;
            progress.report(bytes(end), bytes(slab.len));
        }
        loader.refuse_leftovers(config)?;
        let origin = Origin {
            fingerprint: fingerprint(&loader.fingerprint, config, options.dtype),
            stamp: weights.stamp(),
        };
        Self::assemble(
            config,
            options,
            machine,
            &slab,
            Stored::owned(words),
            weights,
            origin,
        )
    }

    /// A model of packed weights: `words` are those of `slab`, `weights` have the embedding.
    pub(super) fn assemble(
        config: &DecoderConfig,
        options: &CpuOptions,
        machine: Machine,
        slab: &Slab,
        words: Stored<u32>,
        weights: Arc<Weights>,
        origin: Origin,
    ) -> Result<Self, LoadError> {
        let incomplete = || LoadError::MissingTensor {
            name: EMBEDDING.to_owned(),
        };
        let embedding = Embedding::new(weights, EMBEDDING).ok_or_else(incomplete)?;
        let mut matrices = slab
            .matrices
            .iter()
            .map(|matrix| Packed::at(&matrix.shape, &words, matrix.base));
        let mut next = || matrices.next().flatten().ok_or_else(incomplete);
        let head = next()?;
        let mut layers = Vec::with_capacity(slab.matrices.len() / PER_LAYER);
        for _ in 0..config.num_layers {
            layers.push(Layer {
                qkv: next()?,
                output: next()?,
                gate_up: next()?,
                down: next()?,
            });
        }

        let keys = config.num_kv_heads * config.head_dim;
        let group = KvGroupSpec::full(
            config.num_layers * 2 * keys * options.dtype.kv().bits() as usize / 8,
            layout_name(options.dtype.kv()),
        );
        let name = options.name.clone();
        let mut info = ModelInfo::new(
            name.unwrap_or_else(|| config.architecture.clone()),
            config.vocab_size,
            config.max_position,
            group,
        );
        info.eos.clone_from(&config.eos);
        info.fingerprint = origin.fingerprint;
        let Machine { level, team } = machine;
        info.backend = backend(options.dtype, level, team.threads());
        Ok(Self {
            info,
            config: config.clone(),
            dtype: options.dtype,
            level,
            team: Arc::new(Mutex::new(team)),
            stamp: origin.stamp,
            embedding,
            words,
            layers,
            head,
            frequencies: frequencies(&config.rope, config.head_dim),
            prepared: None,
            no_pages: Pages::none(),
        })
    }
}

/// What computes and how, for people.
pub(super) fn backend(dtype: DType, level: Level, threads: usize) -> String {
    let plural = if threads == 1 { "" } else { "s" };
    format!("cpu {dtype} {} {threads} thread{plural}", level.kernels())
}

/// What a model was made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) fingerprint: u128,
    /// Of the checkpoint's files ([`Weights::stamp`]).
    pub(super) stamp: u128,
}

struct Loader<'a> {
    weights: &'a Weights,
    machine: &'a mut Machine,
    fingerprint: Fingerprint,
    /// Tensors that became part of the model.
    used: HashSet<String>,
}

impl<'a> Loader<'a> {
    /// Hashes a tensor while its pages are warm, and lets go of them.
    fn done(&mut self, view: &TensorView<'_>) -> Result<(), LoadError> {
        self.used.insert(view.name.clone());
        self.fingerprint.add(&mut self.machine.team, view)?;
        self.weights.release(&view.name);
        Ok(())
    }

    /// The norm and the layers that a matrix is made of.
    fn views(
        &self,
        matrix: &Matrix,
    ) -> Result<(Option<TensorView<'a>>, Vec<Linear<'a>>), LoadError> {
        let depth = matrix.shape.depth;
        let norm = matrix.norm.as_ref();
        let norm = norm.map(|name| self.weights.tensor(name, &[depth]));
        let mut layers = Vec::with_capacity(matrix.sources.len());
        for source in &matrix.sources {
            let bias = match &source.bias {
                Some((name, true)) => Some(self.weights.tensor(name, &[source.outputs])?),
                Some((name, false)) if self.weights.contains(name) => {
                    return Err(LoadError::unsupported(
                        name,
                        "the checkpoint has this bias, and config.json says there is none",
                    ));
                }
                _ => None,
            };
            layers.push(Linear {
                weight: self
                    .weights
                    .tensor(&source.weight, &[source.outputs, depth])?,
                bias,
            });
        }
        Ok((norm.transpose()?, layers))
    }

    /// Packs a matrix into its part of the slab.
    fn matrix(
        &mut self,
        config: &DecoderConfig,
        matrix: &Matrix,
        words: &mut [u32],
    ) -> Result<(), LoadError> {
        let (norm, layers) = self.views(matrix)?;
        let factors = norm.as_ref().map(finite_vector).transpose()?;
        let Machine { level, team } = &mut *self.machine;
        pack(
            team,
            *level,
            &matrix.shape,
            &layers,
            matrix.arrangement,
            factors.as_deref(),
            words,
        )?;
        if let Some(norm) = &norm {
            self.done(norm)?;
        }
        for Linear { weight, bias } in &layers {
            self.done(weight)?;
            // Packing has checked an embedding that is the head as well.
            if weight.name == HEAD {
                self.embedding(config)?;
            }
            if let Some(bias) = bias {
                self.done(bias)?;
            }
        }
        Ok(())
    }

    /// Checks the embedding, whose rows come back one by one, as tokens ask for them.
    fn embedding(&mut self, config: &DecoderConfig) -> Result<(), LoadError> {
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = self.weights.tensor(EMBEDDING, &shape)?;
        let Machine { level, team } = &mut *self.machine;
        check_finite(team, *level, &embedding)?;
        self.done(&embedding)
    }

    /// A checkpoint with more than the configuration describes is another model: more layers, a
    /// norm between them. Serving a part of it would give wrong numbers in silence.
    fn refuse_leftovers(&self, config: &DecoderConfig) -> Result<(), LoadError> {
        let harmless = |name: &str| {
            // Computed from the configuration; older checkpoints carry it along. And the copy of
            // a tied embedding.
            name.ends_with(".rotary_emb.inv_freq") || (config.tie_embeddings && name == HEAD)
        };
        let left = self.weights.names();
        let mut left = left.filter(|name| !self.used.contains(*name) && !harmless(name));
        match left.next() {
            None => Ok(()),
            Some(name) => Err(LoadError::unsupported(
                name,
                format!(
                    "the checkpoint has this tensor, and a {} of {} layers, as config.json \
                     describes it, does not",
                    config.architecture, config.num_layers
                ),
            )),
        }
    }
}
