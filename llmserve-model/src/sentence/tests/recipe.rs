//! Folders that say something else than what is computed, or contradict themselves.

use llmserve_core::Embedder;
use serde_json::{Value, json};

use super::tiny::{Tiny, options, refusal};
use crate::{DType, EncoderOptions, Kernels, LoadError, SentenceEncoder};

const CONFIG: &str = "config.json";
const POOLING: &str = "1_Pooling/config.json";
const TEXTS: &str = "sentence_bert_config.json";

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases: [(&str, &str, Value); 14] = [
        (CONFIG, "model_type", json!("roberta")),
        (CONFIG, "position_embedding_type", json!("relative_key")),
        (CONFIG, "is_decoder", json!(true)),
        (CONFIG, "add_cross_attention", json!(true)),
        (CONFIG, "quantization_config", json!({"bits": 4})),
        (CONFIG, "pruned_heads", json!({"0": [1]})),
        (CONFIG, "hidden_act", json!("relu")),
        (CONFIG, "num_attention_heads", json!(3)),
        (CONFIG, "layer_norm_eps", json!(-1.0)),
        (POOLING, "pooling_mode", json!("max")),
        (POOLING, "word_embedding_dimension", json!(21)),
        (TEXTS, "max_seq_length", json!(33)),
        (TEXTS, "do_lower_case", json!("yes")),
        (
            "config_sentence_transformers.json",
            "default_prompt_name",
            json!("query"),
        ),
    ];
    for (file, field, value) in cases {
        let error = refusal(&Tiny::default().with(file, field, value.clone()));
        let named = match &error {
            LoadError::Unsupported { feature, .. } => feature,
            LoadError::Config { field, .. } => field,
            other => panic!("{field} {value}: {other}"),
        };
        assert_eq!(named, field, "{error}");
    }
    let other = Tiny::default().with(CONFIG, "architectures", json!(["XLMRobertaModel"]));
    assert!(matches!(
        refusal(&other),
        LoadError::UnsupportedArchitecture { name, .. } if name == "XLMRobertaModel"
    ));
}

#[test]
fn one_mode_of_pooling_is_wanted() {
    let both = Tiny::default().with(POOLING, "pooling_mode_cls_token", json!(true));
    let error = refusal(&both).to_string();
    assert!(error.contains("cls_token with mean_tokens"), "{error}");
    let none = Tiny::default().with(POOLING, "pooling_mode_mean_tokens", json!(false));
    assert!(matches!(refusal(&none), LoadError::Config { .. }));
    let newer = none.with(POOLING, "pooling_mode", json!("mean"));
    let vectors = [newer, Tiny::default()].map(|tiny| tiny.plain().embed(&["ab"]).unwrap());
    assert_eq!(vectors[0], vectors[1]);
}

#[test]
fn other_modules_are_refused() {
    let module = |kind: &str| json!({"idx": 9, "name": "9", "path": "9", "type": kind});
    for (at, kind) in [
        (2, "sentence_transformers.models.Dense"),
        (2, "sentence_transformers.models.Pooling"),
        (0, "custom_st.Transformer"),
        (1, "sentence_transformers.models.Normalize"),
    ] {
        let mut tiny = Tiny::default();
        tiny.file("modules.json")[at]["type"] = json!(kind);
        let error = refusal(&tiny);
        assert!(
            matches!(&error, LoadError::Unsupported { reason, .. } if reason.contains(kind)),
            "{error}"
        );
    }
    let mut more = Tiny::default();
    let list = more.file("modules.json").as_array_mut().unwrap();
    list.push(module("sentence_transformers.models.Normalize"));
    assert!(matches!(refusal(&more), LoadError::Unsupported { .. }));
    for bad in [json!({}), json!([{}]), json!([1]), json!([])] {
        let mut tiny = Tiny::default();
        *tiny.file("modules.json") = bad.clone();
        assert!(
            matches!(
                refusal(&tiny),
                LoadError::Corrupt { .. } | LoadError::Unsupported { .. }
            ),
            "{bad}"
        );
    }
}

#[test]
fn the_encoder_may_lie_in_a_folder_of_its_own() {
    let mut tiny = Tiny::default();
    tiny.file("modules.json")[0]["path"] = json!("0_Transformer");
    let dir = tiny.write();
    let own = dir.path().join("0_Transformer");
    std::fs::create_dir(&own).unwrap();
    for file in [
        CONFIG,
        TEXTS,
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        std::fs::rename(dir.path().join(file), own.join(file)).unwrap();
    }
    let encoder = SentenceEncoder::open(dir.path(), &EncoderOptions::default()).unwrap();
    let flat = Tiny::default().plain();
    assert_eq!(encoder.identity(), flat.identity());
    assert_eq!(
        encoder.embed(&["ab"]).unwrap(),
        flat.embed(&["ab"]).unwrap()
    );
}

