//! From a body to requests.
//!
//! What changes an answer is honoured or refused by its name; what OpenAI defines and changes no
//! answer is ignored; what nobody knows is refused. Nothing is dropped in silence.

mod chat;
mod completions;
mod constraint;
mod sampling;

use std::time::Duration;

use llmserve_core::{Request, Routing, TokenId};
use serde::Deserialize;

use super::fields::Fields;
use super::refusal::Refusal;

pub(super) use chat::chat;
pub(super) use completions::completions;

/// Choices that one body may ask for: prompts × `n`.
pub(super) const MAX_CHOICES: usize = 128;

/// Alternatives a logprob may come with.
const MAX_LOGPROBS: usize = 20;

/// What the host says about requests.
pub(super) struct Rules {
    /// Names there are; the first answers requests without one. Empty: any name.
    pub(super) models: Vec<String>,
    pub(super) tenant_from_user: bool,
    /// For completions that do not say.
    pub(super) default_max_tokens: usize,
}

/// What a body asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// One for each prompt, all alike but for it.
    pub(super) requests: Vec<Request>,
    /// How the answer is told.
    pub(super) form: Form,
}

/// How an answer is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    /// The model's name, as it was asked for.
    pub(super) model: String,
    /// Choices of each prompt.
    pub(super) n: usize,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Names the tokens of prompt and answer.
    pub(super) token_ids: bool,
    /// Logprobs name tokens by id.
    pub(super) tokens_as_ids: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    /// Padding against guessing tokens by the length of events: there is none.
    include_obfuscation: Option<bool>,
}

/// Fields of the extension `routing`: those of [`Routing`], with the time as a number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    session: Option<String>,
    regions: Option<Vec<String>>,
    origin: Option<String>,
    needs: Option<Vec<String>>,
    max_cost: Option<f64>,
    min_quality: Option<f32>,
    latency_budget_ms: Option<f64>,
    tier: Option<String>,
}

/// OpenAI's fields that change no answer.
const HARMLESS: &[&str] = &[
    "metadata",
    "safety_identifier",
    "prompt_cache_retention",
    // Words that may come: a matter of time, not of the answer.
    "prediction",
];

/// What completions and chat have in common: takes it from `fields`, and applies it to `request`,
/// which every prompt's is a copy of.
fn common(fields: &mut Fields, rules: &Rules, request: &mut Request) -> Result<Form, Refusal> {
    let model = model(fields, rules)?;
    request.model = (!model.is_empty()).then(|| model.clone());
    sampling::take(fields, request)?;
    constraint::take(fields, request)?;
    let n: usize = fields.take("n")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&n) {
        let reason = format!("{n} is not in 1..={MAX_CHOICES}");
        return Err(Refusal::field("n", reason));
    }
    // Several are drawn, and the best chosen: there is no choosing here.
    if let Some(best_of) = fields.take::<usize>("best_of")?
        && best_of != n
    {
        return Err(Refusal::field("best_of", "only n itself is supported"));
    }
    request.n = n;
    let stream = fields.take("stream")?.unwrap_or(false);
    let options: StreamOptions = fields.take("stream_options")?.unwrap_or_default();
    let _ = options.include_obfuscation;
    if let Some(user) = fields.take::<String>("user")?
        && rules.tenant_from_user
    {
        request.tenant = Some(user);
    }
    request.priority = fields.take("priority")?.unwrap_or(0);
    request.speculative = fields.take("speculative")?.unwrap_or(true);
    request.draft_depth = fields.take("draft_depth")?;
    request.deadline = fields
        .take("deadline_ms")?
        .map(|ms| millis("deadline_ms", ms))
        .transpose()?;
    request.routing = routing(fields)?;
    if let Some(resume) = fields.take::<Vec<TokenId>>("resume_token_ids")? {
        request.resume = resume;
    }
    fields.ignore(HARMLESS);
    fields.only("store", &["false"])?;
    fields.only("service_tier", &["\"auto\"", "\"default\""])?;
    fields.only("include_stop_str_in_output", &["false"])?;
    fields.only("spaces_between_special_tokens", &["true"])?;
    fields.only("echo", &["false"])?;
    Ok(Form {
        model,
        n,
        stream,
        include_usage: options.include_usage.unwrap_or(false),
        token_ids: fields.take("return_token_ids")?.unwrap_or(false),
        tokens_as_ids: fields.take("return_tokens_as_token_ids")?.unwrap_or(false),
    })
}

fn model(fields: &mut Fields, rules: &Rules) -> Result<String, Refusal> {
    let known = &rules.models;
    match fields.take::<String>("model")? {
        Some(name) if known.is_empty() || known.contains(&name) => Ok(name),
        Some(name) => Err(Refusal::unknown_model(&name, &known.join(", "))),
        None => Ok(known.first().cloned().unwrap_or_default()),
    }
}

fn routing(fields: &mut Fields) -> Result<Routing, Refusal> {
    let mut routing = Routing::default();
    // A hint which requests begin alike, and so one where they are best answered.
    routing.session = fields.take("prompt_cache_key")?;
    let Some(wishes) = fields.take::<Wishes>("routing")? else {
        return Ok(routing);
    };
    routing.session = wishes.session.or(routing.session);
    routing.regions = wishes.regions.unwrap_or_default();
    routing.origin = wishes.origin;
    routing.needs = wishes.needs.unwrap_or_default();
    routing.max_cost = wishes.max_cost;
    routing.min_quality = wishes.min_quality;
    routing.latency_budget = wishes
        .latency_budget_ms
        .map(|ms| millis("routing", ms))
        .transpose()?;
    routing.tier = wishes.tier;
    Ok(routing)
}

fn millis(field: &str, ms: f64) -> Result<Duration, Refusal> {
    Duration::try_from_secs_f64(ms / 1e3)
        .map_err(|_| Refusal::field(field, format!("{ms} is no number of milliseconds")))
}

/// Whether `wanted` alternatives are too many.
fn alternatives(field: &str, wanted: usize) -> Result<usize, Refusal> {
    if wanted > MAX_LOGPROBS {
        let reason = format!("{wanted} is more than {MAX_LOGPROBS}");
        return Err(Refusal::field(field, reason));
    }
    Ok(wanted)
}
