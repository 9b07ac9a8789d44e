//! Text to tokens and back, by a model's own `tokenizer.json`.

mod frame;
mod seam;
mod special;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use llmserve_core::error::panic_message;
use llmserve_core::{Message, RenderOptions, TokenId, Tokenizer, TokenizerError};
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{TruncationDirection, TruncationParams};

use crate::config::fields::{Fields, is_absent, read_bounded, read_object};
use crate::error::LoadError;
use crate::template::ChatTemplate;
use frame::Frame;
use seam::Seams;

pub use special::SpecialTokens;

/// Several times the largest published `tokenizer.json`.
pub(crate) const MAX_TOKENIZER: u64 = 512 << 20;
/// Far above any real template.
const MAX_TEMPLATE: u64 = 4 << 20;

/// A tokenizer of the Hugging Face `tokenizers` library, with the model's chat template.
///
/// * Truncation and padding that `tokenizer.json` asks for are switched off: a prompt is never cut
///   silently, and the engine has no use for padding.
/// * The text of a special token is encoded as that token wherever it stands, also inside of what a
///   user wrote. This is what `transformers` does, and what a rendered template relies on. A host
///   that must keep users from forging turns removes such texts
///   ([`HfTokenizer::special_token_texts`]) from their messages.
/// * `encode(text, true)` frames the text as the post-processor in `tokenizer.json` says. Switches
///   in `tokenizer_config.json` that would rebuild it are not read.
/// * Texts can be cut ([`seam`](Tokenizer::seam)) before special tokens, and between words where the
///   tokenizer splits them by a published pattern; see `docs/prompts.md` for which do. A tokenizer of
///   another kind has fewer seams or none.
/// * Ids beyond the tokenizer's vocabulary decode to nothing, as in `transformers`: embeddings are
///   often padded to a round number of rows.
///
/// ```no_run
/// use llmserve_core::Tokenizer;
/// use llmserve_model::HfTokenizer;
/// let tokenizer = HfTokenizer::from_dir("models/bard-2m".as_ref())?.ok_or("no tokenizer.json")?;
/// let ids = tokenizer.encode("To be, or not to be", true)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "To be, or not to be");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HfTokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    template: Option<ChatTemplate>,
    frame: Option<Frame>,
    seams: Seams,
}

impl HfTokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` in folder `dir`,
    /// the latter two where they exist. `None` when there is no `tokenizer.json`: such a model is
    /// served by token ids.
    ///
    /// The chat template is `chat_template.jinja`, or else the field `chat_template` of
    /// `tokenizer_config.json`; in a list of named templates, the one named `default`.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`], [`LoadError::Template`], [`LoadError::Corrupt`] and
    /// [`LoadError::Config`] naming the file or field.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, LoadError> {
        let path = dir.join("tokenizer.json");
        if is_absent(&path) {
            return Ok(None);
        }
        let bytes = read_bounded(&path, "the tokenizer", MAX_TOKENIZER)?;
        let inner = parse(&bytes).map_err(|reason| LoadError::Tokenizer {
            path: path.clone(),
            reason,
        })?;
        let config_path = dir.join("tokenizer_config.json");
        let config = read_object(&config_path)?.unwrap_or_default();
        let special = SpecialTokens::from_fields(&config)?;
        let template = match template_text(dir, &config_path, &config)? {
            None => None,
            Some((path, text)) => {
                Some(
                    ChatTemplate::compile(&text, &special).map_err(|e| LoadError::Template {
                        path,
                        reason: format!("{e}: correct it, or remove it to serve plain prompts"),
                    })?,
                )
            }
        };
        Ok(Some(Self::new(inner, special, template)))
    }

    /// Of a tokenizer that neither truncates nor pads.
    fn new(
        inner: tokenizers::Tokenizer,
        special: SpecialTokens,
        template: Option<ChatTemplate>,
    ) -> Self {
        let frame = Frame::of(inner.get_post_processor());
        // A post-processor without a frame may change what stands on either side of a seam.
        let seams = match frame {
            Some(_) => Seams::of(&inner),
            None => Seams::none(),
        };
        Self {
            inner,
            special,
            template,
            frame,
            seams,
        }
    }

    /// Replaces the clock of the template's `strftime_now`, for reproducible prompts.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.template = self.template.map(|template| template.with_clock(now));
        self
    }

    /// Cuts every text to `most` tokens from now on, those that frame it among them: its end, or its
    /// beginning.
    pub(crate) fn with_truncation(mut self, most: usize, front: bool) -> Result<Self, String> {
        let params = TruncationParams {
            max_length: most,
            direction: match front {
                true => TruncationDirection::Left,
                false => TruncationDirection::Right,
            },
            ..TruncationParams::default()
        };
        guarded(|| self.inner.with_truncation(Some(params)).map(|_| ()))
            .map_err(|error| error.to_string())?;
        self.frame = None;
        self.seams = Seams::none();
        Ok(self)
    }

    /// Ids below it may be decoded. It may differ from the model's: a larger model has rows that no
    /// text leads to; a larger tokenizer can produce ids that the engine refuses with the request.
    pub fn vocab_size(&self) -> usize {
        let added = self.inner.get_added_tokens_decoder();
        let highest = added.keys().map(|&id| id as usize + 1).max().unwrap_or(0);
        self.inner.get_vocab_size(true).max(highest)
    }

    /// The id of a token by its text, special or not.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.inner.token_to_id(text)
    }

    /// The tokens with a role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The texts that are encoded as a special token wherever they stand, in the order of their
    /// ids.
    pub fn special_token_texts(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<_> = added.iter().filter(|(_, token)| token.special).collect();
        special.sort_by_key(|(id, _)| **id);
        special
            .into_iter()
            .map(|(_, token)| token.content.clone())
            .collect()
    }

    /// The tokenizer as `tokenizer.json` would have it.
    #[cfg(feature = "structured")]
    pub(crate) fn to_json(&self) -> Result<String, String> {
        guarded(|| self.inner.to_string(false)).map_err(|error| error.to_string())
    }

    /// The chat template, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}

