//! Texts to vectors.

use std::sync::Arc;

use crate::error::Error;

/// Texts to vectors whose cosine tells how alike they are.
///
/// Vectors have length 1, so that the cosine of two is their dot product.
///
/// ```
/// use llmserve_core::{Embedder, Error};
///
/// /// How often each letter occurs: texts of the same letters are alike.
/// struct Letters;
///
/// impl Embedder for Letters {
///     fn dimensions(&self) -> usize {
///         27
///     }
///
///     fn identity(&self) -> &str {
///         "letters-v1"
///     }
///
///     fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
///         let embed = |text: &&str| {
///             // The last dimension keeps a text without letters from being no direction at all.
///             let mut vector = vec![0.0; 27];
///             vector[26] = 1e-3;
///             for letter in text.bytes().filter(u8::is_ascii_lowercase) {
///                 vector[usize::from(letter - b'a')] += 1.0;
///             }
///             let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
///             vector.iter_mut().for_each(|x| *x /= length);
///             vector
///         };
///         Ok(texts.iter().map(embed).collect())
///     }
/// }
///
/// let vectors = Letters.embed(&["listen", "silent", "loud"])?;
/// let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
/// assert!(cosine(&vectors[0], &vectors[1]) > 0.999);
/// assert!(cosine(&vectors[0], &vectors[2]) < 0.5);
/// # Ok::<(), Error>(())
/// ```
pub trait Embedder: Send + Sync + 'static {
    /// Length of every vector, at least 1.
    fn dimensions(&self) -> usize;

    /// What vectors can be compared: equal exactly when two embedders give the same vectors, so it
    /// names the weights and what is done with them. Text fit for a key (ASCII letters, digits, `-`,
    /// `_` and `.`), such as `"letters-v1"`.
    fn identity(&self) -> &str;

    /// One vector of length 1 (Euclid) for each text, in order. A text's vector depends on that text
    /// alone, not on its company. May block and compute; call it from a thread that may.
    ///
    /// # Errors
    /// Whatever keeps it from computing; none for a text as such, empty ones included.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error>;
}

impl<E: Embedder + ?Sized> Embedder for Arc<E> {
    fn dimensions(&self) -> usize {
        (**self).dimensions()
    }

    fn identity(&self) -> &str {
        (**self).identity()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        (**self).embed(texts)
    }
}

impl<E: Embedder + ?Sized> Embedder for Box<E> {
    fn dimensions(&self) -> usize {
        (**self).dimensions()
    }

    fn identity(&self) -> &str {
        (**self).identity()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        (**self).embed(texts)
    }
}
