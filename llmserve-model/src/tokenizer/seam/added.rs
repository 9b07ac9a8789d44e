//! Seams before added tokens, such as those that begin a turn of a conversation.
//!
//! Let T be an added token with `normalized` off, and `c` a position where the text goes on with T.
//! Cutting at `c` is safe if all of these hold:
//!
//! * T begins with ASCII punctuation, and not `_`: neither whitespace nor part of a word.
//! * No added token U with `normalized` off, T among them, has a proper suffix that begins T or that
//!   T begins.
//! * No U that begins with T has `lstrip` or `single_word`.
//!
//! *No U lies across `c`.* The part of such a U behind `c` would be a proper suffix of U, and a
//! beginning of what stands at `c`: either it begins T or T begins it.
//!
//! *The search splits at `c`.* A search goes on from where the last match ended and looks neither
//! back nor further ahead than its matches. As none lies across `c`, it finds the same matches before
//! `c` whether or not the text goes on there; and at `c` the longest U that begins with T, which is
//! T or longer. That U is never discarded for want of `single_word`.
//!
//! *Nothing else reaches across.* A match before `c` with `rstrip` takes whitespace and stops before
//! T; one with `single_word` that ends at `c` finds no word behind it, as at the end of a text. The
//! match at `c` takes nothing to its left. Later matches with `lstrip` or `single_word` look no
//! further back than its end.
//!
//! So both sides give the pieces of the whole. The side behind begins with a token, which no
//! pre-tokeniser touches: its other pieces stand at an offset above 0, as they do in the whole.
//! Behind T there is no such seam: there a piece would begin at offset 0.

use tokenizers::AddedToken;

/// The texts that a seam stands before, none of which begins another, in order.
#[derive(Default)]
pub(super) struct AddedTexts(Vec<Box<[u8]>>);

impl AddedTexts {
    pub(super) fn of<'t>(tokens: impl Iterator<Item = &'t AddedToken>) -> Self {
        let tokens: Vec<_> = tokens
            .filter(|token| !token.normalized && !token.content.is_empty())
            .collect();
        let texts = || tokens.iter().map(|token| token.content.as_bytes());
        let mut suffixes: Vec<&[u8]> = texts()
            .flat_map(|text| (1..text.len()).map(|at| &text[at..]))
            .collect();
        suffixes.sort_unstable();
        let mut reaching: Vec<&[u8]> = tokens
            .iter()
            .filter(|token| token.lstrip || token.single_word)
            .map(|token| token.content.as_bytes())
            .collect();
        reaching.sort_unstable();
        let mut safe: Vec<&[u8]> = texts()
            .filter(|text| text[0].is_ascii_punctuation() && text[0] != b'_')
            .filter(|text| !any_begins_with(&suffixes, text))
            .filter(|text| (1..=text.len()).all(|n| suffixes.binary_search(&&text[..n]).is_err()))
            .filter(|text| !any_begins_with(&reaching, text))
            .collect();
        safe.sort_unstable();
        // A text that begins another stands right before all that it begins.
        safe.dedup_by(|text, shorter| text.starts_with(shorter));
        Self(safe.into_iter().map(Box::from).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them stands at `at`.
    pub(super) fn start_at(&self, bytes: &[u8], at: usize) -> bool {
        let rest = &bytes[at..];
        if !rest.first().is_some_and(u8::is_ascii_punctuation) {
            return false;
        }
        // Were there another between the text that `rest` begins with and `rest`, it would begin
        // with that text.
        let behind = self.0.partition_point(|text| &**text <= rest);
        behind > 0 && rest.starts_with(&self.0[behind - 1])
    }
}

/// Whether any of the texts, which are in order, begins with `text`.
fn any_begins_with(sorted: &[&[u8]], text: &[u8]) -> bool {
    let at = sorted.partition_point(|other| *other < text);
    sorted.get(at).is_some_and(|other| other.starts_with(text))
}
