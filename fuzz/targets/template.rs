//! A chat template from strangers: an error or a text, within its steps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_core::{Message, RenderOptions};
use llmserve_model::{ChatTemplate, SpecialTokens};

fuzz_target!(|data: (&str, &str)| {
    if let Ok(template) = ChatTemplate::compile(data.0, &SpecialTokens::default()) {
        let messages = [Message::user(data.1), Message::assistant("yes")];
        let _ = template.render(&messages, &RenderOptions::default());
    }
});
