//! Where a text may be cut without a change of its tokens.
//!
//! The library encodes a text in these steps, and a seam is a position that none of them looks
//! across:
//!
//! 1. Added tokens with `normalized` off are searched for in the whole text, leftmost first and of
//!    those the longest, and split it into pieces. Of their surroundings only `lstrip`, `rstrip` and
//!    `single_word` take note.
//! 2. Each piece is normalised, and split in the same way at the added tokens with `normalized` on.
//! 3. Each piece is split further by the pre-tokeniser, and each of what results is given to the
//!    model. Whatever comes here depends on the piece alone, with one exception: `Metaspace` with
//!    `prepend_scheme` `first` asks whether a piece begins at the text's offset 0.
//!
//! So a position where step 1 always splits is a seam for every tokeniser ([`added`]), and one where
//! step 3 always splits is one if steps 1 and 2 cannot reach across it ([`words`]). What is neither,
//! or is of a kind that has not been thought through, has no seams: a text is then encoded whole.

mod added;
mod words;

use tokenizers::models::ModelWrapper;

use added::AddedTexts;

/// Longer added tokens than any published one have.
const MAX_ADDED: usize = 256;

/// Which positions are seams, for one tokeniser.
pub(super) struct Seams {
    added: AddedTexts,
    words: bool,
}

impl Seams {
    /// No position is one.
    pub(super) fn none() -> Self {
        Self {
            added: AddedTexts::default(),
            words: false,
        }
    }

    /// Those of a tokeniser that neither truncates nor pads, and whose post-processor without
    /// `add_special` leaves the tokens as they are.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let vocabulary = tokenizer.get_added_vocabulary();
        let tokens = vocabulary.get_added_tokens_decoder();
        let short = tokens
            .values()
            .all(|token| token.content.len() <= MAX_ADDED);
        if !short || vocabulary.get_encode_special_tokens() || draws(tokenizer.get_model()) {
            return Self::none();
        }
        Self {
            added: AddedTexts::of(tokens.values()),
            words: words::are_apart(tokenizer),
        }
    }

    /// The first seam at or after `from`. Every seam stands before an ASCII character, so it is a
    /// boundary of characters.
    pub(super) fn first(&self, text: &str, from: usize) -> Option<usize> {
        if !self.words && self.added.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        (from.max(1)..bytes.len())
            .find(|&at| self.words && words::end_at(bytes, at) || self.added.start_at(bytes, at))
    }
}

/// Whether the model encodes the same piece differently each time.
fn draws(model: &ModelWrapper) -> bool {
    match model {
        ModelWrapper::BPE(bpe) => bpe.dropout.is_some_and(|p| p > 0.0),
        ModelWrapper::Unigram(unigram) => unigram.alpha.is_some_and(|alpha| alpha != 0.0),
        ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => false,
    }
}
