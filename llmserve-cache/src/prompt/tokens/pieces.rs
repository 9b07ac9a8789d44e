//! Pieces of texts and their tokens, within a number of bytes.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use llmserve_core::TokenId;
use moka::sync::Cache;
use xxhash_rust::xxh3::xxh3_128;

use crate::store::memory::{ENTRY_OVERHEAD, KeyHash};

/// What a piece takes besides its text and its tokens.
pub(super) const OVERHEAD: usize = ENTRY_OVERHEAD;

pub(super) struct Pieces(Cache<u128, Arc<Piece>, BuildHasherDefault<KeyHash>>);

struct Piece {
    text: Box<str>,
    ids: Box<[TokenId]>,
}

impl Piece {
    fn weight(&self) -> u32 {
        let bytes = self.text.len() + size_of_val(&*self.ids) + OVERHEAD;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl Pieces {
    pub(super) fn new(max_bytes: usize) -> Self {
        let cache = Cache::builder()
            .max_capacity(max_bytes as u64)
            .weigher(|_, piece: &Arc<Piece>| piece.weight())
            .build_with_hasher(BuildHasherDefault::default());
        Self(cache)
    }

    /// Appends the tokens of `text`, if they are known.
    pub(super) fn append(&self, text: &str, ids: &mut Vec<TokenId>) -> bool {
        self.append_of(xxh3_128(text.as_bytes()), text, ids)
    }

    fn append_of(&self, hash: u128, text: &str, ids: &mut Vec<TokenId>) -> bool {
        let piece = self.0.get(&hash);
        let Some(piece) = piece.filter(|piece| *piece.text == *text) else {
            return false;
        };
        ids.extend_from_slice(&piece.ids);
        true
    }

    pub(super) fn keep(&self, text: &str, ids: Vec<TokenId>) {
        self.keep_as(xxh3_128(text.as_bytes()), text, ids);
    }

    fn keep_as(&self, hash: u128, text: &str, ids: Vec<TokenId>) {
        let piece = Piece {
            text: text.into(),
            ids: ids.into(),
        };
        self.0.insert(hash, Arc::new(piece));
    }

    /// Pieces and their bytes, as of lately.
    pub(super) fn about_held(&self) -> (usize, usize) {
        let (entries, bytes) = (self.0.entry_count(), self.0.weighted_size());
        (entries as usize, bytes as usize)
    }

    /// Pieces and their bytes: what moka has put off is done first.
    pub(super) fn held(&self) -> (usize, usize) {
        self.0.run_pending_tasks();
        self.about_held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_two_texts_share_is_not_enough() {
        let pieces = Pieces::new(1 << 20);
        pieces.keep_as(7, "one", vec![1]);
        let mut ids = vec![9];
        assert!(!pieces.append_of(7, "two", &mut ids));
        assert!(pieces.append_of(7, "one", &mut ids));
        pieces.keep_as(7, "two", vec![2, 2]);
        assert!(!pieces.append_of(7, "one", &mut ids));
        assert!(pieces.append_of(7, "two", &mut ids));
        assert_eq!(ids, [9, 1, 2, 2]);
    }

    #[test]
    fn bytes_are_bounded() {
        let most = 20_000;
        let pieces = Pieces::new(most);
        for number in 0..1_000 {
            let text = format!("{number:0300}");
            pieces.keep(&text, vec![number; 50]);
            let (_, bytes) = pieces.held();
            assert!(bytes <= most, "{bytes}");
        }
        let (entries, bytes) = pieces.held();
        assert!(entries >= 20 && bytes == entries * (300 + 200 + OVERHEAD));
        pieces.keep(&"x".repeat(most), vec![1]);
        assert!(pieces.held().1 <= most);
    }

    #[test]
    fn what_is_asked_for_is_not_flushed_by_what_comes_once() {
        let pieces = Pieces::new(100 * (10 + 4 + OVERHEAD));
        let mut ids = Vec::new();
        let often: Vec<_> = (0..50).map(|n| format!("often {n:04}")).collect();
        for _ in 0..10 {
            for text in &often {
                if !pieces.append(text, &mut ids) {
                    pieces.keep(text, vec![1]);
                }
            }
            pieces.held();
        }
        for number in 0..5_000 {
            pieces.keep(&format!("{number:010}"), vec![2]);
            pieces.held();
        }
        let left = often.iter().filter(|text| pieces.append(text, &mut ids));
        assert_eq!(left.count(), often.len());
    }
}
