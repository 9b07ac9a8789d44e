//! What goes in.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::contract::grammar::Constraint;
use crate::contract::tokenizer::Message;
use crate::ids::TokenId;
use crate::routing::Routing;
use crate::sampling::{LogitsProcessor, Sampling};

/// What the model shall continue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Prompt {
    /// Text, encoded with the special tokens the tokenizer frames a prompt with.
    Text(String),
    /// Tokens, used as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, rendered by the model's chat template.
    Messages(Vec<Message>),
}

/// A request for one or more continuations of a prompt.
///
/// ```
/// use llmserve_core::Request;
/// let request = Request::text("HAMLET").max_tokens(32).temperature(0.8).seed(7).stop("\n\n");
/// assert_eq!(request.sampling.seed, Some(7));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The host's own name for it, for logs.
    pub id: Option<String>,
    /// The model asked for; routers read it, an engine ignores it.
    pub model: Option<String>,
    /// What to continue.
    pub prompt: Prompt,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Most tokens generated per choice. None: until the context is full.
    pub max_tokens: Option<usize>,
    /// No end token, stop token or stop string ends a choice before this many tokens.
    pub min_tokens: usize,
    /// Whether the model's end tokens are ordinary tokens.
    pub ignore_eos: bool,
    /// Tokens that end a choice besides the model's own.
    pub stop_tokens: Vec<TokenId>,
    /// Strings that end a choice; they are not part of its text.
    pub stop: Vec<String>,
    /// The form every choice must have. One that ends by itself has it; `max_tokens`, a stop string
    /// or stop token may cut it short.
    pub constraint: Option<Constraint>,
    /// Choices wanted, from one prefill.
    pub n: usize,
    /// Logprobs of each generated token, with this many alternatives.
    pub logprobs: Option<usize>,
    /// Logprobs of the prompt's tokens, with this many alternatives.
    pub prompt_logprobs: Option<usize>,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Lower is sooner, with a scheduler that looks at it.
    pub priority: i32,
    /// Who asks. KV is never shared between tenants.
    pub tenant: Option<String>,
    /// The answer is worthless this long after the call.
    pub deadline: Option<Duration>,
    /// Changes to the logits of every step, in order, before penalties.
    pub processors: Vec<Arc<dyn LogitsProcessor>>,
    /// Whether tokens may be drafted and verified several at once, where the engine speculates;
    /// yes by default. By default the answer is the same either way: it is a matter of time.
    pub speculative: bool,
    /// Most drafts a step, below the engine's own limit; none leaves it to the engine.
    pub draft_depth: Option<usize>,
    /// Tokens of the answer that exist already, from an earlier run of this request that was cut
    /// off. The answer goes on after them as if they had just been generated: events begin with
    /// the token after them, and they count as generated for penalties, limits, stop strings, the
    /// grammar and usage. Needs `n` = 1.
    pub resume: Vec<TokenId>,
    /// Who may answer; routers read it, an engine ignores it.
    pub routing: Routing,
    /// Called once whoever answers has nothing more to do for the request, however it ended and
    /// whether or not its events have been read: a slow reader holds no place that others wait
    /// for. A service need not call them; who counts on the end must watch the stream as well.
    pub on_end: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl Request {
    /// A request with defaults: greedy, one choice, until an end token or a full context.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            id: None,
            model: None,
            prompt,
            sampling: Sampling::default(),
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            stop_tokens: Vec::new(),
            stop: Vec::new(),
            constraint: None,
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            skip_special_tokens: true,
            priority: 0,
            tenant: None,
            deadline: None,
            processors: Vec::new(),
            speculative: true,
            draft_depth: None,
            resume: Vec::new(),
            routing: Routing::default(),
            on_end: Vec::new(),
        }
    }

    /// Continue a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// Continue tokens.
    pub fn tokens(tokens: impl Into<Vec<TokenId>>) -> Self {
        Self::new(Prompt::Tokens(tokens.into()))
    }

    /// Continue a conversation.
    pub fn messages(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Prompt::Messages(messages.into()))
    }
}

