//! How many tokens a request may cost, guessed without a tokenizer.

use llmserve_core::{Prompt, Request};

/// English text runs at about four bytes a token with the byte-pair vocabularies of current
/// models; other scripts and code run lower. Good enough to tell a page from a book.
const BYTES_PER_TOKEN: usize = 4;

/// A completion counts as at most this many tokens, whatever it may ask for: clients set
/// `max_tokens` far above what they get. The bound SGLang's admission uses.
const COMPLETION_CLIP: usize = 4_096;

/// A guess at the tokens a request will occupy: its prompt, and `n` completions of `max_tokens`,
/// clipped at 4,096 each (also where `max_tokens` is not given).
///
/// A prompt of tokens is counted, text and messages are taken as four bytes a token. At most
/// `u32::MAX`, so that sums stay far from overflow.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::estimated_tokens;
/// assert_eq!(estimated_tokens(&Request::tokens([1, 2, 3]).max_tokens(5)), 8);
/// assert_eq!(estimated_tokens(&Request::text("twelve bytes").max_tokens(5).n(2)), 3 + 10);
/// ```
pub fn estimated_tokens(request: &Request) -> u64 {
    let completion = request
        .max_tokens
        .unwrap_or(COMPLETION_CLIP)
        .min(COMPLETION_CLIP);
    let completions = completion.saturating_mul(request.n);
    let completions = u64::try_from(completions).unwrap_or(u64::MAX);
    let total = prompt_tokens(request).saturating_add(completions);
    total.min(u64::from(u32::MAX))
}

/// A guess at the tokens of a request's prompt, as [`estimated_tokens`] counts them.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::prompt_tokens;
/// assert_eq!(prompt_tokens(&Request::tokens([1, 2, 3]).max_tokens(5)), 3);
/// ```
pub fn prompt_tokens(request: &Request) -> u64 {
    let prompt: usize = match &request.prompt {
        Prompt::Tokens(tokens) => tokens.len(),
        Prompt::Text(text) => text.len().div_ceil(BYTES_PER_TOKEN),
        Prompt::Messages(messages) => messages
            .iter()
            .map(|message| (message.role.len() + message.content.len()).div_ceil(BYTES_PER_TOKEN))
            .sum(),
        // A kind of prompt this crate does not know yet: its completions still count.
        _ => 0,
    };
    (prompt as u64).min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::Message;

    #[test]
    fn unbounded_and_absurd_requests_are_clipped() {
        assert_eq!(estimated_tokens(&Request::tokens([1])), 1 + 4_096);
        assert_eq!(
            estimated_tokens(&Request::tokens([1]).max_tokens(usize::MAX)),
            1 + 4_096
        );
        let absurd = Request::tokens([1]).max_tokens(usize::MAX).n(usize::MAX);
        assert_eq!(estimated_tokens(&absurd), u64::from(u32::MAX));
    }

    #[test]
    fn every_message_counts() {
        let request = Request::messages([Message::user("1234"), Message::assistant("123")]);
        // "user" and four bytes: 2; "assistant" and three bytes: 3.
        assert_eq!(estimated_tokens(&request.max_tokens(1)), 2 + 3 + 1);
    }
}
