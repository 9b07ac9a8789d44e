use super::*;
use serde_json::{Value, json};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": false,
        "rope_theta": 10000.0, "torch_dtype": "float32", "pretraining_tp": 2, "use_cache": true
    })
}

/// The Llama configuration with some fields replaced.
fn with(changes: Value) -> Result<DecoderConfig, LoadError> {
    let mut config = llama();
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    DecoderConfig::from_json(&config.to_string(), None)
}

fn without(field: &str) -> Result<DecoderConfig, LoadError> {
    let mut config = llama();
    config.as_object_mut().unwrap().remove(field);
    DecoderConfig::from_json(&config.to_string(), None)
}

/// The field that an error names.
fn named(result: Result<DecoderConfig, LoadError>) -> String {
    match result {
        Err(LoadError::Config { field, .. }) => field,
        Err(LoadError::Unsupported { feature, .. }) => feature,
        other => panic!("expected an error that names a field, got {other:?}"),
    }
}

#[test]
fn older_and_newer_spellings_mean_the_same() {
    let old =
        with(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}})).unwrap();
    let new = with(json!({
        "rope_theta": null, "torch_dtype": null, "dtype": "float32", "rope_scaling": null,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}
    }))
    .unwrap();
    assert_eq!(old, new);
    assert_eq!(old.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(old.rope.theta, 5e5);
    assert_eq!(old.weights_dtype, Some(FileDType::F32));
}

#[test]
fn llama3_scaling() {
    let config = with(json!({"rope_scaling": {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 32, "rope_type": "llama3"
    }}))
    .unwrap();
    assert_eq!(
        config.rope.scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 32
        }
    );
}

#[test]
fn defaults() {
    assert_eq!(without("num_key_value_heads").unwrap().num_kv_heads, 4);
    assert_eq!(with(json!({})).unwrap().head_dim, 16);
    assert_eq!(with(json!({"head_dim": 24})).unwrap().head_dim, 24);
    assert_eq!(
        with(json!({"head_dim": null, "num_key_value_heads": null}))
            .unwrap()
            .num_kv_heads,
        4
    );
    assert_eq!(without("rope_theta").unwrap().rope.theta, 10_000.0);
    assert!(!without("tie_word_embeddings").unwrap().tie_embeddings);
    let no_end = with(json!({"eos_token_id": null, "bos_token_id": null})).unwrap();
    assert_eq!((no_end.eos, no_end.bos), (vec![], None));
}

#[test]
fn end_tokens_are_merged() {
    let mut config = llama();
    config["eos_token_id"] = json!([7, 1, 7]);
    let generation = r#"{"eos_token_id": [1, 5], "bos_token_id": 9, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 0}"#;
    let config = DecoderConfig::from_json(&config.to_string(), Some(generation)).unwrap();
    assert_eq!(config.eos, [7, 1, 5]);
    assert_eq!(config.bos, Some(0));
}

