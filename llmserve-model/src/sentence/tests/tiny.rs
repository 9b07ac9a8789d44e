//! A tiny random encoder in a folder of its own.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sentence::{EncoderOptions, SentenceEncoder};
use crate::weights::FileDType;
use crate::weights::testing::{f32_bytes, safetensors};
use crate::{DType, Kernels, LoadError};

pub(super) const VOCAB: usize = 40;
pub(super) const LAYERS: usize = 2;
pub(super) const EPS: f64 = 1e-12;
/// Tokens of a text at most.
pub(super) const MOST: usize = 24;

/// Sizes, and the files that say what is done with them.
pub(super) struct Tiny {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) files: Vec<(&'static str, Value)>,
    pub(super) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Default for Tiny {
    fn default() -> Self {
        Self::new(20, 36, 4)
    }
}

impl Tiny {
    pub(super) fn new(hidden: usize, inner: usize, heads: usize) -> Self {
        Self {
            hidden,
            heads,
            files: files(hidden, inner, heads),
            tensors: tensors(hidden, inner),
        }
    }

    /// Replaces a field of a file.
    pub(super) fn with(mut self, file: &str, field: &str, value: Value) -> Self {
        *self.file(file).get_mut(field).unwrap_or(&mut Value::Null) = value.clone();
        self.file(file)[field] = value;
        self
    }

    /// A whole file.
    pub(super) fn file(&mut self, name: &str) -> &mut Value {
        let found = self.files.iter_mut().find(|(file, _)| *file == name);
        &mut found.unwrap().1
    }

    pub(super) fn without(mut self, file: &str) -> Self {
        self.files.retain(|(name, _)| *name != file);
        self
    }

    pub(super) fn tensor(&self, name: &str) -> &[f32] {
        let found = self.tensors.iter().find(|(tensor, ..)| tensor == name);
        &found.unwrap().2
    }

    pub(super) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in &self.files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value.to_string()).unwrap();
        }
        let bytes: Vec<_> = self.tensors.iter().map(|(_, _, x)| f32_bytes(x)).collect();
        let listed: Vec<_> = self
            .tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| {
                (
                    name.as_str(),
                    FileDType::F32,
                    shape.as_slice(),
                    bytes.as_slice(),
                )
            })
            .collect();
        std::fs::write(dir.path().join("model.safetensors"), safetensors(&listed)).unwrap();
        dir
    }

    pub(super) fn open(&self, options: &EncoderOptions) -> Result<SentenceEncoder, LoadError> {
        let dir = self.write();
        SentenceEncoder::open(dir.path(), options)
    }

    /// In `f32`, with one thread.
    pub(super) fn plain(&self) -> SentenceEncoder {
        self.open(&options(Kernels::detect(), DType::F32, 1))
            .unwrap()
    }
}

pub(super) fn options(kernels: Kernels, dtype: DType, threads: usize) -> EncoderOptions {
    EncoderOptions {
        dtype,
        threads: Some(threads),
        kernels: Some(kernels),
    }
}

/// The error of an encoder that does not open.
pub(super) fn refusal(tiny: &Tiny) -> LoadError {
    tiny.open(&EncoderOptions::default()).unwrap_err()
}

/// Where the real one lies, if it was fetched.
pub(super) fn minilm() -> Option<std::path::PathBuf> {
    let dir = match std::env::var_os("LLMSERVE_MINILM") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/minilm"),
    };
    if dir.join("model.safetensors").exists() {
        return Some(dir);
    }
    // Not by `eprintln!`, which the harness keeps to itself where a test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: all-MiniLM-L6-v2 is not in {}: run .ci/minilm, or name its folder in \
         LLMSERVE_MINILM",
        dir.display()
    );
    None
}

fn files(hidden: usize, inner: usize, heads: usize) -> Vec<(&'static str, Value)> {
    let mut vocab = serde_json::Map::new();
    let letters = ('a'..='j').map(String::from);
    let pieces = ('a'..='j').map(|letter| format!("##{letter}"));
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from);
    let words = ["ab", "cd", "##ef", ".", "é"].map(String::from);
    for (id, token) in specials
        .into_iter()
        .chain(letters)
        .chain(pieces)
        .chain(words)
        .enumerate()
    {
        vocab.insert(token, id.into());
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    vec![
        (
            "config.json",
            json!({"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
                   "hidden_size": hidden, "intermediate_size": inner, "layer_norm_eps": EPS,
                   "num_attention_heads": heads, "num_hidden_layers": LAYERS,
                   "max_position_embeddings": 32, "type_vocab_size": 2, "vocab_size": VOCAB,
                   "position_embedding_type": "absolute"}),
        ),
        (
            "modules.json",
            json!([
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
            ]),
        ),
        (
            "1_Pooling/config.json",
            json!({"word_embedding_dimension": hidden, "pooling_mode_cls_token": false,
                   "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false}),
        ),
        (
            "sentence_bert_config.json",
            json!({"max_seq_length": MOST, "do_lower_case": false}),
        ),
        ("config_sentence_transformers.json", json!({})),
        ("tokenizer_config.json", json!({"model_max_length": 28})),
        (
            "tokenizer.json",
            json!({
                "version": "1.0",
                "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0},
                "padding": {"strategy": {"Fixed": 30}, "direction": "Right",
                            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
                            "pad_token": "[PAD]"},
                "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"),
                                 special(3, "[SEP]")],
                "normalizer": {"type": "BertNormalizer", "clean_text": true,
                               "handle_chinese_chars": true, "strip_accents": false,
                               "lowercase": false},
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                               {"Sequence": {"id": "A", "type_id": 0}},
                               {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                             {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {
                        "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                        "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
                    }
                },
                "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
                "model": {"type": "WordPiece", "unk_token": "[UNK]",
                          "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                          "vocab": vocab}
            }),
        ),
    ]
}

fn tensors(hidden: usize, inner: usize) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    // Name, shape, how far numbers lie around what.
    let mut wanted: Vec<(String, Vec<usize>, f32, f32)> = Vec::new();
    for (table, rows) in [("word", VOCAB), ("position", 32), ("token_type", 2)] {
        let name = format!("embeddings.{table}_embeddings.weight");
        wanted.push((name, vec![rows, hidden], 1.0, 0.0));
    }
    let mut norms = vec!["embeddings".to_owned()];
    for layer in 0..LAYERS {
        let part = |name: &str| format!("encoder.layer.{layer}.{name}");
        for (name, outputs, depth) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            let name = part(name);
            wanted.push((format!("{name}.weight"), vec![outputs, depth], 0.4, 0.0));
            wanted.push((format!("{name}.bias"), vec![outputs], 0.3, 0.0));
        }
        norms.extend([part("attention.output"), part("output")]);
    }
    for norm in norms {
        wanted.push((format!("{norm}.LayerNorm.weight"), vec![hidden], 0.3, 1.0));
        wanted.push((format!("{norm}.LayerNorm.bias"), vec![hidden], 0.3, 0.0));
    }
    let pooler = |part: &str, shape| (format!("pooler.dense.{part}"), shape, 1.0, 0.0);
    wanted.push(pooler("weight", vec![hidden, hidden]));
    wanted.push(pooler("bias", vec![hidden]));

    let mut state = 4321u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let made = |(name, shape, scale, shift): (String, Vec<usize>, f32, f32)| {
        let values = (0..shape.iter().product()).map(|_| number() * scale + shift);
        (name, shape.clone(), values.collect())
    };
    wanted.into_iter().map(made).collect()
}
