//! Nearly, without a tokenizer.

use llmserve_core::{BlockIdentity, Message, Prompt, Request};
use xxhash_rust::xxh3::Xxh3;

use super::Identify;

/// Bytes of a chunk.
const DEFAULT_BYTES: usize = 256;

/// Bytes that count as a token, as in [`estimated_tokens`](crate::estimated_tokens).
const BYTES_PER_TOKEN: usize = 4;

/// Identities of chunks of a prompt's text: for replicas whose tokenizer or block size is not
/// known, where a router goes by what it sent them itself.
///
/// Texts that begin alike have equal chunks as far as they are alike, rounded down; so do
/// conversations, message by message. A prompt of tokens is cut at a quarter as many tokens.
/// Chunks differ between models and between tenants. They mean nothing to an engine.
///
/// ```
/// use llmserve_core::{Message, Request};
/// use llmserve_route::{Identify, TextBlocks};
/// let blocks = TextBlocks::default();
/// let first = Request::messages([Message::user("x".repeat(600))]);
/// let second = Request::messages([Message::user("x".repeat(600)), Message::assistant("Yes.")]);
/// let (first, second) = (blocks.identify(&first), blocks.identify(&second));
/// assert_eq!(first, second[..2]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TextBlocks {
    bytes: usize,
}

impl TextBlocks {
    /// Chunks of `bytes` bytes, at least 4. Smaller ones find more and cost more.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes: bytes.max(BYTES_PER_TOKEN),
        }
    }
}

impl Default for TextBlocks {
    /// Chunks of 256 bytes, about 64 tokens.
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

/// Cuts what it is fed into chunks.
struct Chunks {
    size: usize,
    /// Bytes in the chunk that is open.
    filled: usize,
    hasher: Xxh3,
    chain: Vec<BlockIdentity>,
}

impl Chunks {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.size - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            if self.filled == self.size {
                let identity = self.hasher.digest128();
                self.chain.push(BlockIdentity::from_u128(identity));
                self.hasher.reset();
                self.hasher.update(&identity.to_le_bytes());
                self.filled = 0;
            }
            bytes = later;
        }
    }

    /// A text with its length before it does not run into the next one.
    fn part(&mut self, text: &str) {
        self.feed(&(text.len() as u64).to_le_bytes());
        self.feed(text.as_bytes());
    }
}

impl Identify for TextBlocks {
    fn identify(&self, request: &Request) -> Vec<BlockIdentity> {
        let mut hasher = Xxh3::new();
        for name in [&request.model, &request.tenant] {
            hasher.update(&[u8::from(name.is_some())]);
            let name = name.as_deref().unwrap_or_default();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
        let mut chunks = Chunks {
            size: self.bytes,
            filled: 0,
            hasher,
            chain: Vec::new(),
        };
        match &request.prompt {
            Prompt::Text(text) => chunks.feed(text.as_bytes()),
            Prompt::Messages(messages) => {
                for Message { role, content } in messages {
                    chunks.part(role);
                    chunks.part(content);
                }
            }
            Prompt::Tokens(tokens) => {
                for token in tokens {
                    chunks.feed(&token.to_le_bytes());
                }
            }
            _ => {}
        }
        chunks.chain
    }

    fn block_tokens(&self) -> usize {
        self.bytes / BYTES_PER_TOKEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_equal_as_far_as_texts_are() {
        let blocks = TextBlocks::new(8);
        let of = |text: &str| blocks.identify(&Request::text(text));
        assert_eq!(of("1234567").len(), 0);
        assert_eq!(of("12345678abcdefgh")[..1], of("12345678ABCDEFGH")[..1]);
        assert_ne!(of("12345678abcdefgh")[1], of("12345678ABCDEFGH")[1]);
        assert_ne!(of("x2345678abcdefgh")[1], of("12345678abcdefgh")[1]);
        let request = || Request::text("12345678");
        assert_ne!(blocks.identify(&request().tenant("t")), of("12345678"));
        assert_ne!(blocks.identify(&request().model("m")), of("12345678"));
        assert_ne!(
            blocks.identify(&request().model("t")),
            blocks.identify(&request().tenant("t"))
        );
        // Messages do not run into each other.
        let chat = |a: &str, b: &str| {
            blocks.identify(&Request::messages([Message::user(a), Message::user(b)]))
        };
        assert_ne!(chat("aaaa", "b"), chat("aaa", "ab"));
        assert_eq!(blocks.identify(&Request::tokens([1, 2, 3, 4, 5])).len(), 2);
        assert_eq!(blocks.block_tokens(), 2);
    }
}
