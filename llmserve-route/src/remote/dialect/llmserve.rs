//! Our own gateway: vLLM's fields and a few more.

use llmserve_core::{Error, Request, Routing};
use serde_json::{Map, Value, json};

use super::abilities::Abilities;
use super::vllm;

const ABILITIES: Abilities = Abilities {
    name: "llmserve's API",
    resume: true,
    ..vllm::ABILITIES
};

pub(super) fn body(request: &Request, model: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut body = vllm::shared(request, model, &ABILITIES)?;
    if let Some(tenant) = &request.tenant {
        body.set("user", tenant)?;
    }
    if !request.resume.is_empty() {
        body.set("resume_token_ids", &request.resume)?;
    }
    if let Some(deadline) = request.deadline {
        body.set("deadline_ms", deadline.as_secs_f64() * 1e3)?;
    }
    if !request.speculative {
        body.set("speculative", false)?;
    }
    if let Some(depth) = request.draft_depth {
        body.set("draft_depth", depth)?;
    }
    if request.routing != Routing::default() {
        body.set("routing", routing(&request.routing))?;
    }
    Ok(body.into_vec())
}

/// What is set of `routing`.
fn routing(routing: &Routing) -> Map<String, Value> {
    let ms = routing.latency_budget.map(|time| time.as_secs_f64() * 1e3);
    let fields = [
        ("session", json!(routing.session)),
        ("regions", json!(routing.regions)),
        ("origin", json!(routing.origin)),
        ("needs", json!(routing.needs)),
        ("max_cost", json!(routing.max_cost)),
        ("min_quality", json!(routing.min_quality)),
        ("latency_budget_ms", json!(ms)),
        ("tier", json!(routing.tier)),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
