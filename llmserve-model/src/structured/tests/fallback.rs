//! Tokenizers as SentencePiece's are written: `▁` for a space, and bytes for what has no token.

use std::sync::Arc;

use llmserve_core::text::IncrementalDecoder;
use llmserve_core::{Constraint, GrammarCompiler, GrammarError, TokenId, TokenMask, Tokenizer};
use serde_json::{Map, Value, json};

use super::{EOS, Random, Rig, constraints, schema};
use crate::structured::LlguidanceCompiler;
use crate::tokenizer::HfTokenizer;

/// `tokenizer.json` in the way of Llama 2: a vocabulary without a token for line ends, quotation
/// marks, digits above 4 or letters beyond ASCII, but for `é`.
fn json() -> Value {
    let mut vocab = Map::new();
    let mut add = |token: &str| {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    };
    ["<unk>", "</s>", "<s>"].into_iter().for_each(&mut add);
    (0..=255).for_each(|byte| add(&format!("<0x{byte:02X}>")));
    "▁abcdefghijklmnopqrstuvwxyzABCDEFGHILMTUNOR01234{}:,.[]()-!?é"
        .chars()
        .for_each(|letter| add(&letter.to_string()));
    let pairs = [
        ("▁", "t"),
        ("h", "e"),
        ("▁t", "he"),
        ("▁the", "y"),
        ("H", "A"),
        ("HA", "M"),
        ("L", "E"),
        ("HAM", "LE"),
        ("▁", "b"),
        ("▁b", "e"),
        ("t", "o"),
        ("▁", "to"),
        ("▁", "▁"),
        ("k", "i"),
        ("n", "g"),
        ("ki", "ng"),
        ("▁", "{"),
        ("1", "2"),
    ];
    for (one, other) in pairs {
        add(&format!("{one}{other}"));
    }
    let merges: Vec<_> = pairs.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>"), special(2, "<s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges },
    })
}

fn tokenizer(json: &Value) -> Arc<HfTokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Arc::new(HfTokenizer::from_dir(dir.path()).unwrap().unwrap())
}

pub(super) fn rig() -> Rig {
    Rig::of(tokenizer(&json()))
}

/// The text of an answer, as an engine writes it behind a prompt.
fn text(rig: &Rig, tokens: &[TokenId]) -> String {
    let prompt = rig.tokenizer.encode("the", false).unwrap();
    let mut decoder = IncrementalDecoder::new(rig.tokenizer.clone(), true, &prompt);
    let mut text = String::new();
    for token in tokens {
        text.push_str(&decoder.push(*token).unwrap());
    }
    text + &decoder.finish()
}

/// What is walked at random is of the form, letter by letter: spaces, bytes and all.
#[test]
fn texts_are_of_their_form() {
    let rig = rig();
    let texts = [
        "HAMLET\nHORATIO",
        " the king",
        "to be  or\tnot",
        "é☃ü 56789",
        "they\u{0}\u{7f}",
        "<0x41></s>",
        "▁",
    ];
    let choice = Constraint::Choice(texts.map(String::from).into());
    let grammar = rig.compiler.compile(&choice).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut matcher = grammar.matcher().unwrap();
        let tokens = rig.walk(&mut *matcher, &mut Random(seed), 100, |_, _| ());
        let text = text(&rig, &tokens);
        assert!(texts.contains(&text.as_str()), "{text:?}: {tokens:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), texts.len());

    let object = r#"{"type":"object","properties":{"the king":{"type":"string","maxLength":6},
        "é\n":{"type":"integer","minimum":5,"maximum":70},"☃":{"enum":["ü","\\"]}},
        "required":["the king","é\n","☃"],"additionalProperties":false}"#;
    let grammar = rig.compiler.compile(&schema(object)).unwrap();
    for seed in 0..60 {
        let mut matcher = grammar.matcher().unwrap();
        let tokens = rig.walk(&mut *matcher, &mut Random(seed), 400, |_, _| ());
        assert!(matcher.is_complete());
        let text = text(&rig, &tokens);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        let name = value["the king"].as_str().unwrap();
        assert!(name.chars().count() <= 6, "{name:?}");
        assert!((5..=70).contains(&value["é\n"].as_i64().unwrap()), "{text}");
        assert!(
            ["ü", "\\"].contains(&value["☃"].as_str().unwrap()),
            "{text}"
        );
    }
}

/// Forced text is in the tokens that the tokenizer has for it in the middle of a text: no space is
/// put before it, and what has no token comes in bytes.
#[test]
fn forced_text_has_no_space_before_it() {
    let rig = rig();
    let id = |token: &str| rig.tokenizer.token_id(token).unwrap();
    for (text, expected) in [
        ("HAMLET", vec!["HAMLE", "T"]),
        (" they be", vec!["▁they", "▁be"]),
        ("the\n", vec!["t", "he", "<0x0A>"]),
        ("é☃", vec!["é", "<0xE2>", "<0x98>", "<0x83>"]),
        ("12{5", vec!["12", "{", "<0x35>"]),
    ] {
        let mut matcher = rig.matcher(&Constraint::Choice(vec![text.to_owned()]));
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        let mut forced = Vec::new();
        matcher.forced(&mut forced).unwrap();
        assert!(
            expected.starts_with(&forced),
            "{text}: {forced:?}, {expected:?}"
        );
        for token in &expected {
            assert!(rig.mask(&mut *matcher).allows(*token), "{text}");
            matcher.accept(*token).unwrap();
        }
        assert!(matcher.is_complete(), "{text}");
        assert_eq!(self::text(&rig, &expected), text);
    }
}

/// No special token and no `<unk>` is ever allowed, whatever may follow.
#[test]
fn special_tokens_are_no_text() {
    let rig = rig();
    for constraint in [Constraint::Regex("(.|\\n){0,40}".to_owned())]
        .iter()
        .chain(&constraints())
    {
        let mut matcher = rig.matcher(constraint);
        rig.walk(&mut *matcher, &mut Random(3), 60, |tokens, mask| {
            let special = [0, 2].into_iter().any(|token| mask.allows(token));
            assert!(!special, "{constraint:?} after {tokens:?}");
        });
    }
    let mut matcher = rig.matcher(&Constraint::Regex("(.|\\n){0,40}".to_owned()));
    let mut mask = TokenMask::none(rig.vocab_size);
    matcher.mask(&mut mask).unwrap();
    // Any ASCII byte, the first byte of a letter with several, but none that is inside of one.
    let byte = |byte: u8| rig.tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap();
    assert!(mask.allows(byte(b'\n')) && mask.allows(byte(0xe2)) && mask.allows(EOS));
    assert!(!mask.allows(byte(0x98)) && !mask.allows(byte(0xff)));
}

/// A vocabulary in another form than a table of names is refused, with the reason.
#[test]
fn other_vocabularies_are_refused() {
    let mut unigram = json();
    unigram["model"] = json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["<s>", 0.0], ["▁a", -1.0], ["b", -2.0]] });
    let mut plain = json();
    plain["decoder"] = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    for json in [unigram, plain] {
        let tokenizer = tokenizer(&json);
        let vocab_size = tokenizer.vocab_size();
        let compiler = LlguidanceCompiler::new(tokenizer, vocab_size, &[EOS]);
        for _ in 0..2 {
            let refused = compiler.compile(&Constraint::Regex("a".to_owned()));
            let refused = refused.map(|_| ());
            assert!(
                matches!(refused, Err(GrammarError::Unsupported(_))),
                "{refused:?}"
            );
        }
    }
}
