use super::*;
use serde_json::json;
use tempfile::TempDir;

/// A tokenizer of whole words with the pieces under test.
fn word_level() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [
            {"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?",
                  "vocab": {"<pad>": 0, "<s>": 1, "?": 2, "to": 3, "be": 4, "or": 5, "not": 6}}
    })
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn open(files: &[(&str, &str)]) -> Result<Option<HfTokenizer>, LoadError> {
    HfTokenizer::from_dir(folder(files).path())
}

fn with_config(config: Value) -> Result<HfTokenizer, LoadError> {
    let tokenizer = word_level().to_string();
    let config = config.to_string();
    Ok(open(&[
        ("tokenizer.json", &tokenizer),
        ("tokenizer_config.json", &config),
    ])?
    .unwrap())
}

#[test]
fn no_tokenizer_is_no_error() {
    assert!(open(&[]).unwrap().is_none());
}

#[test]
fn prompts_are_neither_cut_nor_padded() {
    let tokenizer = with_config(json!({})).unwrap();
    let text = "to be or not to be";
    assert_eq!(tokenizer.encode(text, false).unwrap(), [3, 4, 5, 6, 3, 4]);
    assert_eq!(tokenizer.encode(text, true).unwrap(), [1, 3, 4, 5, 6, 3, 4]);
    assert_eq!(tokenizer.encode("", false).unwrap(), [0u32; 0]);
}

#[test]
fn special_texts_are_tokens_wherever_they_stand() {
    let tokenizer = with_config(json!({})).unwrap();
    assert_eq!(tokenizer.encode("to <s> be", false).unwrap(), [3, 1, 4]);
    assert_eq!(tokenizer.special_token_texts(), ["<pad>", "<s>"]);
    assert_eq!(tokenizer.decode(&[1, 3, 4], true).unwrap(), "to be");
    assert_eq!(tokenizer.decode(&[1, 3, 4], false).unwrap(), "<s> to be");
}

#[test]
fn ids_beyond_the_vocabulary_decode_to_nothing() {
    let tokenizer = with_config(json!({})).unwrap();
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!(
        tokenizer.decode(&[3, 7, u32::MAX, 4], true).unwrap(),
        "to be"
    );
    assert_eq!(tokenizer.token_id("not"), Some(6));
    assert_eq!(tokenizer.token_id("nothing"), None);
}

#[test]
fn special_tokens_are_read_in_both_spellings() {
    let tokenizer = with_config(json!({
        "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
        "model_max_length": 1e30, "added_tokens_decoder": {},
    }))
    .unwrap();
    let tokens = tokenizer.special_tokens();
    assert_eq!(tokens.get("bos_token"), Some("<s>"));
    assert_eq!(tokens.get("eos_token"), Some("</s>"));
    assert_eq!(tokens.get("pad_token"), None);
    assert!(matches!(
        with_config(json!({"bos_token": 1})),
        Err(LoadError::Config { field, .. }) if field == "bos_token"
    ));
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let say = |tokenizer: &HfTokenizer| tokenizer.render(&[], &RenderOptions::default());
    let none = with_config(json!({})).unwrap();
    assert_eq!(say(&none), Err(TokenizerError::NoTemplate));
    let text = with_config(json!({"chat_template": "one", "bos_token": "<s>"})).unwrap();
    assert_eq!(say(&text).unwrap(), "one");
    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}
    ]});
    assert_eq!(say(&with_config(named).unwrap()).unwrap(), "plain");
    let other = json!({"chat_template": [{"name": "rag", "template": "x"}]});
    let error = with_config(other).unwrap_err();
    assert!(matches!(error, LoadError::Template { .. }) && error.to_string().contains("rag"));
    for wrong in [json!(1), json!([1]), json!([{"name": "default"}])] {
        assert!(matches!(
            with_config(json!({"chat_template": wrong})),
            Err(LoadError::Config { .. })
        ));
    }
    let broken = with_config(json!({"chat_template": "{% if %}"})).unwrap_err();
    assert!(matches!(broken, LoadError::Template { .. }));

    let tokenizer = word_level().to_string();
    let beside = open(&[
        ("tokenizer.json", &tokenizer),
        (
            "tokenizer_config.json",
            r#"{"chat_template": "old", "bos_token": "<s>"}"#,
        ),
        ("chat_template.jinja", "{{ bos_token }}new"),
    ]);
    assert_eq!(say(&beside.unwrap().unwrap()).unwrap(), "<s>new");
}

#[test]
fn broken_tokenizers_are_errors() {
    for text in [
        "",
        "{}",
        "[]",
        "{\"model\": {\"type\": \"WordLevel\"}}",
        "\u{0}",
    ] {
        let error = open(&[("tokenizer.json", text)]).unwrap_err();
        assert!(
            matches!(error, LoadError::Tokenizer { .. }),
            "{text:?}: {error}"
        );
    }
    let tokenizer = word_level().to_string();
    let error = open(&[
        ("tokenizer.json", &tokenizer),
        ("tokenizer_config.json", "{"),
    ])
    .unwrap_err();
    assert!(matches!(error, LoadError::Corrupt { .. }));
}

#[test]
fn dropout_is_refused() {
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": 0.1, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "vocab": {"a": 0, "b": 1, "ab": 2},
                  "merges": ["a b"]}
    });
    let error = open(&[("tokenizer.json", &tokenizer.to_string())]).unwrap_err();
    assert!(error.to_string().contains("dropout"), "{error}");
}

#[test]
fn shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<HfTokenizer>();
}
