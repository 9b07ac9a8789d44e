//! Whole model folders: the golden ones open, broken ones say what is wrong.

use std::path::{Path, PathBuf};

use llmserve_core::{Message, Model, RenderOptions, TokenId, Tokenizer};
use llmserve_model::{CpuOptions, DecoderConfig, HfTokenizer, LoadError, ModelFolder, RopeScaling};
use serde_json::Value;
use tempfile::TempDir;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn bard() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m")
}

/// A copy of the golden Llama that a test may break.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(goldens().join("llama").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn open(dir: &TempDir) -> LoadError {
    ModelFolder::open(dir.path()).unwrap_err()
}

#[test]
fn golden_folders_open() {
    let llama = ModelFolder::open(&goldens().join("llama")).unwrap();
    assert_eq!((llama.config.num_layers, llama.config.head_dim), (2, 16));
    assert!(llama.tokenizer.is_none());
    let embedding = llama
        .weights
        .tensor("model.embed_tokens.weight", &[320, 64])
        .unwrap();
    assert!(embedding.to_f32().iter().all(|x| x.is_finite()));

    let rope = ModelFolder::open(&goldens().join("llama3-rope"))
        .unwrap()
        .config
        .rope;
    assert_eq!(rope.theta, 500_000.0);
    assert!(matches!(
        rope.scaling,
        RopeScaling::Llama3 {
            original_max_position: 32,
            ..
        }
    ));

    let qwen = ModelFolder::open(&goldens().join("qwen2")).unwrap();
    assert!(qwen.config.attention_bias && !qwen.config.output_bias);
    assert!(
        qwen.weights
            .contains("model.layers.0.self_attn.q_proj.bias")
    );
    assert!(
        !qwen
            .weights
            .contains("model.layers.0.self_attn.o_proj.bias")
    );

    let bard = ModelFolder::open(&bard()).unwrap();
    assert_eq!(bard.config.eos, [1, 5]);
    assert_eq!(bard.tokenizer.unwrap().vocab_size(), bard.config.vocab_size);
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (file, name) in [
        ("gemma2", "Gemma2ForCausalLM"),
        ("mixtral", "MixtralForCausalLM"),
        ("phi3", "Phi3ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("qwen3-moe", "Qwen3MoeForCausalLM"),
    ] {
        let text = std::fs::read_to_string(goldens().join(format!("configs/{file}.json"))).unwrap();
        match DecoderConfig::from_json(&text, None) {
            Err(LoadError::UnsupportedArchitecture {
                name: found,
                supported,
            }) => {
                assert_eq!(found, name);
                assert!(supported.contains("LlamaForCausalLM"));
            }
            other => panic!("{file}: {other:?}"),
        }
    }
    let text = std::fs::read_to_string(goldens().join("configs/mistral-sliding.json")).unwrap();
    match DecoderConfig::from_json(&text, None) {
        Err(LoadError::Unsupported { feature, .. }) => assert_eq!(feature, "sliding_window"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_folders_say_what_is_wrong() {
    let dir = copy();
    let error = ModelFolder::open(&dir.path().join("gone")).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }) && error.to_string().contains("gone"));

    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(matches!(open(&dir), LoadError::Missing { path, .. } if path.ends_with("config.json")));

    std::fs::write(dir.path().join("config.json"), "{\"architectures\": [").unwrap();
    assert!(matches!(open(&dir), LoadError::Corrupt { path, .. } if path.ends_with("config.json")));

    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    match open(&dir) {
        LoadError::Truncated { found, .. } => assert_eq!(found, whole.len() as u64 / 2),
        other => panic!("{other}"),
    }
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(
        open(&dir),
        LoadError::Truncated {
            found: 0,
            expected: 8,
            ..
        }
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&dir), LoadError::Missing { .. }));

    let dir = copy();
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(open(&dir), LoadError::Tokenizer { .. }));
}

