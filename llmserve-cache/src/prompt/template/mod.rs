//! Prompts with slots: what stays the same, and what does not.

mod error;
mod parse;

use std::ops::Range;

use llmserve_core::{Message, Prefix, Prompt, Request};

pub use error::TemplateError;
use parse::{Part, parse};

/// A prompt with slots, compiled once.
///
/// Knows which part of it is the same in every prompt, so that this part can be
/// [kept](llmserve_core::KeepPrefix) ready. A slot is `{{name}}`; `\{{` is two braces.
///
/// ```
/// use llmserve_cache::prompt::PromptTemplate;
///
/// let support = PromptTemplate::builder()
///     .system("You help the customers of {{company}}. Be brief.")
///     .user("{{question}}")
///     .build()?;
/// let request = support.request([("company", "Acme"), ("question", "Where is my parcel?")])?;
///
/// // What the prompts of one company begin with: all but the question.
/// let prefix = support.prefix([("company", "Acme")])?.expect("it begins with a text");
/// assert!(!prefix.open);
///
/// let forgotten = support.request([("company", "Acme")]);
/// assert_eq!(forgotten.unwrap_err().to_string(), "the template's slot `question` has no value");
/// # Ok::<(), llmserve_cache::prompt::TemplateError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTemplate {
    shape: Shape,
    slots: Vec<String>,
    refused: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Text(Vec<Part>),
    Messages(Vec<(String, Vec<Part>)>),
}

/// The messages of a [`PromptTemplate`].
#[derive(Clone, Debug, Default)]
#[must_use = "a template is made by build()"]
pub struct PromptTemplateBuilder {
    messages: Vec<(String, String)>,
    refused: Vec<String>,
}

impl PromptTemplate {
    /// A template of a conversation.
    pub fn builder() -> PromptTemplateBuilder {
        PromptTemplateBuilder::default()
    }

    /// A template of a plain text.
    ///
    /// # Errors
    /// A text that is empty, or with a slot that is not closed or has no name.
    pub fn text(text: &str) -> Result<Self, TemplateError> {
        let mut slots = Vec::new();
        let parts = parse(text, "the text", &mut slots)?;
        if parts.is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(Self {
            shape: Shape::Text(parts),
            slots,
            refused: Vec::new(),
        })
    }

    /// Texts that no value may contain, nor be a part of together with what stands beside it: those
    /// that the model reads as something else, such as the tokens that end a turn. Without, who fills
    /// a slot could forge one.
    #[must_use]
    pub fn refusing<T: Into<String>>(mut self, texts: impl IntoIterator<Item = T>) -> Self {
        refuse(&mut self.refused, texts);
        self
    }

    /// Its slots, in the order of their first use.
    pub fn slots(&self) -> &[String] {
        &self.slots
    }

    /// The prompt with these values in its slots.
    ///
    /// # Errors
    /// A slot without a value or with two, a value without a slot, a value with a text that is
    /// [refused](Self::refusing).
    pub fn fill<K: AsRef<str>, V: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Prompt, TemplateError> {
        let values = self.values(values)?;
        if let Some(slot) = values.iter().position(Option::is_none) {
            return Err(TemplateError::Missing {
                slot: self.slots[slot].clone(),
            });
        }
        let whole = |parts: &[Part]| Ok(self.checked(parts, &values)?.text);
        Ok(match &self.shape {
            Shape::Text(parts) => Prompt::Text(whole(parts)?),
            Shape::Messages(messages) => Prompt::Messages(
                messages
                    .iter()
                    .map(|(role, parts)| Ok(Message::new(role.as_str(), whole(parts)?)))
                    .collect::<Result<_, TemplateError>>()?,
            ),
        })
    }

    /// A request for an answer to the prompt with these values: see [`fill`](Self::fill).
    ///
    /// # Errors
    /// Those of [`fill`](Self::fill).
    pub fn request<K: AsRef<str>, V: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Request, TemplateError> {
        Ok(Request::new(self.fill(values)?))
    }

    /// What every prompt with these values begins with: all up to the first slot that has none
    /// here. None where nothing comes before it.
    ///
    /// # Errors
    /// Those of [`fill`](Self::fill), but for slots without a value.
    pub fn prefix<K: AsRef<str>, V: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Option<Prefix>, TemplateError> {
        let values = self.values(values)?;
        let prefix = match &self.shape {
            Shape::Text(parts) => {
                let text = self.checked(parts, &values)?.text;
                (!text.is_empty()).then(|| Prefix::text(text))
            }
            Shape::Messages(messages) => {
                let mut same = Vec::new();
                let mut open = false;
                for (role, parts) in messages {
                    let Filled { text, whole, .. } = self.checked(parts, &values)?;
                    // Of a message that begins with a slot nothing is known but its role.
                    if whole || !text.is_empty() {
                        same.push(Message::new(role.as_str(), text));
                        open = !whole;
                    }
                    if !whole {
                        break;
                    }
                }
                (!same.is_empty()).then(|| {
                    let prefix = Prefix::messages(same);
                    if open { prefix.open() } else { prefix }
                })
            }
        };
        Ok(prefix)
    }

