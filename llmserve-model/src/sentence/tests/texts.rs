//! From texts to tokens: framed, cut, lower-cased.

use llmserve_core::Embedder;
use serde_json::json;

use super::tiny::{MOST, Tiny};

const CLS: u32 = 2;
const SEP: u32 = 3;
const A: u32 = 4;
const B: u32 = 5;

#[test]
fn the_empty_text_is_its_frame() {
    let encoder = Tiny::default().plain();
    for text in ["", " ", "\n\t "] {
        assert_eq!(encoder.tokens(text).unwrap(), [CLS, SEP]);
    }
    assert_eq!(encoder.embed(&[]).unwrap(), Vec::<Vec<f32>>::new());
    let vectors = encoder.embed(&["", " "]).unwrap();
    assert_eq!(vectors[0], vectors[1]);
}

#[test]
fn a_long_text_loses_its_end_and_keeps_its_frame() {
    let encoder = Tiny::default().plain();
    assert_eq!(encoder.max_tokens(), MOST);
    let fits = "a ".repeat(MOST - 2);
    let ids = encoder.tokens(&fits).unwrap();
    assert_eq!(ids.len(), MOST);
    let longer = format!("{fits} b b b");
    assert_eq!(encoder.tokens(&longer).unwrap(), ids);
    let vectors = encoder
        .embed(&[&fits, &longer, &"a ".repeat(5000)])
        .unwrap();
    assert_eq!(vectors[0], vectors[1]);
    assert_eq!(vectors[0], vectors[2]);
    // One token fewer is another text.
    let shorter = encoder.embed(&[&"a ".repeat(MOST - 3)]).unwrap();
    assert_ne!(vectors[0], shorter[0]);
}

#[test]
fn the_beginning_is_cut_where_the_tokenizer_says_so() {
    let left = Tiny::default().with("tokenizer_config.json", "truncation_side", json!("left"));
    let encoder = left.plain();
    let ids = encoder.tokens(&format!("{} b", "a ".repeat(100))).unwrap();
    assert_eq!(ids.len(), MOST);
    assert_eq!(
        (ids[0], ids[1], ids[MOST - 2], ids[MOST - 1]),
        (CLS, A, B, SEP)
    );
}

/// Neither padding nor the truncation to 3 tokens of `tokenizer.json` counts.
#[test]
fn without_a_length_of_its_own_the_tokenizers_and_the_positions_count() {
    let text = "a ".repeat(100);
    let silent = || Tiny::default().without("sentence_bert_config.json");
    assert_eq!(silent().plain().tokens(&text).unwrap().len(), 28);
    // A tokenizer without a limit says so with a number beyond any integer.
    let huge = silent().with("tokenizer_config.json", "model_max_length", json!(1e30));
    assert_eq!(huge.plain().tokens(&text).unwrap().len(), 32);
    let none = silent().without("tokenizer_config.json");
    let encoder = none.plain();
    assert_eq!(encoder.tokens(&text).unwrap().len(), 32);
    // Every position that there is.
    assert!(encoder.embed(&[&text]).is_ok());
}

#[test]
fn lower_casing_is_done_where_it_is_asked_for() {
    let as_is = Tiny::default().plain();
    let lower = Tiny::default()
        .with("sentence_bert_config.json", "do_lower_case", json!(true))
        .plain();
    assert_eq!(lower.tokens("A É").unwrap(), as_is.tokens("a é").unwrap());
    assert_ne!(as_is.tokens("A É").unwrap(), as_is.tokens("a é").unwrap());
}

#[test]
fn any_unicode_has_tokens() {
    let encoder = Tiny::default().plain();
    for text in [
        "é\u{301}",
        "你好 a",
        "\u{0}\u{feff}\u{202e}",
        "🦀🦀",
        "a\u{fffd}b",
        "ﬁ\u{1f468}\u{200d}",
    ] {
        let ids = encoder.tokens(text).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (CLS, SEP), "{text:?}");
        assert_eq!(encoder.embed(&[text]).unwrap()[0].len(), 20);
    }
}
