//! What the library has to know of a tokenizer.

use std::sync::Arc;

use llguidance::token_bytes_from_tokenizer_json;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llmserve_core::{TokenId, Tokenizer};
use serde_json::Value;

use crate::tokenizer::HfTokenizer;

/// Stands before a text, so that no space is put before it or taken for the beginning's.
const SENTINEL: &str = "\u{1}";

/// The library's view of a tokenizer, for a model with `vocab_size` rows.
///
/// # Errors
/// Why the tokenizer's tokens have no bytes.
pub(super) fn environment(
    tokenizer: &Arc<HfTokenizer>,
    vocab_size: usize,
    eos: &[TokenId],
) -> Result<TokEnv, String> {
    let json = tokenizer.to_json()?;
    let json: Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let mut bytes = token_bytes_from_tokenizer_json(&json).map_err(|error| error.to_string())?;
    // Ids that the model has no row for cannot be picked; rows without a token are never allowed.
    bytes.resize(vocab_size, Vec::new());
    let size = u32::try_from(vocab_size).map_err(|error| error.to_string())?;
    let eos: Vec<_> = eos.iter().copied().filter(|token| *token < size).collect();
    for token in &eos {
        // An end token is no text, even where the tokenizer does not call it special.
        let bytes = &mut bytes[*token as usize];
        if bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
    }
    let none = llguidance::toktrie::INVALID_TOKEN;
    let info = TokRxInfo::new(size, eos.first().copied().unwrap_or(none));
    let mut trie = TokTrie::from(&info, &bytes);
    if !eos.is_empty() {
        trie = trie.with_eos_tokens(&eos);
    }
    Ok(Arc::new(Environment {
        tokenizer: tokenizer.clone(),
        trie,
    }))
}

struct Environment {
    tokenizer: Arc<HfTokenizer>,
    trie: TokTrie,
}

impl Environment {
    /// The tokens the model's own tokenizer writes `text` with. Where that is not told, because the
    /// text reads like a special token, the longest tokens that fit: the answer is the same text.
    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        self.encode(text, 0)
            .or_else(|| {
                let marked = format!("{SENTINEL}{text}");
                let skip = [SENTINEL.len(), SENTINEL.len() + 1];
                skip.into_iter().find_map(|skip| self.encode(&marked, skip))
            })
            .unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
    }

    /// The tokens of `text` after its first `skip` bytes, counted with a space put before it; none
    /// if they do not stand for what is left of it.
    fn encode(&self, text: &str, skip: usize) -> Option<Vec<TokenId>> {
        let mut tokens = self.tokenizer.encode(text, false).ok()?;
        let mut skipped = 0;
        let mut first = 0;
        while skipped < skip {
            skipped += self.trie.token_len(*tokens.get(first)?);
            first += 1;
        }
        tokens.drain(..first);
        let wanted = &text.as_bytes()[skip.min(SENTINEL.len())..];
        (skipped == skip && self.stands_for(&tokens, wanted)).then_some(tokens)
    }

    fn stands_for(&self, tokens: &[TokenId], mut text: &[u8]) -> bool {
        for token in tokens {
            if *token as usize >= self.trie.vocab_size() {
                return false;
            }
            match text.strip_prefix(self.trie.token(*token)) {
                Some(rest) => text = rest,
                None => return false,
            }
        }
        text.is_empty()
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let tokenize = |text: &str| self.tokenize(text);
        self.trie.tokenize_with_greedy_fallback(bytes, tokenize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn texts_are_written_as_the_tokenizer_writes_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/bard-2m");
        let tokenizer = HfTokenizer::from_dir(Path::new(path)).unwrap().unwrap();
        let tokenizer = Arc::new(tokenizer);
        let env = environment(&tokenizer, tokenizer.vocab_size() + 7, &[1]).unwrap();
        let trie = env.tok_trie();
        assert_eq!(trie.vocab_size(), tokenizer.vocab_size() + 7);
        for text in ["HAMLET", " the king", "{\"a\": 12}", "\n\n", "é ☃", "x"] {
            let tokens = env.tokenize_bytes(text.as_bytes());
            assert_eq!(tokens, tokenizer.encode(text, false).unwrap(), "{text}");
            assert_eq!(trie.decode_raw(&tokens), text.as_bytes());
        }
        // Not the end token, whatever the text says.
        let tokens = env.tokenize_bytes(b"<|eos|>");
        assert!(!tokens.contains(&1) && trie.decode_raw(&tokens) == b"<|eos|>");
        // Half a character.
        let tokens = env.tokenize_bytes(b"a\xc3");
        assert_eq!(trie.decode_raw(&tokens), b"a\xc3");
        assert!(trie.is_special_token(1) && trie.eos_tokens() == [1]);
    }
}
