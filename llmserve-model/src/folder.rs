//! A model's folder: everything it holds, opened and checked together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmserve_core::LoadProgress;

use crate::config::{DecoderConfig, GenerationConfig};
use crate::decoder::{CpuModel, CpuOptions, DType, PackedFile};
use crate::error::LoadError;
use crate::tokenizer::HfTokenizer;
use crate::weights::Weights;

/// What a model's folder holds, opened but not yet turned into a running model.
///
/// ```text
///  config.json              → config          sizes, variants
///  generation_config.json   → generation      suggested sampling; its end tokens join config's
///  model.safetensors, or index and shards → weights
///  tokenizer.json, tokenizer_config.json, chat_template.jinja → tokenizer (where there is one)
/// ```
///
/// The tokenizer's vocabulary need not be the model's: embeddings are padded to round numbers, and
/// some tokenizers know tokens that the model has no row for. Both load; a request whose ids have
/// no row is refused by itself.
///
/// ```no_run
/// use llmserve_model::{CpuOptions, ModelFolder};
/// let folder = ModelFolder::open("models/bard-2m".as_ref())?;
/// println!("{} layers, {:?}", folder.config.num_layers, folder.weights);
/// let loaded = folder.into_cpu(CpuOptions::default())?;
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct ModelFolder {
    /// Where it is.
    pub path: PathBuf,
    /// What the model is.
    pub config: DecoderConfig,
    /// What its makers suggest for generating with it.
    pub generation: GenerationConfig,
    /// Its tensors.
    pub weights: Weights,
    /// Its tokenizer; without one the model is served by token ids.
    pub tokenizer: Option<HfTokenizer>,
    /// Who is told how far the making of a model has come, and asked whether it is still wanted.
    /// None where nobody is interested, as in a folder just opened.
    pub progress: Option<Arc<LoadProgress>>,
}

/// A model ready to be given to an engine.
///
/// ```
/// use llmserve_core::Model;
/// use llmserve_model::{CpuOptions, ModelFolder};
/// # let path = std::path::Path::new("tests/goldens/llama");
/// let loaded = ModelFolder::load(path, CpuOptions::default())?;
/// assert_eq!(loaded.model.info().vocab_size, loaded.config.vocab_size);
/// assert!(loaded.tokenizer.is_none());
/// # Ok::<(), llmserve_model::LoadError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct LoadedModel {
    /// Computes logits.
    pub model: CpuModel,
    /// Text to tokens and back; without one the model is served by token ids.
    pub tokenizer: Option<Arc<HfTokenizer>>,
    /// What the model is.
    pub config: DecoderConfig,
    /// What its makers suggest for generating with it.
    pub generation: GenerationConfig,
}

