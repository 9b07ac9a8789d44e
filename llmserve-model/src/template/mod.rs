//! Chat templates: a conversation as the text that the model was trained to read.
//!
//! Templates are written in Jinja2 and rendered by `transformers` in one particular dialect. This
//! is that dialect, on [minijinja](https://docs.rs/minijinja):
//!
//! ```text
//!  trim_blocks, lstrip_blocks          a block tag takes its line with it
//!  break, continue                     loop controls
//!  messages, add_generation_prompt     what is rendered; tools and documents are none
//!  bos_token, eos_token, …             the tokenizer's special tokens, where it has them
//!  raise_exception(message)            the template refuses the conversation
//!  strftime_now(format)                today, by an injectable clock, in UTC
//!  value | tojson(indent=…)            like Python's json.dumps(ensure_ascii=False): no HTML escapes
//!  "…".strip(), {…}.items(), …         the methods of Python's strings, lists and dictionaries
//!  {{ true }}, {{ none }}              printed as Python does: True, None
//!  {% generation %}                    the training-time marker: transparent
//! ```
//!
//! A template comes with a model, from whoever made it. It has no access to files, to the
//! environment or to anything that is not in the list above. It may take ten million steps (about a
//! second), recurse as deep as the renderer allows, and keep nothing in a namespace that nests
//! without bound; beyond that it fails with an error. What is not bounded is the memory, and the
//! time to fill it, that a single step may ask for: a malicious template can exhaust it.

mod json;
mod rewrite;
mod strftime;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use llmserve_core::error::panic_message;
use llmserve_core::{Message, RenderOptions, TokenizerError};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

use crate::tokenizer::SpecialTokens;

/// Steps a rendering may take. A thousand messages through the longest published templates take
/// fewer than a tenth of it.
const FUEL: u64 = 10_000_000;
/// The template's name in error messages.
const NAME: &str = "chat_template";

/// A compiled chat template with the special tokens it refers to.
///
/// ```
/// use llmserve_core::{Message, RenderOptions};
/// use llmserve_model::{ChatTemplate, SpecialTokens};
/// let tokens = SpecialTokens::default().with("bos_token", "<s>");
/// let template = ChatTemplate::compile(
///     "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'].strip() }}\n{% endfor %}",
///     &tokens,
/// )?;
/// let text = template.render(&[Message::user(" Who is there? ")], &RenderOptions::default())?;
/// assert_eq!(text, "<s>[user] Who is there?\n");
/// # Ok::<(), llmserve_core::TokenizerError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles the text of a template.
    ///
    /// # Errors
    /// [`TokenizerError::Template`] naming the line that is not understood.
    pub fn compile(source: &str, tokens: &SpecialTokens) -> Result<Self, TokenizerError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failure(&error))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(print);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_filter("tojson", json::tojson);
        environment.add_filter(rewrite::FLAT, rewrite::flat);
        guarded(|| environment.add_template_owned(NAME, rewrite::rewrite(source)))?;
        let template = Self {
            environment,
            tokens: tokens.clone(),
        };
        Ok(template.with_clock(SystemTime::now))
    }

    /// Replaces the clock that `strftime_now` reads, for reproducible prompts.
    ///
    /// ```
    /// # use llmserve_core::{Message, RenderOptions};
    /// # use llmserve_model::{ChatTemplate, SpecialTokens};
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let template = ChatTemplate::compile("{{ strftime_now('%d %b %Y') }}", &SpecialTokens::default())?
    ///     .with_clock(|| UNIX_EPOCH + Duration::from_secs(1_721_952_000));
    /// assert_eq!(template.render(&[], &RenderOptions::default())?, "26 Jul 2024");
    /// # Ok::<(), llmserve_core::TokenizerError>(())
    /// ```
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let now = Arc::new(now);
        self.environment
            .add_function("strftime_now", move |format: String| {
                strftime::strftime(now(), &format)
                    .map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
            });
        self
    }

    /// Renders a conversation. The text holds its special tokens already.
    ///
    /// # Errors
    /// [`TokenizerError::Template`] when the template refuses the conversation (`raise_exception`),
    /// uses something that is not there, or takes too many steps.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TokenizerError> {
        let messages: Value = messages
            .iter()
            .map(|message| {
                Value::from_pairs([
                    ("role", Value::from(message.role.as_str())),
                    ("content", Value::from(message.content.as_str())),
                ])
            })
            .collect();
        let given = [
            ("messages", messages),
            // `transformers` passes them always; a template tests `tools is not none`.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            (
                "add_generation_prompt",
                Value::from(options.add_generation_prompt),
            ),
        ];
        let tokens = self
            .tokens
            .iter()
            .map(|(name, text)| (name, Value::from(text)));
        let context = Value::from_pairs(given.into_iter().chain(tokens));
        guarded(|| self.environment.get_template(NAME)?.render(context))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// Prints a value as Python's `str` does where Rust's way differs.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// Runs `work` on a template that strangers wrote: an error or a panic of the renderer is an
/// error of this conversation alone.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, TokenizerError> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(payload) => Err(TokenizerError::Template(format!(
            "the renderer panicked: {}",
            panic_message(&*payload)
        ))),
    }
}

fn failure(error: &Error) -> TokenizerError {
    let mut text = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
        _ => error.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    TokenizerError::Template(text)
}
