//! Tokens to text, one at a time.

use std::sync::Arc;

use crate::contract::tokenizer::{Tokenizer, TokenizerError};
use crate::ids::TokenId;

/// What a tokenizer writes for bytes that form no character.
const REPLACEMENT: char = '\u{FFFD}';

/// Tokens of the prompt, and of a stretch that cannot be settled, that are kept as context.
const CONTEXT: usize = 8;

/// Tokens after which text is settled even though its end may still change.
const PATIENCE: usize = 16;

/// Replacement characters at the end that the next tokens may still turn into one character: an
/// incomplete one has at most three bytes, and some tokenizers write one for each byte.
const UNCERTAIN: usize = 3;

/// Turns the tokens of one choice into text as they come.
///
/// A token's text depends on its neighbours: a character may span tokens, and many tokenizers
/// drop a leading space only at the very beginning. So a token is decoded together with the few
/// before it, and what their text did not have is new: the window of text-generation-inference
/// and vLLM.
///
/// ```text
///   … settled ┃ context │ pending ┃ next
///             ┃ decoded together  ┃
///             ┃ emitted │ new     ┃      held back while it ends in half a character
/// ```
///
/// The pieces add up to what decoding all tokens at once gives, for text that is valid. A
/// character is never emitted in halves, nor as U+FFFD while it can still be completed. An
/// endless run of invalid bytes comes out as U+FFFD, a little late, and never makes the window
/// grow.
///
/// ```
/// # use llmserve_core::{Message, RenderOptions, Tokenizer, TokenizerError};
/// use std::sync::Arc;
/// use llmserve_core::text::IncrementalDecoder;
///
/// /// A token for each byte.
/// struct Bytes;
/// impl Tokenizer for Bytes {
///     fn decode(&self, ids: &[u32], _skip_special: bool) -> Result<String, TokenizerError> {
///         let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
///         Ok(String::from_utf8_lossy(&bytes).into_owned())
///     }
/// #   fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
/// #       Ok(text.bytes().map(u32::from).collect())
/// #   }
/// #   fn render(&self, _: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
/// #       Err(TokenizerError::NoTemplate)
/// #   }
///     // …
/// }
///
/// let mut decoder = IncrementalDecoder::new(Arc::new(Bytes), true, &[]);
/// assert_eq!(decoder.push(0xc3)?, "");
/// assert_eq!(decoder.push(0xa9)?, "é");
/// assert_eq!(decoder.push(0xc3)?, "");
/// assert_eq!(decoder.finish(), "");
/// # Ok::<(), TokenizerError>(())
/// ```
#[derive(Clone)]
pub struct IncrementalDecoder {
    tokenizer: Arc<dyn Tokenizer>,
    skip_special: bool,
    /// Context and pending tokens.
    window: Vec<TokenId>,
    /// How many of them are context.
    context: usize,
    /// What has been emitted (or was there before) of the window's text.
    emitted: String,
    /// Bytes of `emitted` that came from pending tokens.
    ahead: usize,
    /// What is pending of the window's text: an unbroken run of replacement characters.
    held: String,
    /// Whether `emitted` still has to be computed from the prompt's tail.
    fresh: bool,
}

impl IncrementalDecoder {
    /// A decoder for what follows a prompt that ends in `prompt_tail`; its last few tokens
    /// suffice and only those are looked at. With `skip_special`, special tokens have no text.
    pub fn new(tokenizer: Arc<dyn Tokenizer>, skip_special: bool, prompt_tail: &[TokenId]) -> Self {
        let window = prompt_tail[prompt_tail.len().saturating_sub(CONTEXT)..].to_vec();
        Self {
            tokenizer,
            skip_special,
            context: window.len(),
            fresh: !window.is_empty(),
            window,
            emitted: String::new(),
            ahead: 0,
            held: String::new(),
        }
    }

    /// The text that became certain with `token`; often empty.
    ///
    /// # Errors
    /// What the tokenizer says about tokens it cannot decode. The token then counts for nothing.
    pub fn push(&mut self, token: TokenId) -> Result<String, TokenizerError> {
        if self.fresh {
            self.emitted = self.decode(&self.window)?;
            self.fresh = false;
        }
        self.window.push(token);
        let pushed = self.advance();
        if pushed.is_err() {
            self.window.pop();
        }
        pushed
    }

