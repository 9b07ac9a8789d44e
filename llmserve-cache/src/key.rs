//! What makes two requests the same request.

use std::hash::{Hash, Hasher};

use llmserve_core::{Constraint, Prompt, Request, Routing};
use xxhash_rust::xxh3::xxh3_128;

use crate::canonical::Canonical;

/// Changes whenever the encoding below does, so that old keys are never mistaken for new ones.
const FORMAT: u8 = 4;

/// Everything about a request that can change its answer.
///
/// The canonical bytes hold, in this order: the layer's namespace, tenant, model, prompt (its
/// kind and content), every sampling parameter, `max_tokens`, `min_tokens`, `ignore_eos`,
/// `stop_tokens`, `stop`, `constraint` (its kind and text), `n`, `logprobs`, `prompt_logprobs`,
/// `skip_special_tokens`, and of `routing` what may change who answers: `regions`, `needs`,
/// `max_cost`, `min_quality`, `latency_budget`, `tier`. Left out are `id`, `priority` and `deadline`: they change when an answer comes, not what
/// it is, and an answer that a deadline cut off is not stored; of `routing` the `session` and the
/// `origin`; and `speculative` and `draft_depth`, which change no answer by default. Around an
/// engine that verifies by rejection they do: such an engine wants a namespace of its own.
///
/// Two keys are equal when all their bytes are. The hash, XXH3-128 of the bytes, is stable across
/// processes and machines, and is not secret: whoever looks up by it alone must compare
/// [`bytes`](Self::bytes) as well. They contain the prompt and must be kept as carefully.
///
/// ```
/// use llmserve_cache::Key;
/// use llmserve_core::Request;
/// let key = |request: Request| Key::new("llama@2026-11", &request).expect("cacheable");
///
/// let base = key(Request::text("Hi").tenant("acme"));
/// assert_eq!(base, key(Request::text("Hi").tenant("acme").id("7").priority(3)));
/// assert_ne!(base, key(Request::text("Hi").tenant("other")));
/// assert_ne!(base, key(Request::text("Hi").tenant("acme").max_tokens(9)));
///
/// ```
#[derive(Clone)]
pub struct Key {
    hash: u128,
    bytes: Box<[u8]>,
}

impl Key {
    /// The key of `request`, or none if it has no name that says it all: it carries logits
    /// processors, which are code; it resumes an answer, so what comes is the rest of one; or its
    /// prompt or constraint is of a kind this crate does not know.
    ///
    /// Whether two runs of the request would say the same is not asked here: see
    /// [`Policy`](crate::Policy).
    ///
    /// `namespace` keeps apart what shares a store and answers differently: see
    /// [`CacheLayerBuilder::namespace`](crate::CacheLayerBuilder::namespace).
    pub fn new(namespace: &str, request: &Request) -> Option<Self> {
        Self::of(namespace, request, &request.prompt)
    }

    /// The key of `request` with another prompt in the place of its own.
    pub(crate) fn of(namespace: &str, request: &Request, prompt: &Prompt) -> Option<Self> {
        if !request.processors.is_empty() || !request.resume.is_empty() {
            return None;
        }
        let sampling = &request.sampling;
        let mut out = Canonical::default();
        out.tag(FORMAT);
        out.text(namespace);
        out.option(request.tenant.as_deref(), Canonical::text);
        out.option(request.model.as_deref(), Canonical::text);
        write_prompt(&mut out, prompt)?;

        // Parameters that do nothing (a seed beside temperature 0, top-p 1) are kept as they are:
        // to tell which do nothing would be to know how an engine samples.
        out.f32(sampling.temperature);
        out.f32(sampling.top_p);
        out.option(sampling.top_k, Canonical::size);
        out.f32(sampling.min_p);
        out.f32(sampling.repetition_penalty);
        out.f32(sampling.presence_penalty);
        out.f32(sampling.frequency_penalty);
        out.size(sampling.logit_bias.len());
        for (token, bias) in &sampling.logit_bias {
            out.u32(*token);
            out.f32(*bias);
        }
        out.option(sampling.seed, Canonical::u64);

        out.option(request.max_tokens, Canonical::size);
        out.size(request.min_tokens);
        out.flag(request.ignore_eos);
        out.tokens(&request.stop_tokens);
        out.size(request.stop.len());
        for stop in &request.stop {
            out.text(stop);
        }
        match &request.constraint {
            None => out.tag(0),
            Some(constraint) => write_constraint(&mut out, constraint)?,
        }
        out.size(request.n);
        out.option(request.logprobs, Canonical::size);
        out.option(request.prompt_logprobs, Canonical::size);
        out.flag(request.skip_special_tokens);
        write_routing(&mut out, &request.routing);

        let bytes = out.into_bytes();
        Some(Self {
            hash: xxh3_128(&bytes),
            bytes,
        })
    }

    /// XXH3-128 of the canonical bytes.
    pub fn hash128(&self) -> u128 {
        self.hash
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A key with a hash that is not its own.
    #[cfg(test)]
    pub(crate) fn colliding(self, hash: u128) -> Self {
        Self { hash, ..self }
    }
}

fn write_prompt(out: &mut Canonical, prompt: &Prompt) -> Option<()> {
    match prompt {
        Prompt::Text(text) => {
            out.tag(1);
            out.text(text);
        }
        Prompt::Tokens(tokens) => {
            out.tag(2);
            out.tokens(tokens);
        }
        Prompt::Messages(messages) => {
            out.tag(3);
            out.size(messages.len());
            for message in messages {
                out.text(&message.role);
                out.text(&message.content);
            }
        }
        _ => return None,
    }
    Some(())
}

fn write_routing(out: &mut Canonical, routing: &Routing) {
    for list in [&routing.regions, &routing.needs] {
        out.size(list.len());
        for text in list {
            out.text(text);
        }
    }
    out.option(routing.max_cost.map(f64::to_bits), Canonical::u64);
    out.option(routing.min_quality, Canonical::f32);
    out.option(routing.latency_budget, |out, time| {
        out.u64(time.as_secs());
        out.u32(time.subsec_nanos());
    });
    out.option(routing.tier.as_deref(), Canonical::text);
}

fn write_constraint(out: &mut Canonical, constraint: &Constraint) -> Option<()> {
    match constraint {
        Constraint::JsonSchema(text) => {
            out.tag(1);
            out.text(text);
        }
        Constraint::Regex(text) => {
            out.tag(2);
            out.text(text);
        }
        Constraint::Choice(texts) => {
            out.tag(3);
            out.size(texts.len());
            for text in texts {
                out.text(text);
            }
        }
        Constraint::Lark(text) => {
            out.tag(4);
            out.text(text);
        }
        _ => return None,
    }
    Some(())
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.hash);
    }
}

impl std::fmt::Debug for Key {
    /// The hash only: prompts do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.hash)
    }
}

#[cfg(test)]
pub(crate) mod tests;