impl ModelFolder {
    /// Opens and checks the folder at `path`. Nothing large is read: weights are only mapped.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::from_dir`], [`Weights::open`] and [`HfTokenizer::from_dir`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::Missing {
                what: "the model's folder".to_owned(),
                path: path.to_owned(),
            });
        }
        let (config, generation) = DecoderConfig::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            generation,
            weights: Weights::open(path)?,
            tokenizer: HfTokenizer::from_dir(path)?,
            progress: None,
        })
    }

    /// Opens the folder at `path` and builds the model on the CPU.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`] and [`CpuModel::build`].
    pub fn load(path: &Path, options: CpuOptions) -> Result<LoadedModel, LoadError> {
        Self::open(path)?.into_cpu(options)
    }

    /// About the bytes of memory that the weights will take once a model is made of them; KV pages
    /// and buffers are not among them. No weight is read.
    ///
    /// # Errors
    /// [`LoadError::Config`], [`LoadError::MissingTensor`] and [`LoadError::WrongShape`] as
    /// [`CpuModel::build`].
    ///
    /// ```
    /// use llmserve_core::Model;
    /// use llmserve_model::{CpuOptions, DType, ModelFolder};
    /// # let path = std::path::Path::new("tests/goldens/llama");
    /// let folder = ModelFolder::open(path)?;
    /// let bytes = folder.memory_bytes(DType::F32)?;
    /// assert!(folder.memory_bytes(DType::Int8)? < bytes);
    /// let model = folder.into_cpu(CpuOptions::default())?.model;
    /// assert_eq!(model.memory_bytes(), bytes);
    /// # Ok::<(), llmserve_model::LoadError>(())
    /// ```
    pub fn memory_bytes(&self, dtype: DType) -> Result<u64, LoadError> {
        CpuModel::weights_bytes(&self.config, &self.weights, dtype)
    }

    /// Builds the model on the CPU: checks that the weights fit the configuration, and packs them.
    ///
    /// # Errors
    /// Those of [`CpuModel::build`]; [`LoadError::Cancelled`] where [`progress`](Self::progress)
    /// says so.
    pub fn into_cpu(self, options: CpuOptions) -> Result<LoadedModel, LoadError> {
        let progress = self.progress.unwrap_or_default();
        let weights = Arc::new(self.weights);
        let model = CpuModel::build_watched(&self.config, weights, &options, &progress)?;
        Ok(LoadedModel {
            model,
            tokenizer: self.tokenizer.map(Arc::new),
            config: self.config,
            generation: self.generation,
        })
    }

    /// Maps the packed file `file` ([`CpuModel::open_packed`]) if it was made of this checkpoint
    /// and for these options; otherwise builds the model, as [`into_cpu`](Self::into_cpu) does, and
    /// writes it there for the next time.
    ///
    /// A checkpoint is known again by its configuration and by its files' names, lengths and times
    /// of change. A file that cannot be written, on a disk that is full or read-only, is a warning
    /// in the log: the model is served without it.
    ///
    /// # Errors
    /// Those of [`CpuModel::build`].
    pub fn into_cpu_cached(
        self,
        options: CpuOptions,
        file: &Path,
    ) -> Result<LoadedModel, LoadError> {
        let model = match self.packed(options.dtype, file) {
            Ok(packed) => packed.into_cpu(&options)?,
            Err(reason) => {
                tracing::info!(%reason, "packing the checkpoint");
                let progress = self.progress.unwrap_or_default();
                let weights = Arc::new(self.weights);
                let model = CpuModel::build_watched(&self.config, weights, &options, &progress)?;
                if let Err(error) = model.save_packed(file) {
                    tracing::warn!(%error, "the packed weights are not kept");
                }
                model
            }
        };
        Ok(LoadedModel {
            model,
            tokenizer: self.tokenizer.map(Arc::new),
            config: self.config,
            generation: self.generation,
        })
    }

    /// The packed file `file`, unless it is not this checkpoint's.
    fn packed(&self, dtype: DType, file: &Path) -> Result<PackedFile, LoadError> {
        let packed = PackedFile::open(file)?;
        let stale = if packed.dtype != dtype {
            format!("it was packed as {}, {dtype} is asked for", packed.dtype)
        } else if packed.config != self.config {
            "config.json is another than when it was packed".to_owned()
        } else if packed.stamp() != self.weights.stamp() {
            "the checkpoint was written since".to_owned()
        } else {
            return Ok(packed);
        };
        Err(LoadError::Packed {
            path: file.to_owned(),
            reason: stale,
        })
    }

    /// Where [`into_cpu_cached`](Self::into_cpu_cached) keeps weights of this type, if there is no
    /// better place: in the model's folder.
    ///
    /// ```
    /// use llmserve_model::{DType, ModelFolder};
    /// # let path = std::path::Path::new("tests/goldens/llama");
    /// let folder = ModelFolder::open(path)?;
    /// assert!(folder.packed_path(DType::Int8).ends_with("llama/llmserve-int8.packed"));
    /// # Ok::<(), llmserve_model::LoadError>(())
    /// ```
    pub fn packed_path(&self, dtype: DType) -> PathBuf {
        self.path.join(format!("llmserve-{dtype}.packed"))
    }
}
