//! A prompt as bytes of which a beginning is the beginning of a prompt.
//!
//! ```text
//!  scope    kind, tenant, model                    each with its length: whole or not there
//!  text     its bytes
//!  tokens   four bytes each
//!  messages role FE content FF   role FE content FF …    bytes that no UTF-8 has
//! ```

use llmserve_core::{Message, Prefix, Prompt, TokenId};

const TEXT: u8 = 0;
const TOKENS: u8 = 1;
const MESSAGES: u8 = 2;
const ROLE_ENDS: u8 = 0xfe;
const MESSAGE_ENDS: u8 = 0xff;

/// A prompt on its way through the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) bytes: Vec<u8>,
    /// Bytes of the scope.
    pub(super) scope: usize,
}

impl Path {
    /// The path of a prompt, of which at most `reach` bytes count.
    pub(super) fn new(
        prompt: &Prompt,
        tenant: Option<&str>,
        model: Option<&str>,
        reach: usize,
    ) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(match prompt {
            Prompt::Text(_) => TEXT,
            Prompt::Tokens(_) => TOKENS,
            _ => MESSAGES,
        });
        for name in [tenant, model] {
            bytes.push(u8::from(name.is_some()));
            let name = name.unwrap_or_default();
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        let scope = bytes.len();
        let most = scope.saturating_add(reach);
        let mut put = |part: &[u8]| {
            let room = most.saturating_sub(bytes.len());
            bytes.extend_from_slice(&part[..part.len().min(room)]);
            room > part.len()
        };
        match prompt {
            Prompt::Text(text) => {
                put(text.as_bytes());
            }
            Prompt::Tokens(tokens) => {
                let _ = tokens.iter().all(|token| put(&token.to_le_bytes()));
            }
            Prompt::Messages(messages) => {
                let _ = messages.iter().all(|message| {
                    put(message.role.as_bytes())
                        && put(&[ROLE_ENDS])
                        && put(message.content.as_bytes())
                        && put(&[MESSAGE_ENDS])
                });
            }
            // A prompt of a kind that is not known here shares nothing.
            _ => {}
        }
        Self { bytes, scope }
    }

    /// The path of what prompts begin with.
    pub(super) fn of(prefix: &Prefix, reach: usize) -> Self {
        let (tenant, model) = (prefix.tenant.as_deref(), prefix.model.as_deref());
        let mut path = Self::new(&prefix.prompt, tenant, model, reach);
        if prefix.open && path.bytes.last() == Some(&MESSAGE_ENDS) {
            path.bytes.pop();
        }
        path
    }
}

/// The prefix that the first bytes of some path stand for, and how many bytes of prompt it has. None
/// where they are no whole scope and something behind it.
pub(super) fn prefix(bytes: &[u8]) -> Option<(Prefix, usize)> {
    let mut rest = bytes;
    let kind = take(&mut rest, 1)?[0];
    let mut names = [None, None];
    for name in &mut names {
        let there = take(&mut rest, 1)?[0] == 1;
        let length: [u8; 8] = take(&mut rest, 8)?.try_into().ok()?;
        let text = take(&mut rest, usize::try_from(u64::from_le_bytes(length)).ok()?)?;
        let text = std::str::from_utf8(text).ok()?.to_owned();
        *name = there.then_some(text);
    }
    let mut prefix = match kind {
        TEXT => Prefix::text(whole_characters(rest)),
        TOKENS => {
            let tokens = rest.as_chunks::<4>().0;
            let tokens = tokens.iter().map(|bytes| TokenId::from_le_bytes(*bytes));
            Prefix::new(Prompt::Tokens(tokens.collect()))
        }
        MESSAGES => conversation(rest),
        _ => return None,
    };
    [prefix.tenant, prefix.model] = names;
    let length = match &prefix.prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => tokens.len() * size_of::<TokenId>(),
        Prompt::Messages(messages) => messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum(),
        _ => 0,
    };
    (length > 0).then_some((prefix, length))
}

/// Whole messages, and the beginning of one more if anything of it is there.
fn conversation(mut rest: &[u8]) -> Prefix {
    let mut messages = Vec::new();
    while let Some(role) = rest.iter().position(|byte| *byte == ROLE_ENDS) {
        let name = whole_characters(&rest[..role]);
        rest = &rest[role + 1..];
        match rest.iter().position(|byte| *byte == MESSAGE_ENDS) {
            Some(end) => {
                messages.push(Message::new(name, whole_characters(&rest[..end])));
                rest = &rest[end + 1..];
            }
            None => {
                let content = whole_characters(rest);
                if content.is_empty() {
                    break;
                }
                messages.push(Message::new(name, content));
                return Prefix::messages(messages).open();
            }
        }
    }
    Prefix::messages(messages)
}

/// The text, less the beginning of a character at its end.
fn whole_characters(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned(),
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(prompt: &Prompt) -> Path {
        Path::new(prompt, Some("t"), None, usize::MAX)
    }

    #[test]
    fn a_beginning_of_the_bytes_is_a_beginning_of_the_prompt() {
        let messages = [Message::system("Sei kürzer"), Message::user("Wo?")];
        let whole = path(&Prompt::Messages(messages.to_vec()));
        let at = |end: usize| prefix(&whole.bytes[..end]).map(|(prefix, _)| prefix);
        let system = whole.scope + "system".len() + 1;
        assert_eq!(at(whole.scope), None);
        assert_eq!(at(system), None, "a role is nothing");
        let open = |text: &str| Prefix::messages([Message::system(text)]).open().tenant("t");
        assert_eq!(at(system + 3), Some(open("Sei")));
        assert_eq!(at(system + 6), Some(open("Sei k")), "half a character");
        let closed = Prefix::messages([messages[0].clone()]).tenant("t");
        let end = system + "Sei kürzer".len() + 1;
        for more in 0..=5 {
            assert_eq!(
                at(end + more),
                Some(closed.clone()),
                "{more} bytes of a role"
            );
        }
        assert_eq!(
            at(whole.bytes.len()),
            Some(Prefix::messages(messages).tenant("t"))
        );
    }

    fn prompts() -> impl Strategy<Value = Prompt> {
        let message = ("[a-zé]{0,3}", ".{0,6}").prop_map(|(role, text)| Message::new(role, text));
        prop_oneof![
            ".{0,9}".prop_map(Prompt::Text),
            prop::collection::vec(any::<u32>(), 0..5).prop_map(Prompt::Tokens),
            prop::collection::vec(message, 0..4).prop_map(Prompt::Messages),
        ]
    }

    proptest! {
        #[test]
        fn paths_and_prefixes_are_each_others(prompt in prompts(), reach in 0..40usize) {
            let whole = path(&prompt);
            if let Some((prefix, _)) = prefix(&whole.bytes) {
                prop_assert_eq!(&Path::of(&prefix, usize::MAX), &whole);
                prop_assert_eq!(prefix.prompt, prompt.clone());
            }
            let cut = Path::new(&prompt, Some("t"), None, reach);
            prop_assert!(cut.bytes.len() <= cut.scope + reach);
            prop_assert!(whole.bytes.starts_with(&cut.bytes));
            // What part of it stands for is a beginning of it.
            if let Some((prefix, _)) = prefix(&cut.bytes) {
                prop_assert!(whole.bytes.starts_with(&Path::of(&prefix, usize::MAX).bytes));
            }
        }

        #[test]
        fn any_bytes_are_a_prefix_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = prefix(&bytes);
        }
    }
}
