//! `/v1/chat/completions`.

use llmserve_core::{Message, Request};
use serde::Deserialize;
use serde_json::Value;

use super::super::fields::Fields;
use super::super::refusal::Refusal;
use super::{Asked, Rules, alternatives, common};

#[derive(Deserialize)]
struct Said {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected content that is a text or a list of parts"
)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// What a body asks for.
pub(in super::super) fn chat(body: &[u8], rules: &Rules) -> Result<Asked, Refusal> {
    let mut fields = Fields::parse(body)?;
    let Some(said) = fields.take::<Vec<Said>>("messages")? else {
        return Err(Refusal::field("messages", "missing"));
    };
    let messages: Vec<Message> = said
        .into_iter()
        .enumerate()
        .map(|(at, said)| message(at, said))
        .collect::<Result<_, _>>()?;
    let mut request = Request::messages(messages);
    let form = common(&mut fields, rules, &mut request)?;
    request.max_tokens = max_tokens(&mut fields)?;
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    match (logprobs, fields.take::<usize>("top_logprobs")?) {
        (true, k) => request.logprobs = Some(alternatives("top_logprobs", k.unwrap_or(0))?),
        (false, None | Some(0)) => {}
        (false, Some(_)) => return Err(Refusal::field("top_logprobs", "logprobs is not true")),
    }
    // Without tools there is nothing that these could choose or forbid.
    fields.only("tools", &["[]"])?;
    fields.only("functions", &["[]"])?;
    fields.only("tool_choice", &["\"none\"", "\"auto\""])?;
    fields.only("function_call", &["\"none\"", "\"auto\""])?;
    fields.ignore(&["parallel_tool_calls"]);
    fields.only("modalities", &["[\"text\"]"])?;
    fields.only("reasoning_effort", &["\"none\""])?;
    fields.only("verbosity", &["\"medium\""])?;
    fields.only("add_generation_prompt", &["true"])?;
    fields.only("continue_final_message", &["false"])?;
    fields.only("add_special_tokens", &["false"])?;
    fields.only("chat_template_kwargs", &["{}"])?;
    fields.finish()?;
    Ok(Asked {
        requests: vec![request],
        form,
    })
}

/// The limit, by its new name or its old one.
fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, Refusal> {
    let old: Option<usize> = fields.take("max_tokens")?;
    let new: Option<usize> = fields.take("max_completion_tokens")?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => Err(Refusal::field(
            "max_tokens",
            "max_completion_tokens says something else",
        )),
        _ => Ok(new.or(old)),
    }
}

fn message(at: usize, said: Said) -> Result<Message, Refusal> {
    let wrong = |reason: String| Refusal::field("messages", format!("message {at}: {reason}"));
    let nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    // Clients send back what they were given, fields that are empty included.
    if let Some((name, _)) = said.rest.iter().find(|(_, value)| !nothing(value)) {
        return Err(wrong(format!("{name} is not supported here")));
    }
    let content = match said.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part {
                        kind,
                        text: Some(piece),
                    } if kind == "text" => text.push_str(&piece),
                    Part { kind, .. } => {
                        let kind = kind.chars().take(32).collect::<String>();
                        return Err(wrong(format!("parts of type {kind:?} are not supported")));
                    }
                }
            }
            text
        }
        None => return Err(wrong("content is missing".to_owned())),
    };
    // OpenAI's newer name for standing instructions; templates know the older.
    let role = match said.role.as_str() {
        "developer" => "system".to_owned(),
        _ => said.role,
    };
    Ok(Message { role, content })
}