#[test]
fn text_and_conversations_become_the_golden_ids() {
    let golden = std::fs::read_to_string(goldens().join("bard-2m.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let tokenizer = HfTokenizer::from_dir(&bard()).unwrap().unwrap();
    let ids = |case: &Value, field: &str| -> Vec<TokenId> {
        serde_json::from_value(case[field].clone()).unwrap()
    };
    let (mut prompts, mut chats) = (0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let expected = ids(case, "prompt_ids");
        if let Some(prompt) = case["prompt"].as_str() {
            assert_eq!(tokenizer.encode(prompt, true).unwrap(), expected);
            assert_eq!(tokenizer.encode(prompt, false).unwrap(), expected[1..]);
            assert_eq!(tokenizer.decode(&expected, true).unwrap(), prompt);
            prompts += 1;
        } else {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let text = tokenizer
                .render(&messages, &RenderOptions::default())
                .unwrap();
            assert_eq!(text, case["rendered"].as_str().unwrap());
            assert_eq!(tokenizer.encode(&text, false).unwrap(), expected);
            chats += 1;
        }
        let answer = tokenizer.decode(&ids(case, "greedy_ids"), false).unwrap();
        assert_eq!(answer, case["greedy_text"].as_str().unwrap());
    }
    assert!(prompts >= 7 && chats >= 1);
}

fn load(dir: &TempDir) -> LoadError {
    ModelFolder::load(dir.path(), CpuOptions::default()).unwrap_err()
}

/// Replaces a text of the configuration.
fn edit(dir: &TempDir, from: &str, to: &str) {
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn golden_folders_load() {
    for path in [goldens().join("llama"), goldens().join("qwen2"), bard()] {
        let loaded = ModelFolder::load(&path, CpuOptions::default()).unwrap();
        assert_eq!(loaded.model.info().vocab_size, loaded.config.vocab_size);
        assert_eq!(loaded.generation.eos, loaded.config.eos);
        assert_eq!(loaded.tokenizer.is_some(), path == bard());
    }
}

#[test]
fn weights_that_are_not_those_of_the_configuration_are_refused() {
    let dir = copy();
    edit(
        &dir,
        "\"intermediate_size\": 128",
        "\"intermediate_size\": 96",
    );
    match load(&dir) {
        LoadError::WrongShape {
            tensor,
            expected,
            found,
        } => {
            assert!(tensor.contains("mlp"), "{tensor}");
            assert!(expected.contains(&96) && found.contains(&128));
        }
        other => panic!("{other}"),
    }
    let dir = copy();
    edit(&dir, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    match load(&dir) {
        LoadError::MissingTensor { name } => assert!(name.contains("layers.2"), "{name}"),
        other => panic!("{other}"),
    }
    let dir = copy();
    edit(&dir, "\"vocab_size\": 320", "\"vocab_size\": 321");
    assert!(matches!(load(&dir), LoadError::WrongShape { .. }));
    let dir = copy();
    edit(
        &dir,
        "\"attention_bias\": false",
        "\"attention_bias\": true",
    );
    assert!(matches!(load(&dir), LoadError::MissingTensor { name } if name.ends_with(".bias")));
}

#[test]
fn a_checkpoint_with_more_than_its_configuration_is_refused() {
    let dir = copy();
    edit(&dir, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    match load(&dir) {
        LoadError::Unsupported { feature, .. } => {
            assert!(feature.starts_with("model.layers.1."), "{feature}");
        }
        other => panic!("{other}"),
    }
    let dir = copy();
    edit(
        &dir,
        "\"model_type\": \"llama\"",
        "\"model_type\": \"gemma2\"",
    );
    match open(&dir) {
        LoadError::Unsupported { feature, .. } => assert_eq!(feature, "model_type"),
        other => panic!("{other}"),
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_not_taken_for_absent() {
    for file in [
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    ] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(bard()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let path = dir.path().join(file);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let message = open(&dir).to_string();
        assert!(message.contains(file), "{message}");
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    match load(&dir) {
        LoadError::NonFinite {
            tensor,
            index,
            value,
        } => {
            assert!(
                value.is_nan() && index > 0 && tensor.ends_with(".weight"),
                "{tensor} {index}"
            );
        }
        other => panic!("{other}"),
    }
}
