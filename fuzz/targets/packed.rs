//! A file of packed weights from strangers: an error, or a model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_model::{CpuModel, CpuOptions, DType};

fuzz_target!(|data: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("model.packed");
    if std::fs::write(&path, data).is_err() {
        return;
    }
    for dtype in DType::ALL {
        let options = CpuOptions {
            dtype,
            threads: Some(1),
            ..CpuOptions::default()
        };
        if let Ok(model) = CpuModel::open_packed(&path, &options) {
            std::hint::black_box(model.packed_bytes());
        }
    }
    let _ = CpuModel::verify_packed(&path);
});
