//! The gateway, as clients see it.

mod answers;
mod refusals;
mod serving;

use std::sync::Arc;

use super::support::{Scripted, says};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn hello() -> Arc<Scripted> {
    Scripted::always(says(&["to", " be"]))
}