#[test]
fn modules_do_not_lead_out_of_the_folder() {
    for path in ["../elsewhere", "/etc", "1_Pooling/../../x"] {
        let mut tiny = Tiny::default();
        tiny.file("modules.json")[1]["path"] = json!(path);
        let error = refusal(&tiny);
        assert!(matches!(error, LoadError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn without_normalize_vectors_have_length_1_all_the_same() {
    let mut tiny = Tiny::default();
    tiny.file("modules.json").as_array_mut().unwrap().pop();
    assert_eq!(
        tiny.plain().embed(&["ab"]).unwrap(),
        Tiny::default().plain().embed(&["ab"]).unwrap()
    );
    // But lengths that somebody trained for are not dropped in silence.
    let name = "config_sentence_transformers.json";
    let dot = tiny.with(name, "similarity_fn_name", json!("dot"));
    assert!(matches!(refusal(&dot), LoadError::Unsupported { .. }));
    let normalised = Tiny::default().with(name, "similarity_fn_name", json!("dot"));
    assert!(normalised.open(&EncoderOptions::default()).is_ok());
}

#[test]
fn files_that_are_not_there_are_named() {
    for file in [CONFIG, "modules.json", POOLING, "tokenizer.json"] {
        let error = refusal(&Tiny::default().without(file));
        match &error {
            LoadError::Missing { path, .. } => assert!(path.ends_with(file), "{error}"),
            other => panic!("{file}: {other}"),
        }
    }
    let nowhere = SentenceEncoder::open("/no/such/folder".as_ref(), &EncoderOptions::default());
    assert!(matches!(nowhere, Err(LoadError::Missing { .. })));
}

#[test]
fn weights_must_be_those_of_the_configuration() {
    let name = "encoder.layer.1.output.dense.weight";
    let mut tiny = Tiny::default();
    tiny.tensors.retain(|(tensor, ..)| tensor != name);
    assert!(matches!(refusal(&tiny), LoadError::MissingTensor { name: n } if n == name));

    let wider = Tiny::default().with(CONFIG, "intermediate_size", json!(37));
    assert!(matches!(refusal(&wider), LoadError::WrongShape { .. }));

    let shallower = Tiny::default().with(CONFIG, "num_hidden_layers", json!(1));
    assert!(matches!(
        refusal(&shallower),
        LoadError::Unsupported { feature, .. } if feature.starts_with("encoder.layer.1.")
    ));

    for at in 0..Tiny::default().tensors.len() {
        let mut tiny = Tiny::default();
        let (name, _, values) = &mut tiny.tensors[at];
        values[3] = f32::NAN;
        let name = name.clone();
        match tiny.open(&EncoderOptions::default()) {
            Err(LoadError::NonFinite { tensor, index, .. }) => {
                assert_eq!((tensor, index), (name, 3));
            }
            Ok(_) => assert!(name.starts_with("pooler."), "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let small = Tiny::default().with(CONFIG, "vocab_size", json!(20));
    assert!(matches!(refusal(&small), LoadError::Tokenizer { .. }));
    let unframed = Tiny::default().with("tokenizer.json", "post_processor", json!(null));
    assert!(matches!(refusal(&unframed), LoadError::Tokenizer { .. }));
    let tight = Tiny::default().with(TEXTS, "max_seq_length", json!(1));
    assert!(matches!(refusal(&tight), LoadError::Tokenizer { .. }));
}

/// An encoder that gives every text nothing has no direction to tell.
#[test]
fn a_vector_of_length_0_is_an_error() {
    let mut tiny = Tiny::default();
    for (name, _, values) in &mut tiny.tensors {
        if name.starts_with("encoder.layer.1.output.LayerNorm") {
            values.fill(0.0);
        }
    }
    let error = tiny.plain().embed(&["ab"]).unwrap_err();
    assert_eq!(error.kind(), "model");
}

#[test]
fn the_identity_knows_all_that_changes_a_vector() {
    let fit = |identity: &str| {
        let hash = identity.strip_prefix("bert-").unwrap();
        hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let base = Tiny::default().plain();
    assert!(fit(base.identity()), "{}", base.identity());
    assert_eq!(base.identity(), Tiny::default().plain().identity());
    let portable = options(Kernels::Portable, DType::F32, 2);
    let portable = Tiny::default().open(&portable).unwrap();
    assert_eq!(base.identity(), portable.identity());

    let mut touched = Tiny::default();
    touched.tensors[0].2[0] += 0.5;
    let mut pooler = Tiny::default();
    pooler
        .tensors
        .retain(|(name, ..)| !name.starts_with("pooler."));
    assert_eq!(base.identity(), pooler.plain().identity());
    let others = [
        touched,
        Tiny::default().with(CONFIG, "hidden_act", json!("gelu_new")),
        Tiny::default().with(CONFIG, "layer_norm_eps", json!(1e-5)),
        Tiny::default().with(TEXTS, "max_seq_length", json!(23)),
        Tiny::default().with(TEXTS, "do_lower_case", json!(true)),
        Tiny::default().with("tokenizer_config.json", "truncation_side", json!("left")),
        Tiny::default().with(
            "tokenizer.json",
            "pre_tokenizer",
            json!({"type": "Whitespace"}),
        ),
        Tiny::default()
            .with(POOLING, "pooling_mode_mean_tokens", json!(false))
            .with(POOLING, "pooling_mode_cls_token", json!(true)),
    ];
    let mut seen = vec![base.identity().to_owned()];
    for (i, other) in others.iter().enumerate() {
        let identity = other.plain().identity().to_owned();
        assert!(!seen.contains(&identity), "{i}");
        seen.push(identity);
    }
    let bf16 = Tiny::default()
        .open(&options(Kernels::detect(), DType::BF16, 1))
        .unwrap();
    assert!(!seen.contains(&bf16.identity().to_owned()));
}
