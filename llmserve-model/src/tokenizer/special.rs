//! The tokens with a role, by the names that `tokenizer_config.json` gives them.

use serde_json::Value;

use crate::config::fields::Fields;
use crate::error::LoadError;

/// The roles, as `transformers` names them to chat templates.
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The texts of a tokenizer's special tokens, by role.
///
/// ```
/// use llmserve_model::SpecialTokens;
/// let tokens = SpecialTokens::default().with("eos_token", "</s>");
/// assert_eq!(tokens.get("eos_token"), Some("</s>"));
/// assert_eq!(tokens.get("bos_token"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(Vec<(String, String)>);

impl SpecialTokens {
    /// Adds or replaces the token of a role, such as `bos_token`.
    #[must_use]
    pub fn with(mut self, role: &str, text: &str) -> Self {
        self.0.retain(|(known, _)| known != role);
        self.0.push((role.to_owned(), text.to_owned()));
        self
    }

    /// The text of the token of a role.
    pub fn get(&self, role: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| *known == role)
            .map(|(_, text)| text)
    }

    /// All roles that have a token.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(role, text)| (role.as_str(), text.as_str()))
    }

    /// Reads them from `tokenizer_config.json`, where each is a string or an object with `content`.
    pub(super) fn from_fields(fields: &Fields) -> Result<Self, LoadError> {
        let mut tokens = Self::default();
        for role in ROLES {
            let text = match fields.get(role) {
                None => continue,
                Some(Value::String(text)) => text.as_str(),
                Some(Value::Object(object)) => match object.get("content") {
                    Some(Value::String(text)) => text.as_str(),
                    _ => return Err(fields.wrong(role, "a string, or an object with content")),
                },
                Some(_) => return Err(fields.wrong(role, "a string, or an object with content")),
            };
            tokens = tokens.with(role, text);
        }
        Ok(tokens)
    }
}
