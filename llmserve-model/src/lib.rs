//! Every number of llmserve: weights, tokenizer, decoder, CPU kernels, physical KV pages.
//!
//! A model arrives as a folder of files and leaves as two things an engine needs: a
//! [`Model`](llmserve_core::Model) that turns tokens into logits, and a
//! [`Tokenizer`](llmserve_core::Tokenizer) that turns text into tokens and back.
//!
//! ```text
//!   a folder, or a name on the hub (feature `hub`)
//!        │
//!        ├─ config.json, generation_config.json ──► DecoderConfig   what is computed
//!        ├─ model.safetensors, or shards ─────────► Weights         mapped, checked, not read
//!        ├─ tokenizer.json, tokenizer_config.json ► HfTokenizer     text ◄─► tokens
//!        └─ chat_template.jinja ──────────────────► ChatTemplate    conversation ─► text
//!        │
//!   ModelFolder: all of them together
//!        │  packed once, every value checked
//!        ▼
//!   CpuModel ── submit(ragged batch) ──► logits
//!     ├─ ThreadTeam   the model's own threads; no pool is shared with anybody
//!     ├─ Kernels      AVX-512, AVX2 or portable: chosen at run time
//!     └─ pages        keys and values, lent to others as bytes
//! ```
//!
//! * [`ModelFolder`] opens a folder and builds a [`CpuModel`]; each part can also be used by itself.
//! * Whatever a file says that would change a number is honoured or refused by name
//!   ([`LoadError`]): an unknown architecture, a sliding window, a way to stretch rotary embeddings,
//!   a quantised checkpoint. Nothing is ignored in silence.
//! * Files come from strangers. Every length and offset is checked before it is used, and templates
//!   run on limited steps.
//! * A row's numbers depend on its tokens and positions alone: not on which rows, chunks or threads
//!   share the step, nor on the block size.
//!
//! ```
//! use llmserve_core::Model;
//! use llmserve_model::{CpuOptions, DType, ModelFolder};
//! # let path = std::path::Path::new("tests/goldens/llama");
//! let options = CpuOptions { dtype: DType::BF16, ..CpuOptions::default() };
//! let loaded = ModelFolder::load(path, options)?;
//! println!("{} on {}", loaded.model.info().name, loaded.model.info().backend);
//! # Ok::<(), llmserve_model::LoadError>(())
//! ```
//!
//! [`SentenceEncoder`] is the other kind of model: a BERT encoder that turns texts into vectors, on the
//! same kernels.
//!
//! The crate knows nothing of scheduling, routing or HTTP.

// Only where numbers are moved or files are mapped, and there each block with its reason.
#![deny(unsafe_code)]

mod config;
mod decoder;
mod error;
mod folder;
#[cfg(feature = "hub")]
mod hub;
#[allow(unsafe_code)]
mod kernels;
mod machine;
mod pages;
mod sentence;
#[cfg(feature = "structured")]
mod structured;
mod template;
#[allow(unsafe_code)]
mod threads;
mod tokenizer;
mod weights;

pub use config::{Activation, DecoderConfig, GenerationConfig, RopeConfig, RopeScaling};
pub use decoder::{CpuModel, CpuOptions, DType};
pub use error::LoadError;
pub use folder::{LoadedModel, ModelFolder};
#[cfg(feature = "hub")]
pub use hub::{FetchProgress, Hub, HubBuilder, HubError};
pub use kernels::{Ceiling, Kernels, measure};
pub use sentence::{EncoderOptions, SentenceEncoder};
#[cfg(feature = "structured")]
pub use structured::LlguidanceCompiler;
pub use template::ChatTemplate;
pub use threads::{TaskPanicked, ThreadTeam, physical_cores};
pub use tokenizer::{HfTokenizer, SpecialTokens};
pub use weights::{FileDType, TensorView, Weights};
