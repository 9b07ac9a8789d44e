//! Exactly, as engines do.

use std::sync::Arc;

use llmserve_core::{BlockIdentity, Extras, IdentityRoot, Prompt, RenderOptions, Request};
use llmserve_core::{TokenId, Tokenizer};

use super::Identify;

/// The very identities that engines of llmserve announce in their
/// [`BlockEvent`](llmserve_core::BlockEvent)s: for routers in one process with their engines, or
/// before remote ones that pass their events on.
///
/// Right only for replicas whose weights, KV layout and block size are those of the root. Prompts
/// of text and messages need the model's [tokenizer](Self::tokenizer); without it, or where it
/// fails, nothing is known of them.
///
/// ```
/// use llmserve_core::{Extras, IdentityRoot, Request};
/// use llmserve_route::{Identify, TokenBlocks};
/// let root = IdentityRoot::new(0x5eed, "f32", 4);
/// let blocks = TokenBlocks::new(root, 4).identify(&Request::tokens([1, 2, 3, 4, 5]));
/// assert_eq!(blocks, [root.first(&Extras::default(), &[1, 2, 3, 4])]);
/// ```
#[derive(Clone)]
pub struct TokenBlocks {
    root: IdentityRoot,
    block_size: usize,
    tokenizer: Option<Arc<dyn Tokenizer>>,
}

impl TokenBlocks {
    /// Blocks of `block_size` tokens, chained from `root`. A size of 0 is taken as 1.
    pub fn new(root: IdentityRoot, block_size: usize) -> Self {
        Self {
            root,
            block_size: block_size.max(1),
            tokenizer: None,
        }
    }

    /// What makes tokens of text and messages.
    pub fn tokenizer(mut self, tokenizer: Arc<dyn Tokenizer>) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    fn encode(&self, text: &str, add_special: bool) -> Option<Vec<TokenId>> {
        self.tokenizer.as_ref()?.encode(text, add_special).ok()
    }

    /// The prompt's tokens, as the engine will see them.
    fn tokens(&self, prompt: &Prompt) -> Option<Vec<TokenId>> {
        match prompt {
            Prompt::Tokens(tokens) => Some(tokens.clone()),
            Prompt::Text(text) => self.encode(text, true),
            Prompt::Messages(messages) => {
                let tokenizer = self.tokenizer.as_ref()?;
                let text = tokenizer.render(messages, &RenderOptions::default());
                self.encode(&text.ok()?, false)
            }
            _ => None,
        }
    }
}

impl Identify for TokenBlocks {
    fn identify(&self, request: &Request) -> Vec<BlockIdentity> {
        let mut tokens = self.tokens(&request.prompt).unwrap_or_default();
        if !tokens.is_empty() {
            tokens.extend(&request.resume);
        }
        let extras = match &request.tenant {
            Some(tenant) => Extras::default().tenant(tenant),
            None => Extras::default(),
        };
        let mut before: Option<BlockIdentity> = None;
        let blocks = tokens.chunks_exact(self.block_size).map(|tokens| {
            let identity = match before {
                Some(before) => before.next(tokens),
                None => self.root.first(&extras, tokens),
            };
            before = Some(identity);
            identity
        });
        blocks.collect()
    }

    fn block_tokens(&self) -> usize {
        self.block_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::{Message, TokenizerError};

    /// A token a byte; 1 stands at the beginning of framed text.
    struct Bytes;

    impl Tokenizer for Bytes {
        fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError> {
            let special = add_special.then_some(1);
            Ok(special
                .into_iter()
                .chain(text.bytes().map(u32::from))
                .collect())
        }
        fn decode(&self, _: &[TokenId], _: bool) -> Result<String, TokenizerError> {
            Err(TokenizerError::Codec("not here".into()))
        }
        fn render(&self, of: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
            if of.is_empty() {
                return Err(TokenizerError::NoTemplate);
            }
            Ok(of.iter().map(|message| message.content.as_str()).collect())
        }
    }

    #[test]
    fn tokens_text_and_messages_meet_where_their_tokens_do() {
        let root = IdentityRoot::new(1, "f32", 2);
        let plain = TokenBlocks::new(root, 2);
        let whole = TokenBlocks::new(root, 2).tokenizer(Arc::new(Bytes));
        let of = |tokens: &[u32]| plain.identify(&Request::tokens(tokens));
        assert_eq!(of(&[7]), []);
        assert_eq!(of(&[7, 8, 9, 10]).len(), 2);
        assert_eq!(of(&[7, 8, 9])[0], of(&[7, 8])[0]);
        assert_ne!(of(&[6, 8, 9, 10])[1], of(&[7, 8, 9, 10])[1]);
        let text = whole.identify(&Request::text("abc"));
        assert_eq!(text, of(&[1, 97, 98, 99]));
        let chat = Request::messages([Message::user("ab"), Message::user("cd")]);
        assert_eq!(whole.identify(&chat), of(&[97, 98, 99, 100]));
        // What is generated already is part of what will be computed.
        let resumed = Request::tokens([7, 8, 9]).resume([10]);
        assert_eq!(plain.identify(&resumed), of(&[7, 8, 9, 10]));
        assert_ne!(
            plain.identify(&Request::tokens([7, 8]).tenant("t")),
            of(&[7, 8])
        );
        // Nothing is known of what cannot be encoded.
        assert_eq!(plain.identify(&Request::text("abc")), []);
        assert_eq!(whole.identify(&Request::messages([]).resume([1, 2])), []);
    }
}
