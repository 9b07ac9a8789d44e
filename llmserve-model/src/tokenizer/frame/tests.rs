use super::super::{HfTokenizer, SpecialTokens, parse};
use llmserve_core::Tokenizer;
use serde_json::{Value, json};

fn with(processor: &Value) -> HfTokenizer {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": processor, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?",
                  "vocab": {"?": 0, "<s>": 1, "</s>": 2, "to": 3, "be": 4}}
    });
    let inner = parse(file.to_string().as_bytes()).unwrap();
    HfTokenizer::new(inner, SpecialTokens::default(), None)
}

fn template(single: &[&str]) -> Value {
    let pieces: Vec<_> = single
        .iter()
        .map(|piece| match *piece {
            "A" | "B" => json!({"Sequence": {"id": piece, "type_id": 0}}),
            token => json!({"SpecialToken": {"id": token, "type_id": 0}}),
        })
        .collect();
    json!({"type": "TemplateProcessing", "single": pieces,
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                              "two": {"id": "two", "ids": [2, 1], "tokens": ["</s>", "<s>"]}}})
}

#[test]
fn the_frame_is_what_add_special_adds() {
    let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
    let bert = json!({"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1],
                         "trim_offsets": true, "add_prefix_space": true});
    let sequence = |parts: &[&Value]| json!({"type": "Sequence", "processors": parts});
    let cases: [(Value, &[u32], &[u32]); 10] = [
        (Value::Null, &[], &[]),
        (level.clone(), &[], &[]),
        (bert.clone(), &[1], &[2]),
        (roberta, &[1], &[2]),
        (template(&["A"]), &[], &[]),
        (template(&["<s>", "A", "two"]), &[1], &[2, 1]),
        (template(&["two", "<s>", "A"]), &[2, 1, 1], &[]),
        (sequence(&[]), &[], &[]),
        (sequence(&[&level, &template(&["<s>", "A"])]), &[1], &[]),
        (sequence(&[&bert, &level]), &[1], &[2]),
    ];
    for (processor, before, behind) in cases {
        let tokenizer = with(&processor);
        assert_eq!(tokenizer.frame(), Some((before, behind)), "{processor}");
        for text in ["", "to be", "be ? be"] {
            let ids = tokenizer.encode(text, false).unwrap();
            let framed = [before, &ids, behind].concat();
            assert_eq!(tokenizer.encode(text, true).unwrap(), framed, "{processor}");
        }
    }
}

#[test]
fn what_does_more_than_frame_has_no_frame_and_no_seams() {
    let file = |single: &[&str]| template(single);
    let twice =
        json!({"type": "Sequence", "processors": [file(&["<s>", "A"]), file(&["<s>", "A"])]});
    for processor in [
        file(&["A", "A"]),
        file(&["<s>"]),
        file(&["B"]),
        file(&["A", "unknown"]),
        twice,
    ] {
        let tokenizer = with(&processor);
        assert_eq!(tokenizer.frame(), None, "{processor}");
        assert_eq!(tokenizer.seam("to be <s> to be", 1), None);
    }
}

#[test]
fn a_tokenizer_that_truncates_has_neither() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/bard-2m");
    let tokenizer = HfTokenizer::from_dir(folder.as_ref()).unwrap().unwrap();
    assert_eq!(tokenizer.seam("to be", 1), Some(2));
    assert_eq!(tokenizer.frame(), Some((&[0][..], &[][..])));
    for front in [false, true] {
        let tokenizer = HfTokenizer::from_dir(folder.as_ref()).unwrap().unwrap();
        let tokenizer = tokenizer.with_truncation(3, front).unwrap();
        assert_eq!(tokenizer.seam("to be", 1), None);
        assert_eq!(tokenizer.frame(), None);
    }
}
