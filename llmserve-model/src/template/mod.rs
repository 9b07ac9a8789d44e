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
//!  "…".strip(), {…}.items(), …         some methods of Python's values, see below
//!  {{ true }}, {{ none }}              printed as Python does: True, None
//!  {% generation %}                    the training-time marker: transparent
//! ```
//!
//! The methods are, of strings, `capitalize`, `count`, `endswith`, `find`, `format`, `isalnum`,
//! `isalpha`, `isascii`, `isdigit`, `islower`, `isnumeric`, `isspace`, `isupper`, `join`, `lower`,
//! `lstrip`, `replace`, `rfind`, `rstrip`, `split`, `splitlines`, `startswith`, `strip`, `title` and
//! `upper`; of dictionaries `get`, `items`, `keys` and `values`; of lists `count`. Others, such as
//! `ljust`, are an error. A number with a point is printed as Python prints it where it is a whole
//! `{{ … }}` or goes through `tojson`; joined to text by `~`, `join` or a filter, or within a list, it
//! is printed without an exponent.
//!
//! A template comes with a model, from whoever made it. It has no access to files, to the
//! environment or to anything that is not in the list above. Beyond these bounds it fails with an
//! error:
//!
//! ```text
//!  its text        64 KiB, with at most 4,096 of the characters ( [ { | , + * (not counting `{%`)
//!                  and 8,192 of ~ - / % < > = ! (not counting those of tags)
//!  steps           ten million
//!  calls           macros within macros, six deep or fewer within loops
//!  namespaces      hold neither namespaces nor values nested deeper than 32; ten million values
//!                  looked at to see to that
//! ```
//!
//! Together these bound how deep a value can nest, whichever way it is built, and compiling and
//! rendering run on a thread whose stack is large enough for that. Compiling takes a few
//! seconds at worst. What is not bounded is the memory and the time that a single step may ask for, such as printing a list that holds the same list
//! many times over: a malicious template can exhaust them.

mod json;
mod namespace;
mod number;
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
/// Bytes of a template. The longest published ones take half of it.
const MAX_SOURCE: usize = 64 << 10;
/// Characters in a template that can nest a value deeper. Published templates have a few hundred.
const MAX_NESTING: usize = 4096;
/// Other operators in a template's text. Compiling takes time by their number's square.
const MAX_OPERATORS: usize = 8192;
/// Depth of frames: one for each loop or `with`, five for each macro. The text's nesting counts once
/// for each of them.
const MAX_FRAMES: usize = 32;
/// Stack for a template's depth at its worst. It is reserved, not used, until then.
const STACK: usize = 256 << 20;
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
        if source.len() > MAX_SOURCE {
            return Err(TokenizerError::Template(format!(
                "it has {} bytes, expected at most {MAX_SOURCE}",
                source.len()
            )));
        }
        let nesting = nesting(source);
        if nesting > MAX_NESTING {
            return Err(TokenizerError::Template(format!(
                "it has {nesting} brackets, commas and operators, expected at most {MAX_NESTING}"
            )));
        }
        let operators = operators(source);
        if operators > MAX_OPERATORS {
            return Err(TokenizerError::Template(format!(
                "it has {operators} characters that may be operators, expected at most {MAX_OPERATORS}"
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failure(&error))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_FRAMES);
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
        environment.add_function("namespace", namespace::namespace);
        environment.add_function(namespace::ASSIGN, namespace::assign);
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
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(x) => return out.write_str(&number::python(x)).map_err(Error::from),
            Err(_) => return minijinja::escape_formatter(out, state, value),
        },
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// How often a template's text can nest a value deeper, at most: each way to do so has one of these
/// characters. A `{%` is none of them, for no expression has it.
fn nesting(source: &str) -> usize {
    let marks = |c: &char| matches!(c, '(' | '[' | '{' | '|' | ',' | '+' | '*');
    source.chars().filter(marks).count() - source.matches("{%").count()
}

/// Characters that are operators if they are in an expression.
fn operators(source: &str) -> usize {
    let marks = |c: &char| matches!(c, '~' | '-' | '/' | '%' | '<' | '>' | '=' | '!');
    let tags = ["{%", "%}", "{%-", "-%}", "{{-", "-}}"].map(|tag| source.matches(tag).count());
    let all = source.chars().filter(marks).count();
    all.saturating_sub(tags.iter().sum())
}

/// Runs `work` on a template that strangers wrote, with stack enough: an error or a panic of the
/// renderer is an error of this conversation alone.
fn guarded<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, TokenizerError> {
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("llmserve-template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || {
                namespace::refill();
                std::panic::catch_unwind(AssertUnwindSafe(work))
                    .map(|result| result.map_err(|error| failure(&error)))
            });
        thread.map(|thread| thread.join().and_then(|result| result))
    });
    match result {
        Ok(Ok(result)) => result,
        Ok(Err(payload)) => Err(TokenizerError::Template(format!(
            "the renderer panicked: {}",
            panic_message(&*payload)
        ))),
        Err(error) => Err(TokenizerError::Template(format!(
            "no thread to render it on: {error}"
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