#[test]
fn suggested_sampling() {
    let read = |text: &str| GenerationConfig::from_fields(&Fields::parse(text.as_bytes()).unwrap());
    let suggested = read(r#"{"do_sample": true, "temperature": 0.5, "top_k": 20}"#)
        .unwrap()
        .sampling();
    assert_eq!(
        (suggested.temperature, suggested.top_p, suggested.top_k),
        (0.5, 1.0, Some(20))
    );
    assert!(
        read(r#"{"temperature": 0.5}"#)
            .unwrap()
            .sampling()
            .is_greedy()
    );
    for wrong in [
        r#"{"temperature": -1}"#,
        r#"{"temperature": 1e300}"#,
        r#"{"top_p": 0}"#,
        r#"{"top_k": -1}"#,
        r#"{"do_sample": "yes"}"#,
        r#"{"eos_token_id": -1}"#,
        r#"{"eos_token_id": [1, "2"]}"#,
        r#"{"repetition_penalty": 0}"#,
    ] {
        assert!(
            matches!(read(wrong), Err(LoadError::Config { .. })),
            "{wrong}"
        );
    }
}

#[test]
fn biases_follow_the_architecture() {
    let llama = with(json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(llama.attention_bias && llama.output_bias && llama.mlp_bias);
    let qwen = with(json!({
        "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": false, "sliding_window": 32,
        "max_window_layers": 28, "layer_types": ["full_attention", "full_attention"]
    }))
    .unwrap();
    assert!(qwen.attention_bias && !qwen.output_bias && !qwen.mlp_bias);
    assert_eq!(
        named(with(
            json!({"architectures": ["MistralForCausalLM"], "attention_bias": true})
        )),
        "attention_bias"
    );
}

#[test]
fn sliding_windows_are_refused_by_name() {
    for (architecture, extra) in [
        ("MistralForCausalLM", json!({})),
        ("LlamaForCausalLM", json!({})),
        ("Qwen2ForCausalLM", json!({"use_sliding_window": true})),
    ] {
        let mut changes = extra;
        changes["architectures"] = json!([architecture]);
        changes["sliding_window"] = json!(255);
        assert_eq!(named(with(changes.clone())), "sliding_window");
        // A window that hides nothing is no window.
        changes["sliding_window"] = json!(256);
        with(changes).unwrap();
    }
    assert_eq!(
        named(with(
            json!({"layer_types": ["full_attention", "sliding_attention"]})
        )),
        "layer_types"
    );
}

#[test]
fn a_mistral_that_names_no_window_has_the_one_of_transformers() {
    let mistral = |context: u32| json!({"architectures": ["MistralForCausalLM"], "max_position_embeddings": context});
    with(mistral(4096)).unwrap();
    let error = with(mistral(4097)).unwrap_err();
    assert!(
        matches!(&error, LoadError::Unsupported { feature, .. } if feature == "sliding_window"),
        "{error}"
    );
    assert!(error.to_string().contains("4096"), "{error}");
    let mut full = mistral(32_768);
    full["sliding_window"] = json!(null);
    with(full).unwrap();
    // Of the others, silence means none.
    with(json!({"max_position_embeddings": 32_768})).unwrap();
}

#[test]
fn end_tokens_are_counted() {
    let ids = |n: u32| json!((0..n).map(|i| i % 300).collect::<Vec<_>>());
    assert_eq!(
        with(json!({"eos_token_id": ids(1024)})).unwrap().eos.len(),
        300
    );
    assert_eq!(
        named(with(json!({"eos_token_id": ids(1025)}))),
        "eos_token_id"
    );
    let generation = json!({"eos_token_id": (0..1_500_000).collect::<Vec<u32>>()}).to_string();
    let result = DecoderConfig::from_json(&llama().to_string(), Some(&generation));
    assert_eq!(named(result), "eos_token_id");
}

#[test]
fn unknown_architectures_are_named_with_those_supported() {
    let error = with(json!({"architectures": ["MambaForCausalLM"]})).unwrap_err();
    assert!(
        matches!(&error, LoadError::UnsupportedArchitecture { name, .. } if name == "MambaForCausalLM")
    );
    assert!(
        error
            .to_string()
            .contains("LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM")
    );
    for wrong in [
        json!(null),
        json!([]),
        json!("LlamaForCausalLM"),
        json!([1]),
        json!(["a", "b"]),
    ] {
        assert_eq!(
            named(with(json!({"architectures": wrong}))),
            "architectures"
        );
    }
}

#[test]
fn what_would_change_a_number_is_refused_by_name() {
    for (field, value) in [
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("partial_rotary_factor", json!(0.5)),
        ("attn_logit_softcapping", json!(50.0)),
        ("query_pre_attn_scalar", json!(256)),
        ("embedding_multiplier", json!(12.0)),
        ("num_local_experts", json!(8)),
        ("use_qk_norm", json!(true)),
        ("hidden_act", json!("relu")),
        ("torch_dtype", json!("float8_e4m3fn")),
    ] {
        assert_eq!(named(with(json!({field: value}))), field);
    }
    // What says the same as silence passes.
    with(
        json!({"partial_rotary_factor": 1, "logits_scaling": 1.0, "use_qk_norm": false,
                "attn_logit_softcapping": null, "quantization_config": null}),
    )
    .unwrap();
}

#[test]
fn rope_is_refused_where_it_is_not_understood() {
    let rope = |object: Value| named(with(json!({"rope_scaling": object})));
    assert_eq!(
        rope(json!({"rope_type": "yarn", "factor": 4})),
        "rope_scaling.rope_type"
    );
    assert_eq!(
        rope(json!({"type": "dynamic", "factor": 4})),
        "rope_scaling.rope_type"
    );
    assert_eq!(
        rope(json!({"type": "mrope", "rope_type": "default"})),
        "rope_scaling.type"
    );
    assert_eq!(rope(json!({"type": "linear"})), "rope_scaling.factor");
    assert_eq!(
        rope(json!({"type": "linear", "factor": 0.5})),
        "rope factor"
    );
    assert_eq!(
        rope(json!({"type": "linear", "factor": 2, "beta_fast": 32})),
        "rope_scaling.beta_fast"
    );
    assert_eq!(
        rope(json!({"rope_type": "default", "factor": 8})),
        "rope_scaling.factor"
    );
    assert_eq!(
        rope(json!({"partial_rotary_factor": 0.25})),
        "rope_scaling.partial_rotary_factor"
    );
    assert_eq!(rope(json!({"rope_theta": 5.0})), "rope_theta");
    assert_eq!(
        rope(json!({"full_attention": {"rope_type": "default"}})),
        "rope_scaling.full_attention"
    );
    assert_eq!(rope(json!("linear")), "rope_scaling");
    assert_eq!(
        rope(
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                    "original_max_position_embeddings": 32})
        ),
        "high_freq_factor"
    );
    assert_eq!(
        rope(
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4})
        ),
        "rope_scaling.original_max_position_embeddings"
    );
    for theta in [json!(0.0), json!(-1), json!(1e-3)] {
        assert_eq!(named(with(json!({"rope_theta": theta}))), "rope_theta");
    }
    assert_eq!(
        named(with(
            json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}})
        )),
        "rope_scaling"
    );
}

