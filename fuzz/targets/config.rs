//! `config.json` and `generation_config.json` from strangers: an error or a valid configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_model::DecoderConfig;

fuzz_target!(|data: (&str, Option<&str>)| {
    if let Ok(config) = DecoderConfig::from_json(data.0, data.1) {
        assert!(config.validate().is_ok());
    }
});