impl Tokenizer for HfTokenizer {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        guarded(|| self.inner.decode(ids, skip_special))
    }

    fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TokenizerError> {
        match &self.template {
            Some(template) => template.render(messages, options),
            None => Err(TokenizerError::NoTemplate),
        }
    }

    fn seam(&self, text: &str, from: usize) -> Option<usize> {
        self.seams.first(text, from)
    }

    fn frame(&self) -> Option<(&[TokenId], &[TokenId])> {
        let frame = self.frame.as_ref()?;
        Some((&frame.before, &frame.behind))
    }
}

impl std::fmt::Debug for HfTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HfTokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .field("template", &self.template.is_some())
            .finish()
    }
}

/// Runs `work` of the library on files that strangers wrote: its panics become errors.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| TokenizerError::Codec(error.to_string())),
        Err(payload) => Err(TokenizerError::Codec(format!(
            "the library panicked: {}",
            panic_message(&*payload)
        ))),
    }
}

fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let mut inner =
        guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|e| e.to_string())?;
    guarded(|| inner.with_truncation(None).map(|_| ())).map_err(|e| e.to_string())?;
    inner.with_padding(None);
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && let Some(dropout) = bpe.dropout.filter(|&p| p > 0.0)
    {
        return Err(format!(
            "model.dropout is {dropout}, which encodes the same text differently each time: set it to null"
        ));
    }
    Ok(inner)
}

/// The chat template's file and text.
fn template_text(
    dir: &Path,
    config_path: &Path,
    config: &Fields,
) -> Result<Option<(PathBuf, String)>, LoadError> {
    let path = dir.join("chat_template.jinja");
    if !is_absent(&path) {
        let bytes = read_bounded(&path, "the chat template", MAX_TEMPLATE)?;
        return match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((path, text))),
            Err(_) => Err(LoadError::Template {
                path,
                reason: "it is not UTF-8".to_owned(),
            }),
        };
    }
    let found = |text: &str| Ok(Some((config_path.to_owned(), text.to_owned())));
    match config.get("chat_template") {
        None => Ok(None),
        Some(Value::String(text)) => found(text),
        Some(Value::Array(named)) => {
            let field = |template: &Value, name: &str| -> Option<String> {
                template.get(name)?.as_str().map(str::to_owned)
            };
            let mut names = Vec::new();
            for template in named {
                match (field(template, "name"), field(template, "template")) {
                    (Some(name), Some(text)) if name == "default" => return found(&text),
                    (Some(name), Some(_)) => names.push(name),
                    _ => {
                        return Err(config.wrong(
                            "chat_template",
                            "a text, or a list of objects with name and template",
                        ));
                    }
                }
            }
            Err(LoadError::Template {
                path: config_path.to_owned(),
                reason: format!(
                    "none of its templates is named \"default\"; there are: {}",
                    names.join(", ")
                ),
            })
        }
        Some(_) => Err(config.wrong(
            "chat_template",
            "a text, or a list of objects with name and template",
        )),
    }
}