    /// The text up to the first slot without a value, if no value has part in what is refused.
    fn checked(&self, parts: &[Part], values: &[Option<String>]) -> Result<Filled, TemplateError> {
        let filled = filled(parts, values);
        for text in &self.refused {
            if let Some(slot) = filled.slot_of(text) {
                return Err(TemplateError::Refused {
                    slot: self.slots[slot].clone(),
                    text: text.clone(),
                });
            }
        }
        Ok(filled)
    }

    /// The values in the order of the slots.
    fn values<K: AsRef<str>, V: AsRef<str>>(
        &self,
        given: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Vec<Option<String>>, TemplateError> {
        let mut values = vec![None; self.slots.len()];
        for (name, value) in given {
            let (name, value) = (name.as_ref(), value.as_ref());
            let Some(at) = self.slots.iter().position(|slot| slot == name) else {
                return Err(TemplateError::Unknown {
                    slot: name.to_owned(),
                    known: self.slots.join(", "),
                });
            };
            if values[at].replace(value.to_owned()).is_some() {
                return Err(TemplateError::Twice {
                    slot: name.to_owned(),
                });
            }
        }
        Ok(values)
    }
}

impl PromptTemplateBuilder {
    /// Adds a message of any role, with slots in its text.
    pub fn message(mut self, role: impl Into<String>, text: impl Into<String>) -> Self {
        self.messages.push((role.into(), text.into()));
        self
    }

    /// Adds standing instructions.
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message("system", text)
    }

    /// Adds what the user says.
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message("user", text)
    }

    /// Adds what the model is to have said: an example of an answer.
    pub fn assistant(self, text: impl Into<String>) -> Self {
        self.message("assistant", text)
    }

    /// See [`PromptTemplate::refusing`].
    pub fn refusing<T: Into<String>>(mut self, texts: impl IntoIterator<Item = T>) -> Self {
        refuse(&mut self.refused, texts);
        self
    }

    /// Compiles it.
    ///
    /// # Errors
    /// No message; a slot that is not closed or has no name.
    pub fn build(self) -> Result<PromptTemplate, TemplateError> {
        if self.messages.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut slots = Vec::new();
        let mut messages = Vec::with_capacity(self.messages.len());
        for (nth, (role, text)) in self.messages.into_iter().enumerate() {
            let place = format!("message {nth} ({role})");
            messages.push((role, parse(&text, &place, &mut slots)?));
        }
        Ok(PromptTemplate {
            shape: Shape::Messages(messages),
            slots,
            refused: self.refused,
        })
    }
}

/// An empty text is in every value.
fn refuse<T: Into<String>>(refused: &mut Vec<String>, texts: impl IntoIterator<Item = T>) {
    let texts = texts.into_iter().map(Into::into);
    refused.extend(texts.filter(|text: &String| !text.is_empty()));
}

/// A text, and where in it the values of which slots stand.
#[derive(Default)]
struct Filled {
    text: String,
    values: Vec<(usize, Range<usize>)>,
    /// Whether no slot is without a value.
    whole: bool,
}

/// The text up to the first slot without a value.
fn filled(parts: &[Part], values: &[Option<String>]) -> Filled {
    let mut filled = Filled::default();
    for part in parts {
        match part {
            Part::Text(plain) => filled.text.push_str(plain),
            Part::Slot(slot) => match &values[*slot] {
                Some(value) => {
                    let from = filled.text.len();
                    filled.text.push_str(value);
                    filled.values.push((*slot, from..filled.text.len()));
                }
                None => return filled,
            },
        }
    }
    filled.whole = true;
    filled
}

