//! A safetensors file from strangers: an error, or tensors whose bytes are all there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_model::Weights;

fuzz_target!(|data: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    if std::fs::write(dir.path().join("model.safetensors"), data).is_err() {
        return;
    }
    if let Ok(weights) = Weights::open(dir.path()) {
        for name in weights.names() {
            if let Ok(tensor) = weights.view(name) {
                std::hint::black_box(tensor.bytes.iter().fold(0u8, |a, b| a ^ b));
            }
        }
    }
});
