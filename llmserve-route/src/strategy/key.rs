//! What belongs together, as a number.

use llmserve_core::{Prompt, Request};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of text, or a quarter as many tokens, that a key of a prompt is made from.
const PREFIX_BYTES: usize = 256;

/// What requests are kept together by, so that the same replica answers them. Always besides the
/// model and the tenant: KV is shared across neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyBy {
    /// The [session](llmserve_core::Routing::session); without one the tenant; without either
    /// there is no key.
    Session,
    /// The session; without one the beginning of the prompt: 256 bytes, or 64 tokens. Of a
    /// conversation, those of its first message by the user: system prompts are the same for
    /// everybody.
    #[default]
    SessionOrPrompt,
}

impl KeyBy {
    /// The key of a request; none where it has nothing to go by.
    ///
    /// ```
    /// use llmserve_core::{Request, Routing};
    /// use llmserve_route::KeyBy;
    /// let ask = |text: &str| Request::text(text).routing(Routing::default().session("s"));
    /// assert_eq!(KeyBy::Session.key(&ask("one")), KeyBy::Session.key(&ask("two")));
    /// assert_eq!(KeyBy::Session.key(&Request::text("one")), None);
    /// assert!(KeyBy::SessionOrPrompt.key(&Request::text("one")).is_some());
    /// ```
    pub fn key(self, request: &Request) -> Option<u64> {
        let mut hasher = Xxh3::new();
        // Each part with its length, so that no two sequences of parts look alike.
        let part = |hasher: &mut Xxh3, bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let optional = |hasher: &mut Xxh3, text: &Option<String>| {
            hasher.update(&[u8::from(text.is_some())]);
            part(hasher, text.as_deref().unwrap_or_default().as_bytes());
        };
        optional(&mut hasher, &request.model);
        optional(&mut hasher, &request.tenant);
        if let Some(session) = &request.routing.session {
            hasher.update(&[1]);
            part(&mut hasher, session.as_bytes());
            return Some(hasher.digest());
        }
        if self == KeyBy::Session {
            request.tenant.as_ref()?;
            hasher.update(&[2]);
            return Some(hasher.digest());
        }
        let head = |text: &str| text.len().min(PREFIX_BYTES);
        match &request.prompt {
            Prompt::Text(text) if !text.is_empty() => {
                hasher.update(&[3]);
                part(&mut hasher, &text.as_bytes()[..head(text)]);
            }
            Prompt::Tokens(tokens) if !tokens.is_empty() => {
                hasher.update(&[4]);
                for token in tokens.iter().take(PREFIX_BYTES / 4) {
                    hasher.update(&token.to_le_bytes());
                }
            }
            Prompt::Messages(messages) => {
                let first = messages.iter().find(|message| message.role == "user");
                let text = &first.or(messages.first())?.content;
                hasher.update(&[5]);
                part(&mut hasher, &text.as_bytes()[..head(text)]);
            }
            _ => return None,
        }
        Some(hasher.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::{Message, Routing};

    #[test]
    fn what_shares_kv_shares_a_key() {
        let key = |request: &Request| KeyBy::SessionOrPrompt.key(request);
        let chat = |turns: &[&str]| {
            let mut messages = vec![Message::system("You help.")];
            messages.extend(turns.iter().map(|turn| Message::user(*turn)));
            Request::messages(messages)
        };
        assert_eq!(key(&chat(&["a"])), key(&chat(&["a", "b"])));
        assert_ne!(key(&chat(&["a"])), key(&chat(&["b"])));
        assert_ne!(key(&chat(&["a"])), key(&chat(&["a"]).tenant("t")));
        assert_ne!(key(&chat(&["a"])), key(&chat(&["a"]).model("m")));
        let long = |end: &str| Request::text("é".repeat(200) + end);
        assert_eq!(key(&long("1")), key(&long("2")));
        let tokens = |end| Request::tokens([vec![7; 64], vec![end]].concat());
        assert_eq!(key(&tokens(1)), key(&tokens(2)));
        assert_eq!(key(&Request::text("")), None);
        assert_eq!(key(&Request::messages([])), None);
        // A session or a tenant is no part of the other.
        let session = |s: &str| Request::text("x").routing(Routing::default().session(s));
        let by = |request: &Request| KeyBy::Session.key(request);
        assert_ne!(by(&session("t")), by(&Request::text("x").tenant("t")));
        assert_ne!(
            by(&session("ab").tenant("c")),
            by(&session("b").tenant("ca"))
        );
    }
}
