//! Texts to vectors, for whoever asks how alike two texts are.
//!
//! Every embedder is an [`Embedder`](crate::Embedder), so a host can bring its own. Two come along:
//!
//! * [`HashedNgrams`] goes by words and spelling. It has no weights and takes microseconds.
//! * [`SentenceEncoder`] goes by meaning: a BERT encoder from a folder as `sentence-transformers`
//!   saves it, computed on the CPU.
//!
//! ```
//! use llmserve::Embedder;
//! use llmserve::embed::HashedNgrams;
//!
//! let embedder = HashedNgrams::default();
//! let vectors = embedder.embed(&["Open the window, please.", "please open the window"])?;
//! let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
//! assert!(cosine > 0.8);
//! # Ok::<(), llmserve::Error>(())
//! ```
//!
//! With a model's folder at hand:
//!
//! ```no_run
//! use llmserve::Embedder;
//! use llmserve::embed::{EncoderOptions, SentenceEncoder};
//!
//! let encoder = SentenceEncoder::open("target/minilm".as_ref(), &EncoderOptions::default())?;
//! let vectors = encoder.embed(&["I forgot my password.", "How do I log in again?"])?;
//! assert_eq!(vectors[0].len(), encoder.dimensions());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use llmserve_cache::HashedNgrams;
pub use llmserve_model::{EncoderOptions, SentenceEncoder};
