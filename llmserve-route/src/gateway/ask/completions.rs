//! `/v1/completions`.

use llmserve_core::{Prompt, Request, TokenId};
use serde::Deserialize;

use super::super::fields::Fields;
use super::super::refusal::Refusal;
use super::{Asked, MAX_CHOICES, Rules, alternatives, common};

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, a list of texts, a list of token ids, or a list of such lists"
)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<TokenId>),
    Lists(Vec<Vec<TokenId>>),
}

/// What a body asks for.
pub(in super::super) fn completions(body: &[u8], rules: &Rules) -> Result<Asked, Refusal> {
    let mut fields = Fields::parse(body)?;
    let Some(prompts) = fields.take("prompt")? else {
        return Err(Refusal::field("prompt", "missing"));
    };
    let prompts: Vec<Prompt> = match prompts {
        Prompts::Text(text) => vec![Prompt::Text(text)],
        Prompts::Tokens(ids) => vec![Prompt::Tokens(ids)],
        Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        Prompts::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    let mut common_part = Request::text("");
    let form = common(&mut fields, rules, &mut common_part)?;
    if prompts.is_empty() || prompts.len().saturating_mul(form.n) > MAX_CHOICES {
        let reason = format!(
            "{} prompts of {} choices each; at least 1 choice and at most {MAX_CHOICES} can be had",
            prompts.len(),
            form.n
        );
        return Err(Refusal::field("prompt", reason));
    }
    // null says: until the context is full.
    common_part.max_tokens = match fields.take_nullable("max_tokens")? {
        None => Some(rules.default_max_tokens),
        Some(given) => given,
    };
    if let Some(k) = fields.take("logprobs")? {
        common_part.logprobs = Some(alternatives("logprobs", k)?);
    }
    fields.only("suffix", &["\"\""])?;
    fields.only("add_special_tokens", &["true"])?;
    fields.finish()?;
    if prompts.len() > 1 && !common_part.resume.is_empty() {
        let reason = "one prompt's answer can be resumed, not several";
        return Err(Refusal::field("resume_token_ids", reason));
    }
    let requests = prompts.into_iter().map(|prompt| {
        let mut request = common_part.clone();
        request.prompt = prompt;
        request
    });
    Ok(Asked {
        requests: requests.collect(),
        form,
    })
}
