//! Packed files: what is opened is what was saved, or a typed error.

use std::path::{Path, PathBuf};

use llmserve_core::{Model, TokenId};
use proptest::prelude::*;
use tempfile::TempDir;

use super::driver::{Driver, build, golden};
use crate::{CpuModel, CpuOptions, DType, LoadError, ModelFolder};

const MODELS: [&str; 3] = ["llama", "llama3-rope", "qwen2"];

fn options(dtype: DType) -> CpuOptions {
    CpuOptions {
        dtype,
        threads: Some(1),
        ..CpuOptions::default()
    }
}

/// The logits of some tokens, as bits.
fn logits(model: CpuModel) -> Vec<Vec<u32>> {
    let tokens: Vec<TokenId> = (0..23).map(|i| (i * 37 + 5) % 300).collect();
    let rows = Driver::new(model, 4, 1, 24).all(0, &tokens, 9);
    let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
    rows.into_iter().map(bits).collect()
}

fn saved(name: &str, dtype: DType) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.packed");
    build(&golden(name), &options(dtype))
        .save_packed(&path)
        .unwrap();
    (dir, path)
}

fn packed_reason(error: LoadError) -> String {
    match error {
        LoadError::Packed { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_opened_is_what_was_saved() {
    for name in MODELS {
        for dtype in DType::ALL {
            let (dir, path) = saved(name, dtype);
            let options = options(dtype);
            let built = build(&golden(name), &options);
            let mapped = CpuModel::open_packed(&path, &options).unwrap();
            assert_eq!(
                format!("{:?}", mapped.info()),
                format!("{:?}", built.info())
            );
            assert_eq!(mapped.config(), built.config());
            assert_eq!(mapped.packed_bytes(), built.packed_bytes());
            CpuModel::verify_packed(&path).unwrap();
            // Saved again, onto itself, it is the same file.
            let first = std::fs::read(&path).unwrap();
            mapped.save_packed(&path).unwrap();
            assert!(first == std::fs::read(&path).unwrap());
            assert!(logits(mapped) == logits(built), "{name} {dtype}");
            let left = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(left, 1, "what was written aside is gone");
        }
    }
}

#[test]
fn another_type_is_refused_and_so_is_a_file_that_is_none() {
    let (dir, path) = saved("llama", DType::Int8);
    let error = CpuModel::open_packed(&path, &options(DType::Int4)).unwrap_err();
    assert!(matches!(
        error,
        LoadError::InvalidOption {
            option: "dtype",
            ..
        }
    ));
    let gone = dir.path().join("gone");
    let error = CpuModel::open_packed(&gone, &options(DType::Int8)).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }));
    let error = CpuModel::open_packed(dir.path(), &options(DType::Int8)).unwrap_err();
    assert!(matches!(error, LoadError::NotAFile { .. }));
    let foreign = golden("llama").join("model.safetensors");
    let error = CpuModel::open_packed(&foreign, &options(DType::Int8)).unwrap_err();
    assert!(packed_reason(error).contains("format"));
    let nowhere = dir.path().join("no/such/folder/file");
    let model = build(&golden("llama"), &options(DType::Int8));
    let error = model.save_packed(&nowhere).unwrap_err();
    assert!(matches!(error, LoadError::Write { path, .. } if path == nowhere));
    assert!(model.save_packed(Path::new("/")).is_err());
}

/// Writes `bytes` in place of the file; whether it opens.
fn reopened(path: &Path, bytes: &[u8], dtype: DType) -> Result<CpuModel, LoadError> {
    std::fs::write(path, bytes).unwrap();
    CpuModel::open_packed(path, &options(dtype))
}

#[test]
fn a_file_of_another_length_or_of_other_numbers_is_noticed() {
    let (_dir, path) = saved("qwen2", DType::Int4);
    let whole = std::fs::read(&path).unwrap();
    for len in [
        0,
        7,
        8,
        100,
        4095,
        4096,
        5000,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        let error = reopened(&path, &whole[..len], DType::Int4).unwrap_err();
        assert!(matches!(
            error,
            LoadError::Packed { .. } | LoadError::Truncated { .. }
        ));
    }
    let longer = [&whole[..], &[0]].concat();
    let error = reopened(&path, &longer, DType::Int4).unwrap_err();
    assert!(packed_reason(error).contains("follow its last tensor"));
    // A number that is another is found by who looks for it.
    for at in [whole.len() - 1, whole.len() / 2] {
        let mut other = whole.clone();
        other[at] ^= 1;
        reopened(&path, &other, DType::Int4).unwrap();
        let error = CpuModel::verify_packed(&path).unwrap_err();
        assert!(packed_reason(error).contains("hash"));
    }
}