#[test]
fn every_size_is_checked() {
    for field in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ] {
        assert_eq!(named(without(field)), field);
    }
    for field in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for wrong in [
            json!(0),
            json!(-1),
            json!(u64::MAX),
            json!(1.5),
            json!("64"),
            json!([64]),
            json!(true),
        ] {
            let error = with(json!({field: wrong})).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(field) && text.contains(&wrong.to_string()),
                "{text}"
            );
        }
    }
    assert_eq!(
        named(with(json!({"num_key_value_heads": 3}))),
        "num_key_value_heads"
    );
    assert_eq!(
        named(with(json!({"num_key_value_heads": 8}))),
        "num_key_value_heads"
    );
    assert_eq!(named(with(json!({"hidden_size": 66}))), "head_dim");
    assert_eq!(named(with(json!({"head_dim": 15}))), "head_dim");
    for eps in [
        json!(0),
        json!(-1e-6),
        json!(1e300),
        json!(1e-300),
        json!("1e-6"),
    ] {
        assert_eq!(named(with(json!({"rms_norm_eps": eps}))), "rms_norm_eps");
    }
    assert_eq!(named(with(json!({"eos_token_id": 320}))), "eos_token_id");
    assert_eq!(
        named(with(json!({"bos_token_id": 5_000_000_000u64}))),
        "bos_token_id"
    );
}

#[test]
fn bad_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let read = || DecoderConfig::from_dir(dir.path());
    assert!(matches!(read(), Err(LoadError::Missing { .. })));
    let path = dir.path().join("config.json");
    for text in ["", "{", "[]", "{\"a\": NaN}", "\u{feff}{}"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(read(), Err(LoadError::Corrupt { .. })), "{text:?}");
    }
    std::fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(matches!(read(), Err(LoadError::Corrupt { .. })));
    std::fs::write(&path, llama().to_string()).unwrap();
    read().unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        "{\"eos_token_id\": 3}",
    )
    .unwrap();
    assert_eq!(read().unwrap().eos, [1, 3]);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(read(), Err(LoadError::NotAFile { .. })));
}

proptest::proptest! {
    /// Whatever numbers a file holds, what is accepted can be multiplied.
    #[test]
    fn accepted_sizes_never_overflow(
        hidden in proptest::prelude::any::<u64>(), shift in 0u32..64,
        heads in 1u64..5000, kv in 1u64..5000, dim in proptest::option::of(1u64..5000),
        vocab in proptest::prelude::any::<u32>(),
    ) {
        let result = with(json!({
            "hidden_size": hidden >> shift, "num_attention_heads": heads, "num_key_value_heads": kv,
            "head_dim": dim, "vocab_size": vocab,
        }));
        if let Ok(c) = result {
            let product = |a: usize, b: usize| a.checked_mul(b).and_then(|x| x.checked_mul(4));
            proptest::prop_assert!(product(c.hidden_size, c.vocab_size).is_some());
            proptest::prop_assert!(product(c.num_heads * c.head_dim, c.hidden_size).is_some());
            proptest::prop_assert_eq!(c.num_heads % c.num_kv_heads, 0);
        }
    }
}
