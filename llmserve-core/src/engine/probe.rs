//! The tokens that prompts with the same beginning have in common.
//!
//! Where a text ends in the middle of what could be one token, its own last tokens are not those of
//! a prompt that goes on. So the beginning is encoded with several continuations, and what all of
//! them have in common counts:
//!
//! ```text
//!  Review: a      [Review][:][ a]
//!  Review:  b     [Review][:][  ][b]     ─►  [Review][:]
//!  Review: 7      [Review][:][ ][7]
//! ```
//!
//! A continuation that none of these is like may share a token less. That costs what the last block
//! of a prefix takes to compute, and no more.

use super::intake::encode;
use crate::contract::prefix::Prefix;
use crate::contract::tokenizer::{Message, Tokenizer};
use crate::error::Error;
use crate::ids::TokenId;
use crate::request::Prompt;

/// What may come next: a letter, a word, a digit, a line with a character of several bytes.
const FOLLOWERS: [&str; 4] = ["a", " b", "7", "\n…"];

/// The tokens at the front of every prompt that begins with `prefix`.
///
/// # Errors
/// Those of the tokenizer and its template, if they accept fewer than two continuations.
pub(super) fn common(
    prefix: &Prefix,
    tokenizer: Option<&dyn Tokenizer>,
) -> Result<Vec<TokenId>, Error> {
    if let Prompt::Tokens(tokens) = &prefix.prompt {
        return Ok(tokens.clone());
    }
    let mut common: Option<Vec<TokenId>> = None;
    let (mut accepted, mut refused) = (0, None);
    for follower in FOLLOWERS {
        let prompt = followed(prefix, follower)?;
        match (encode(&prompt, tokenizer), &mut common) {
            (Ok(tokens), None) => common = Some(tokens),
            (Ok(tokens), Some(common)) => {
                let equal = common.iter().zip(&tokens).take_while(|(a, b)| a == b);
                common.truncate(equal.count());
                accepted += 1;
            }
            // An alphabet may lack some of them.
            (Err(error), _) => refused = Some(error),
        }
    }
    match (common, refused) {
        (Some(common), _) if accepted > 0 => Ok(common),
        (_, Some(error)) => Err(error),
        _ => Ok(Vec::new()),
    }
}

/// A prompt that begins with `prefix` and goes on with `text`.
fn followed(prefix: &Prefix, text: &str) -> Result<Prompt, Error> {
    let mut prompt = prefix.prompt.clone();
    match &mut prompt {
        Prompt::Tokens(_) => {}
        Prompt::Text(beginning) => beginning.push_str(text),
        Prompt::Messages(messages) if prefix.open => match messages.last_mut() {
            Some(last) => last.content.push_str(text),
            None => {
                return Err(Error::invalid_request(
                    "prompt",
                    "no message is there to go on: give one, or a prefix that is not open",
                ));
            }
        },
        Prompt::Messages(messages) => {
            // Templates want turns, and most of them a user's at the end.
            if messages.last().is_some_and(|last| last.role == "user") {
                messages.push(Message::assistant(text));
            }
            messages.push(Message::user(text));
        }
    }
    Ok(prompt)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::contract::tokenizer::{RenderOptions, TokenizerError};

    /// Pairs of the same character are one token; messages alternate, from a user's on.
    struct Pairs;

    impl Tokenizer for Pairs {
        fn encode(&self, text: &str, special: bool) -> Result<Vec<TokenId>, TokenizerError> {
            let mut tokens: Vec<TokenId> = if special { vec![0] } else { vec![] };
            let mut rest = text.chars().peekable();
            while let Some(next) = rest.next() {
                if !next.is_ascii() {
                    return Err(TokenizerError::Codec(format!("{next} is unknown")));
                }
                let pair = rest.next_if_eq(&next).is_some();
                tokens.push(2 * next as u32 + u32::from(pair));
            }
            Ok(tokens)
        }

        fn decode(&self, _: &[TokenId], _: bool) -> Result<String, TokenizerError> {
            Ok(String::new())
        }

        fn render(&self, all: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
            let mut text = String::new();
            for (nth, message) in all.iter().enumerate() {
                if message.role != ["user", "assistant"][nth % 2] {
                    return Err(TokenizerError::Template("roles must alternate".into()));
                }
                text += &format!("<{}>", message.content);
            }
            Ok(text + "!")
        }
    }

    fn of(prefix: &Prefix) -> Vec<TokenId> {
        common(prefix, Some(&Pairs)).unwrap()
    }

    fn codes(text: &str, special: bool) -> Vec<TokenId> {
        Pairs.encode(text, special).unwrap()
    }

    #[test]
    fn a_token_that_may_still_grow_does_not_count() {
        assert_eq!(of(&Prefix::text("xyz")), codes("xyz", true));
        for end in ["a", " ", "7"] {
            let text = format!("xyz{end}");
            assert_eq!(of(&Prefix::text(text)), codes("xyz", true), "{end:?}");
        }
        assert_eq!(of(&Prefix::text("")), [0]);
    }

    #[test]
    fn messages_end_where_the_next_begins_and_open_ones_within_the_last() {
        let asked = [Message::user("xy")];
        assert_eq!(of(&Prefix::messages(asked.clone())), codes("<xy><", false));
        assert_eq!(of(&Prefix::messages(asked).open()), codes("<xy", false));
        let answered = [Message::user("x"), Message::assistant("y")];
        assert_eq!(of(&Prefix::messages(answered)), codes("<x><y><", false));
        assert_eq!(of(&Prefix::messages([])), codes("<", false));
    }

    #[test]
    fn what_no_continuation_makes_a_prompt_is_refused() {
        let refused = |prefix: &Prefix| common(prefix, Some(&Pairs)).unwrap_err();
        let system = Prefix::messages([Message::system("x")]);
        assert!(matches!(refused(&system), Error::Tokenizer(_)));
        assert!(matches!(refused(&Prefix::text("é")), Error::Tokenizer(_)));
        let nothing = Prefix::messages([]).open();
        assert!(matches!(
            refused(&nothing),
            Error::InvalidRequest {
                field: "prompt",
                ..
            }
        ));
        assert!(common(&Prefix::text("x"), None).is_err());
        let tokens = Prefix::new(Prompt::Tokens(vec![5, 5]));
        assert_eq!(common(&tokens, None).unwrap(), [5, 5]);
    }
}