/// The file with one text of its header replaced by another of the same length.
fn replaced(whole: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = whole.windows(from.len()).position(|w| w == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no {from}"));
    let mut other = whole.to_vec();
    other[at..at + to.len()].copy_from_slice(to.as_bytes());
    other
}

#[test]
fn a_header_that_lies_is_refused_by_name() {
    let (_dir, path) = saved("llama", DType::Int8);
    let whole = std::fs::read(&path).unwrap();
    for (from, to, says) in [
        (
            "llmserve packed weights",
            "llmserve packed whitest",
            "format",
        ),
        ("\"version\":\"1\"", "\"version\":\"9\"", "version"),
        ("le/panel32", "le/panel16", "layout"),
        ("\"dtype\":\"int8\"", "\"dtype\":\"int4\"", "seal"),
        ("num_heads\\\":4", "num_heads\\\":2", "seal"),
        (
            "layers.0.qkv.words",
            "layers.9.qkv.words",
            "layers.0.qkv.words",
        ),
        ("\"fingerprint\"", "\"fingerprimt\"", "seal"),
    ] {
        let error = reopened(&path, &replaced(&whole, from, to), DType::Int8).unwrap_err();
        let reason = packed_reason(error);
        assert!(reason.contains(says), "{from} -> {to}: {reason}");
    }
}

#[test]
fn an_embedding_before_the_other_weights_is_refused() {
    let (_dir, path) = saved("llama", DType::Int8);
    let whole = std::fs::read(&path).unwrap();
    let length = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&whole[8..length]).unwrap();
    let offsets = |value: &serde_json::Value| {
        [0, 1].map(|at| value["data_offsets"][at].as_u64().unwrap() as usize)
    };
    let embedding = "model.embed_tokens.weight";
    let [first, last] = offsets(&header[embedding]);
    let len = last - first;
    for (name, entry) in header.as_object_mut().unwrap() {
        if name == embedding {
            entry["data_offsets"] = serde_json::json!([0, len]);
        } else if name != "__metadata__" {
            let [begin, end] = offsets(entry);
            entry["data_offsets"] = serde_json::json!([begin + len, end + len]);
        }
    }
    let mut text = header.to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(4096) - 8, b' ');
    let data = &whole[length..];
    let length = (text.len() as u64).to_le_bytes();
    let moved = [&length[..], &text, &data[first..last], &data[..first]].concat();
    let error = reopened(&path, &moved, DType::Int8).unwrap_err();
    assert!(packed_reason(error).contains(embedding));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the header says, the model is an error or the one that was saved.
    #[test]
    fn no_header_makes_it_another_model(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..2),
    ) {
        use std::sync::OnceLock;
        static SAVED: OnceLock<(Vec<u8>, Vec<Vec<u32>>)> = OnceLock::new();
        let (whole, want) = SAVED.get_or_init(|| {
            let (_dir, path) = saved("qwen2", DType::Int8);
            let model = CpuModel::open_packed(&path, &options(DType::Int8)).unwrap();
            (std::fs::read(&path).unwrap(), logits(model))
        });
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let mut bytes = whole.clone();
        for (at, flip) in flips {
            bytes[at.index(header)] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        let dir = tempfile::tempdir().unwrap();
        match reopened(&dir.path().join("packed"), &bytes, DType::Int8) {
            Ok(model) => prop_assert!(&logits(model) == want),
            Err(LoadError::Packed { .. } | LoadError::Truncated { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// A copy of a golden folder that a test may change.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(golden(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn cached(dir: &TempDir, file: &Path, dtype: DType) -> CpuModel {
    let folder = ModelFolder::open(dir.path()).unwrap();
    folder.into_cpu_cached(options(dtype), file).unwrap().model
}

fn is_mapped(model: &CpuModel) -> bool {
    format!("{model:?}").contains("mapped")
}

#[test]
fn a_cache_is_used_while_it_is_the_checkpoints() {
    let dir = copy("llama");
    let weights = dir.path().join("model.safetensors");
    let file = dir.path().join("llmserve-int8.packed");
    let int8 = DType::Int8;
    assert!(!is_mapped(&cached(&dir, &file, int8)));
    assert!(is_mapped(&cached(&dir, &file, int8)));
    // Another type, in the same file.
    assert!(!is_mapped(&cached(&dir, &file, DType::BF16)));
    assert!(!is_mapped(&cached(&dir, &file, int8)));
    let before = cached(&dir, &file, int8);
    assert!(is_mapped(&before));

    // The checkpoint is written again: another last number, as long as before.
    let mut bytes = std::fs::read(&weights).unwrap();
    let modified = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.25f32.to_le_bytes());
    std::fs::write(&weights, &bytes).unwrap();
    let later = modified + std::time::Duration::from_secs(5);
    let touched = std::fs::File::options().write(true).open(&weights).unwrap();
    touched.set_modified(later).unwrap();
    let after = cached(&dir, &file, int8);
    assert!(!is_mapped(&after));
    assert_ne!(after.info().fingerprint, before.info().fingerprint);
    let mapped = cached(&dir, &file, int8);
    assert!(is_mapped(&mapped));
    assert_eq!(mapped.info().fingerprint, after.info().fingerprint);

    // Another configuration.
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["max_position_embeddings"] = 128.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let model = cached(&dir, &file, int8);
    assert!(!is_mapped(&model));
    assert_eq!(model.info().max_context, 128);

    // A damaged file is replaced.
    std::fs::write(&file, b"nonsense").unwrap();
    assert!(!is_mapped(&cached(&dir, &file, int8)));
    assert!(is_mapped(&cached(&dir, &file, int8)));
    // One that cannot be written is done without.
    let nowhere = dir.path().join("no/folder/file");
    assert!(!is_mapped(&cached(&dir, &nowhere, int8)));
}
