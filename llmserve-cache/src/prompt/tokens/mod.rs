//! Texts that recur are encoded once.

mod builder;
mod pieces;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use llmserve_core::{Message, RenderOptions, TokenId, Tokenizer, TokenizerError};

pub use builder::CachingTokenizerBuilder;
use pieces::Pieces;
use stats::Counters;
pub use stats::TokenCacheStats;

/// A tokenizer that remembers the tokens of texts it has encoded.
///
/// Texts are cut where the inner tokenizer says that it changes no token
/// ([`Tokenizer::seam`]), at the first such place after every so many bytes
/// ([`chunk_bytes`](CachingTokenizerBuilder::chunk_bytes)), from the beginning on. So texts that begin
/// alike have the same pieces as far as they do, whatever follows. A piece is looked up by a 128-bit
/// hash and compared by its text; what is missing is encoded and kept. The rest behind the last cut,
/// which is as long as the text that follows lets it be, is encoded each time.
///
/// * The tokens are those of the inner tokenizer, always.
/// * Texts of one chunk or less, and those without a seam, go straight to the inner tokenizer; so do
///   those with `add_special` if it cannot say what that adds ([`Tokenizer::frame`]).
/// * Pieces are kept within a number of bytes, those that are asked for often and lately first, so
///   that texts that come once do not flush them (TinyLFU, Einziger, Friedman and Manes, 2017).
/// * Errors of the inner tokenizer are passed on and not kept; its panics pass through.
///
/// ```
/// use std::sync::Arc;
/// use llmserve_cache::prompt::CachingTokenizer;
/// use llmserve_core::{Message, RenderOptions, Tokenizer, TokenizerError};
///
/// /// One token a word, so any space may be cut before.
/// struct Words;
/// impl Tokenizer for Words {
///     fn encode(&self, text: &str, _add_special: bool) -> Result<Vec<u32>, TokenizerError> {
///         Ok(text.split_whitespace().map(|word| word.len() as u32).collect())
///     }
///     fn seam(&self, text: &str, from: usize) -> Option<usize> {
///         text.bytes().enumerate().skip(from).find(|(_, byte)| *byte == b' ').map(|(at, _)| at)
///     }
/// #   fn decode(&self, _: &[u32], _: bool) -> Result<String, TokenizerError> {
/// #       Ok(String::new())
/// #   }
/// #   fn render(&self, _: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
/// #       Err(TokenizerError::NoTemplate)
/// #   }
/// }
///
/// let tokenizer = CachingTokenizer::builder(Arc::new(Words)).chunk_bytes(64).build()?;
/// let system = "You answer questions about the plays of William Shakespeare. ".repeat(20);
/// for question in ["Who is Yorick?", "Who killed Polonius?"] {
///     let prompt = format!("{system}{question}");
///     assert_eq!(tokenizer.encode(&prompt, false)?, Words.encode(&prompt, false)?);
/// }
/// assert!(tokenizer.stats().bytes_saved > 1_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CachingTokenizer {
    inner: Arc<dyn Tokenizer>,
    chunk: usize,
    pieces: Pieces,
    counters: Counters,
}

impl CachingTokenizer {
    /// Starts making one around `inner`.
    pub fn builder(inner: Arc<dyn Tokenizer>) -> CachingTokenizerBuilder {
        CachingTokenizerBuilder::new(inner)
    }

    /// What it holds and has done. Exact but for texts that are being encoded.
    pub fn stats(&self) -> TokenCacheStats {
        let (entries, bytes) = self.pieces.held();
        self.counters.read(entries, bytes)
    }

    /// The first place to cut `text` at. One that the inner tokenizer gives against its contract is
    /// none: it would panic here.
    fn cut(&self, text: &str) -> Option<usize> {
        if text.len() <= self.chunk {
            return None;
        }
        let at = self.inner.seam(text, self.chunk)?;
        (at > 0 && at < text.len() && text.is_char_boundary(at)).then_some(at)
    }

    /// Appends the tokens of `text`, whose first cut is at `cut`.
    fn append(&self, text: &str, cut: usize, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let mut tally = self.counters.tally();
        let (mut rest, mut cut) = (text, Some(cut));
        while let Some(at) = cut {
            let (piece, behind) = rest.split_at(at);
            rest = behind;
            cut = self.cut(rest);
            if self.pieces.append(piece, ids) {
                tally.hit(piece.len());
            } else {
                let new = self.inner.encode(piece, false)?;
                ids.extend_from_slice(&new);
                self.pieces.keep(piece, new);
                tally.miss();
            }
        }
        ids.extend(self.inner.encode(rest, false)?);
        if tally.missed() {
            self.counters.tell_held(self.pieces.about_held());
        }
        Ok(())
    }
}

impl Tokenizer for CachingTokenizer {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let nothing: (&[TokenId], &[TokenId]) = (&[], &[]);
        let frame = match add_special {
            true => self.inner.frame(),
            false => Some(nothing),
        };
        let (Some((before, behind)), Some(cut)) = (frame, self.cut(text)) else {
            return self.inner.encode(text, add_special);
        };
        // Four bytes a token are usual: mostly enough, and never far too much.
        let mut ids = Vec::with_capacity(before.len() + text.len() / 3 + behind.len());
        ids.extend_from_slice(before);
        self.append(text, cut, &mut ids)?;
        ids.extend_from_slice(behind);
        Ok(ids)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special)
    }

    fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TokenizerError> {
        self.inner.render(messages, options)
    }

    fn seam(&self, text: &str, from: usize) -> Option<usize> {
        self.inner.seam(text, from)
    }

    fn frame(&self) -> Option<(&[TokenId], &[TokenId])> {
        self.inner.frame()
    }
}

impl std::fmt::Debug for CachingTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachingTokenizer")
            .field("chunk_bytes", &self.chunk)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