impl Filled {
    /// A slot whose value has part in this text, which may be put together of several values and of
    /// what stands between them.
    fn slot_of(&self, refused: &str) -> Option<usize> {
        let mut from = 0;
        while let Some(found) = self.text[from..].find(refused) {
            let start = from + found;
            let end = start + refused.len();
            let parts =
                |(_, value): &&(usize, Range<usize>)| start < value.end && end > value.start;
            if let Some((slot, _)) = self.values.iter().find(parts) {
                return Some(*slot);
            }
            // Others may begin within this one.
            from = start + self.text[start..].chars().next().map_or(1, char::len_utf8);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: [(&str, &str); 0] = [];

    fn template(text: &str) -> PromptTemplate {
        PromptTemplate::text(text).expect("a template")
    }

    fn text(prompt: Prompt) -> String {
        match prompt {
            Prompt::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_are_filled_wherever_they_stand() {
        let template = template("{{a}}-{{ b }}{{a}}{ {{{c}}} }");
        assert_eq!(template.slots(), ["a", "b", "c"].map(str::to_owned));
        let filled = template.fill([("b", "2"), ("a", "1"), ("c", "{{a}}")]);
        // A value is text, whatever stands in it.
        assert_eq!(text(filled.unwrap()), "1-21{ {{{a}}} }");
    }

    #[test]
    fn braces_can_be_meant() {
        let filled = template(r#"\{{"json": {"a": 1}}} \\{{b}}"#).fill(NONE);
        assert_eq!(text(filled.unwrap()), r#"{{"json": {"a": 1}}} \{{b}}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| PromptTemplate::text(text).unwrap_err().to_string();
        assert_eq!(
            wrong("ab{{c"),
            "`{{` at byte 2 of the text is never closed; write `\\{{` where no slot is meant"
        );
        assert!(wrong("{{}}").starts_with("`` at byte 0 of the text is no name"));
        assert!(wrong("{{1a}}").contains("`1a`"));
        assert!(wrong("{{a b}}").contains("`a b`"));
        assert!(wrong("").contains("no message and no text"));
        let template = template("{{a}}").refusing(["<|end|>", ""]);
        let fill = |values: &[(&str, &str)]| {
            template
                .fill(values.iter().copied())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(fill(&[]), "the template's slot `a` has no value");
        assert_eq!(
            fill(&[("b", "")]),
            "the template has no slot `b`; it has: a"
        );
        assert!(fill(&[("a", "1"), ("a", "1")]).contains("two values"));
        assert!(fill(&[("a", "x<|end|>y")]).contains("contains `<|end|>`"));
        let place = PromptTemplate::builder().system("s").user("{{").build();
        assert!(place.unwrap_err().to_string().contains("message 1 (user)"));
    }

    #[test]
    fn what_is_refused_cannot_be_put_together() {
        let refused = |text: &str, values: &[(&str, &str)]| {
            let template = template(text).refusing(["<|end|>", "aa"]);
            match template.fill(values.iter().copied()) {
                Err(TemplateError::Refused { slot, .. }) => Some(slot),
                Ok(_) => None,
                Err(other) => panic!("{other}"),
            }
        };
        let two = "{{x}}{{y}}";
        assert_eq!(
            refused(two, &[("x", "<|e"), ("y", "nd|>")]).as_deref(),
            Some("x")
        );
        assert_eq!(
            refused("{{x}}{{x}}", &[("x", "end|><|")]).as_deref(),
            Some("x")
        );
        assert_eq!(refused("<{{x}}>", &[("x", "|end|")]).as_deref(), Some("x"));
        assert_eq!(refused("<|{{x}}end|>", &[("x", "")]).as_deref(), Some("x"));
        assert_eq!(refused("aa{{x}}", &[("x", "a")]).as_deref(), Some("x"));
        // The template's own are meant.
        assert_eq!(refused("<|end|>{{x}}<|end|>", &[("x", "é")]), None);
        assert_eq!(refused("é<{{x}}", &[("x", "|end")]), None);
        let open = template("<|e{{x}}{{y}}").refusing(["<|end|>"]);
        assert!(open.prefix([("x", "nd|>")]).is_err());
    }

    #[test]
    fn a_prefix_ends_where_a_value_is_missing() {
        let template = PromptTemplate::builder()
            .system("Of {{company}}.")
            .user("First {{question}}")
            .build()
            .unwrap();
        let prefix = |values: &[(&str, &str)]| template.prefix(values.iter().copied()).unwrap();
        let system = |text: &str| Message::system(text);
        assert_eq!(prefix(&[]), Some(Prefix::messages([system("Of ")]).open()));
        let open = Prefix::messages([system("Of A."), Message::user("First ")]).open();
        assert_eq!(prefix(&[("company", "A")]), Some(open));
        let whole = Prefix::messages([system("Of A."), Message::user("First q")]);
        assert_eq!(prefix(&[("question", "q"), ("company", "A")]), Some(whole));

        let begins = PromptTemplate::builder().system("s").user("{{q}}").build();
        let closed = begins.unwrap().prefix(NONE).unwrap();
        assert_eq!(closed, Some(Prefix::messages([system("s")])));
        let nothing = PromptTemplate::builder().user("{{q}}").build().unwrap();
        assert_eq!(nothing.prefix(NONE).unwrap(), None);
    }

    proptest! {
        #[test]
        fn every_prompt_begins_with_the_prefix(
            pieces in prop::collection::vec(("[a-z{}\\\\ ]{0,6}", 0..3usize), 1..6),
            values in prop::array::uniform3(".{0,4}"),
            known in prop::array::uniform3(any::<bool>()),
        ) {
            let names = ["x", "y", "z"];
            let source: String = pieces.iter().map(|(t, s)| format!("{t} {{{{{}}}}}", names[*s])).collect();
            // Whatever braces stand in the text, it is a template or an error.
            let Ok(template) = PromptTemplate::text(&source) else { return Ok(()) };
            let all = || names.iter().zip(&values).filter(|(name, _)| template.slots().iter().any(|s| s == *name));
            let whole = text(template.fill(all()).unwrap());
            let some = all().zip(known).filter(|(_, known)| *known).map(|(pair, _)| pair);
            if let Some(prefix) = template.prefix(some).unwrap() {
                prop_assert!(whole.starts_with(&text(prefix.prompt)));
            }
        }
    }
}