/// Setters: each replaces the field of its name.
impl Request {
    /// See [`Request::id`].
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// See [`Request::model`].
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// See [`Request::sampling`].
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// See [`Sampling::temperature`].
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.sampling.temperature = temperature;
        self
    }

    /// See [`Sampling::top_p`].
    pub fn top_p(mut self, top_p: f32) -> Self {
        self.sampling.top_p = top_p;
        self
    }

    /// See [`Sampling::top_k`].
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.sampling.top_k = Some(top_k);
        self
    }

    /// See [`Sampling::min_p`].
    pub fn min_p(mut self, min_p: f32) -> Self {
        self.sampling.min_p = min_p;
        self
    }

    /// See [`Sampling::seed`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = Some(seed);
        self
    }

    /// See [`Request::max_tokens`].
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = Some(max_tokens);
        self
    }

    /// See [`Request::min_tokens`].
    pub fn min_tokens(mut self, min_tokens: usize) -> Self {
        self.min_tokens = min_tokens;
        self
    }

    /// See [`Request::ignore_eos`].
    pub fn ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = ignore;
        self
    }

    /// Adds to [`Request::stop_tokens`].
    pub fn stop_token(mut self, token: TokenId) -> Self {
        self.stop_tokens.push(token);
        self
    }

    /// Adds to [`Request::stop`].
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// See [`Request::constraint`].
    pub fn constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(constraint);
        self
    }

    /// Answers are JSON that this schema, itself JSON, accepts: see [`Request::constraint`].
    pub fn json_schema(self, schema: impl Into<String>) -> Self {
        self.constraint(Constraint::JsonSchema(schema.into()))
    }

    /// Answers are texts that all of this regular expression matches: see [`Request::constraint`].
    pub fn regex(self, regex: impl Into<String>) -> Self {
        self.constraint(Constraint::Regex(regex.into()))
    }

    /// Answers are one of these texts: see [`Request::constraint`].
    pub fn one_of<T: Into<String>>(self, texts: impl IntoIterator<Item = T>) -> Self {
        let texts = texts.into_iter().map(Into::into).collect();
        self.constraint(Constraint::Choice(texts))
    }

    /// Answers are of the language of this grammar in Lark's notation: see
    /// [`Request::constraint`].
    pub fn lark(self, grammar: impl Into<String>) -> Self {
        self.constraint(Constraint::Lark(grammar.into()))
    }

    /// See [`Request::n`].
    pub fn n(mut self, n: usize) -> Self {
        self.n = n;
        self
    }

    /// See [`Request::logprobs`].
    pub fn logprobs(mut self, alternatives: usize) -> Self {
        self.logprobs = Some(alternatives);
        self
    }

    /// See [`Request::prompt_logprobs`].
    pub fn prompt_logprobs(mut self, alternatives: usize) -> Self {
        self.prompt_logprobs = Some(alternatives);
        self
    }

    /// See [`Request::skip_special_tokens`].
    pub fn skip_special_tokens(mut self, skip: bool) -> Self {
        self.skip_special_tokens = skip;
        self
    }

    /// See [`Request::priority`].
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// See [`Request::tenant`].
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// See [`Request::deadline`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// See [`Request::speculative`].
    pub fn speculative(mut self, speculative: bool) -> Self {
        self.speculative = speculative;
        self
    }

    /// See [`Request::draft_depth`].
    pub fn draft_depth(mut self, drafts: usize) -> Self {
        self.draft_depth = Some(drafts);
        self
    }

    /// See [`Request::resume`].
    pub fn resume(mut self, tokens: impl Into<Vec<TokenId>>) -> Self {
        self.resume = tokens.into();
        self
    }

    /// See [`Request::routing`].
    pub fn routing(mut self, routing: Routing) -> Self {
        self.routing = routing;
        self
    }

    /// Adds to [`Request::on_end`].
    pub fn on_end(mut self, ended: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_end.push(Arc::new(ended));
        self
    }

    /// Adds to [`Request::processors`].
    pub fn processor(mut self, processor: Arc<dyn LogitsProcessor>) -> Self {
        self.processors.push(processor);
        self
    }
}

impl std::fmt::Debug for Request {
    /// Leaves the prompt out: prompts do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .field("n", &self.n)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}
