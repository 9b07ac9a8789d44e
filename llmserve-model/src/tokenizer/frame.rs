//! What the post-processor of `tokenizer.json` puts around the tokens of a text.

use llmserve_core::TokenId;
use serde_json::Value;
use tokenizers::PostProcessorWrapper;
use tokenizers::processors::template::TemplateProcessing;

/// The tokens before and behind those of every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) before: Vec<TokenId>,
    pub(super) behind: Vec<TokenId>,
}

impl Frame {
    /// The frame, where the post-processor adds the same to every text and changes nothing else:
    /// without `add_special` it then leaves the tokens as they are.
    pub(super) fn of(processor: Option<&PostProcessorWrapper>) -> Option<Self> {
        let Some(processor) = processor else {
            return Some(Self::default());
        };
        match processor {
            // It moves offsets, which nobody asks for here.
            PostProcessorWrapper::ByteLevel(_) => Some(Self::default()),
            PostProcessorWrapper::Bert(bert) => Some(Self::around(bert.cls.1, bert.sep.1)),
            PostProcessorWrapper::Roberta(roberta) => {
                Some(Self::around(roberta.cls.1, roberta.sep.1))
            }
            PostProcessorWrapper::Template(template) => Self::of_template(template),
            PostProcessorWrapper::Sequence(parts) => {
                let mut frame = None;
                for part in parts.as_ref() {
                    if matches!(part, PostProcessorWrapper::ByteLevel(_)) {
                        continue;
                    }
                    // What stands behind one that frames takes the first token of its frame for
                    // the text: no frame at all can be told.
                    if frame.is_some() {
                        return None;
                    }
                    frame = Some(Self::of(Some(part))?);
                }
                Some(frame.unwrap_or_default())
            }
        }
    }

    fn around(before: TokenId, behind: TokenId) -> Self {
        Self {
            before: vec![before],
            behind: vec![behind],
        }
    }

    /// A template that holds the text exactly once, and no token it does not define. Its pieces are
    /// private to the library, but not their serialised form.
    fn of_template(template: &TemplateProcessing) -> Option<Self> {
        let template = serde_json::to_value(template).ok()?;
        let ids = |name: &Value| -> Option<Vec<TokenId>> {
            let ids = template.get("special_tokens")?.get(name.as_str()?)?;
            serde_json::from_value(ids.get("ids")?.clone()).ok()
        };
        let mut frame = Self::default();
        let mut seen = false;
        for piece in template.get("single")?.as_array()? {
            if let Some(token) = piece.get("SpecialToken") {
                let ids = ids(token.get("id")?)?;
                if seen {
                    frame.behind.extend(ids);
                } else {
                    frame.before.extend(ids);
                }
            } else {
                let text = piece.get("Sequence")?.get("id")? == "A";
                if !text || seen {
                    return None;
                }
                seen = true;
            }
        }
        seen.then_some(frame)
    }
}

#[cfg(test)]
mod tests;
