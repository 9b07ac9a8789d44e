//! `tokenizer.json` and `tokenizer_config.json` from strangers: an error, or a tokenizer that
//! encodes and decodes without a panic of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_core::Tokenizer;
use llmserve_model::HfTokenizer;

fuzz_target!(|data: (&[u8], &[u8], &str)| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes);
    if write("tokenizer.json", data.0).is_err() || write("tokenizer_config.json", data.1).is_err() {
        return;
    }
    if let Ok(Some(tokenizer)) = HfTokenizer::from_dir(dir.path())
        && let Ok(ids) = tokenizer.encode(data.2, true)
    {
        let _ = tokenizer.decode(&ids, false);
    }
});