    /// What is left when no token follows. An incomplete last character is dropped: up to three
    /// replacement characters at the very end, which cannot be told from one.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        self.window.clear();
        self.emitted.clear();
        self.context = 0;
        self.ahead = 0;
        held[..uncertain_from(&held)].to_owned()
    }

    fn advance(&mut self) -> Result<String, TokenizerError> {
        let text = self.decode(&self.window)?;
        let (kept, new) = self.new_text(&text)?;
        let patient = self.window.len() - self.context < PATIENCE;
        let certain = new.trim_end_matches(REPLACEMENT).len();

        if certain == new.len() && (patient || !new.is_empty()) {
            // Without text the context stays: a token without any gives none to the next.
            if !new.is_empty() {
                self.settle(self.context)?;
            }
            self.held.clear();
            return Ok(new);
        }
        if patient {
            self.held = new[certain..].to_owned();
            self.emitted.truncate(kept);
            self.emitted.push_str(&new[..certain]);
            self.ahead += certain;
            return Ok(new[..certain].to_owned());
        }

        // Either nothing but tokens without text, or a stretch that never ended with a whole
        // character. The window must not grow: settle all but what may still be completed.
        if new.is_empty() {
            self.emitted = self.decode(&self.window[..self.context])?;
            self.window.truncate(self.context);
            self.held.clear();
            return Ok(new);
        }
        let len = self.window.len();
        let cut = uncertain_from(&new);
        for keep in CONTEXT..=len.min(2 * PATIENCE) {
            // What is kept must end as the whole did, with something before it: then the bytes
            // that may be completed are all there.
            let text = self.decode(&self.window[len - keep..])?;
            let end = uncertain_from(&text);
            if text[end..] == new[cut..] && (end > 0 || keep == len) {
                self.settle(len - keep)?;
                self.emitted.truncate(end);
                self.held = new[cut..].to_owned();
                return Ok(new[..cut].to_owned());
            }
        }
        // Bytes so far apart that they were given up.
        self.settle(len - CONTEXT)?;
        self.held.clear();
        Ok(new)
    }

    /// Makes the window's tokens from `start` on the context of what follows.
    fn settle(&mut self, start: usize) -> Result<(), TokenizerError> {
        self.emitted = self.decode(&self.window[start..])?;
        self.window.drain(..start);
        self.context = self.window.len();
        self.ahead = 0;
        Ok(())
    }

    /// The part of the window's `text` that was not emitted, and the bytes of `emitted` that it
    /// follows.
    fn new_text(&self, text: &str) -> Result<(usize, String), TokenizerError> {
        let all = self.emitted.len();
        if let Some(new) = text.strip_prefix(&self.emitted) {
            return Ok((all, new.to_owned()));
        }
        // A prompt that ended with half a character: it is completed now.
        for (at, last) in self.emitted.char_indices().rev().take(UNCERTAIN) {
            if last != REPLACEMENT {
                break;
            }
            if let Some(new) = text.strip_prefix(&self.emitted[..at]) {
                return Ok((at, new.to_owned()));
            }
        }
        // The new tokens changed text that is out already (byte fallback gives a whole run of
        // bytes up when one is wrong; some tokenizers tidy spaces up). They speak for themselves.
        let pending = self.decode(&self.window[self.context..])?;
        let out = &self.emitted[all - self.ahead..];
        let new = pending.strip_prefix(out).unwrap_or(&pending);
        Ok((all, new.to_owned()))
    }

    fn decode(&self, ids: &[TokenId]) -> Result<String, TokenizerError> {
        if ids.is_empty() {
            return Ok(String::new());
        }
        self.tokenizer.decode(ids, self.skip_special)
    }
}

impl std::fmt::Debug for IncrementalDecoder {
    /// Leaves the text out: it does not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncrementalDecoder")
            .field("window", &self.window.len())
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// Where the replacement characters at the end of `text` begin that may still be completed.
fn uncertain_from(text: &str) -> usize {
    text.char_indices()
        .rev()
        .take(UNCERTAIN)
        .take_while(|&(_, c)| c == REPLACEMENT)
        .last()
        .map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests;
