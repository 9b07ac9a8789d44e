//! What a request asks, apart from how it is put.

use std::sync::OnceLock;

use llmserve_core::{Message, Prompt, Request};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::key::Key;

/// A request's last user turn, and a name for all the rest of it.
pub(crate) struct Question {
    /// Everything that must be equal, byte for byte, for two requests to be compared at all.
    pub(crate) namespace: u128,
    pub(crate) text: String,
    /// Once it is known.
    pub(crate) vector: OnceLock<Vec<f32>>,
}

impl Question {
    /// The question of a request with a key; none where only an equal request will do: its prompt
    /// is no conversation that ends with the user, the turn is longer than `longest` bytes, or
    /// logprobs of the prompt itself are wanted.
    /// `tags` tells apart what is invalidated apart.
    pub(crate) fn of(
        namespace: &str,
        request: &Request,
        tags: u64,
        longest: usize,
    ) -> Option<Self> {
        let Prompt::Messages(messages) = &request.prompt else {
            return None;
        };
        let (last, earlier) = messages.split_last()?;
        let asks = last.role == "user" && !last.content.trim().is_empty();
        if !asks || last.content.len() > longest || request.prompt_logprobs.is_some() {
            return None;
        }
        // A role that no request has, so that no request has this key.
        let blank = Message::new("\u{0}question", "");
        let rest = earlier.iter().cloned().chain([blank]).collect();
        let rest = Key::of(namespace, request, &Prompt::Messages(rest))?;
        Some(Self {
            namespace: xxh3_128_with_seed(rest.bytes(), tags),
            text: last.content.clone(),
            vector: OnceLock::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: &Request) -> Option<(u128, String)> {
        Question::of("", request, 0, 100).map(|question| (question.namespace, question.text))
    }

    #[test]
    fn only_the_last_user_turn_is_compared() {
        let ask = |system: &str, text: &str| {
            Request::messages([Message::system(system), Message::user(text)])
        };
        let (namespace, text) = of(&ask("s", "a")).unwrap();
        assert_eq!(text, "a");
        assert_eq!(of(&ask("s", "b")).unwrap().0, namespace);
        assert_ne!(of(&ask("t", "a")).unwrap().0, namespace);
        let other: [fn(Request) -> Request; 5] = [
            |request| request.tenant("x"),
            |request| request.model("x"),
            |request| request.max_tokens(1),
            |request| request.seed(1),
            |request| request.stop("x"),
        ];
        for change in other {
            assert_ne!(of(&change(ask("s", "a"))).unwrap().0, namespace);
        }
        // Two turns are not one, wherever the seam is.
        let turns = |texts: &[&str]| {
            let turns: Vec<_> = texts.iter().map(|text| Message::user(*text)).collect();
            of(&Request::messages(turns)).unwrap().0
        };
        assert_ne!(turns(&["a", "b"]), turns(&["b"]));
        assert_ne!(turns(&["a", "", "b"]), turns(&["a", "b"]));
    }

    #[test]
    fn what_is_no_question_has_none() {
        let none = [
            Request::text("a"),
            Request::tokens([1]),
            Request::messages([]),
            Request::messages([Message::system("a")]),
            Request::messages([Message::user("a"), Message::assistant("b")]),
            Request::messages([Message::user(" \n")]),
            Request::messages([Message::user("long ".repeat(21))]),
        ];
        for request in none {
            assert!(of(&request).is_none());
        }
        let mut request = Request::messages([Message::user("a")]);
        assert!(of(&request).is_some());
        request.prompt_logprobs = Some(0);
        assert!(of(&request).is_none());
    }
}
