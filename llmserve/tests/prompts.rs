//! Prompts whose parts recur, with the tokenizers of real models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmserve::cache::prompt::CachingTokenizer;
use llmserve::model::HfTokenizer;
use llmserve::prelude::*;
use llmserve::{MemoryRecorder, ServeError, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m")
}

fn bard() -> Arc<dyn Tokenizer> {
    Arc::new(HfTokenizer::from_dir(&folder()).unwrap().unwrap())
}

const ATOMS: [&str; 24] = [
    "the", " king", " I'll", "'re", " ", "  ", "\n", "\n\n", "\t", "12", " 345", "é", "e\u{301}",
    "中文", "🙂", "!", "...", "<|user|>", "<|eot|>", "<|us", "er|>", " speak", "Yorick", "\u{a0}",
];

/// A text of so many parts, the same for the same seed.
fn text(seed: u64, parts: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    for _ in 0..parts {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        text += ATOMS[(state >> 33) as usize % ATOMS.len()];
    }
    text
}

#[test]
fn remembered_tokens_are_those_of_the_whole() {
    let inner = bard();
    for (chunk, max_bytes) in [(1, 8 << 20), (16, 8 << 20), (100, 8 << 20), (50, 4_000)] {
        let caching = CachingTokenizer::builder(inner.clone())
            .chunk_bytes(chunk)
            .max_bytes(max_bytes)
            .build()
            .unwrap();
        for seed in 0..200 {
            // Some begin alike, and each is met twice.
            let text = text(seed % 5, 60) + &text(seed / 2, seed as usize % 90);
            for add_special in [false, true] {
                assert_eq!(
                    caching.encode(&text, add_special),
                    inner.encode(&text, add_special),
                    "{text:?}"
                );
            }
        }
        let stats = caching.stats();
        assert!(stats.hits > 0 && stats.bytes <= max_bytes, "{stats:?}");
    }
}

#[test]
fn conversations_encode_what_is_new() {
    let inner = bard();
    let caching = CachingTokenizer::builder(inner.clone()).build().unwrap();
    let mut messages = vec![Message::system("You are the ghost of a king. ".repeat(60))];
    for turn in 0..6 {
        messages.push(Message::user(
            format!("What says number {turn} of them? ").repeat(8),
        ));
        let prompt = caching.render(&messages, &Default::default()).unwrap();
        let before = caching.stats().bytes_saved;
        assert_eq!(caching.encode(&prompt, false), inner.encode(&prompt, false));
        let again = prompt.len() - (caching.stats().bytes_saved - before) as usize;
        // Two turns and two pieces that had not come to their end.
        assert!(
            turn == 0 || again < 1_200,
            "{again} of {} bytes",
            prompt.len()
        );
        messages.push(Message::new(
            "assistant",
            format!("The answer {turn} is silence. ").repeat(9),
        ));
    }
}

#[test]
fn an_engine_answers_alike_with_and_without() {
    let recorder = Arc::new(MemoryRecorder::default());
    let small = || serve(folder()).kv_bytes(4 << 20).max_num_seqs(4).threads(1);
    let with = small().recorder(recorder.clone()).build().unwrap();
    let without = small().token_cache(0).build().unwrap();
    let system = "The king rises, and all his lords attend. ".repeat(14);
    for number in 0..3 {
        let request = || Request::text(format!("{system}ACT {number}")).max_tokens(4);
        let with = with.generate(request()).wait().unwrap();
        let without = without.generate(request()).wait().unwrap();
        assert_eq!(with.ids(), without.ids());
        assert_eq!(with.started.prompt_ids, without.started.prompt_ids);
    }
    let hits = recorder.value("llmserve_cache_hits_total");
    assert_eq!(hits, Some(2.0), "a piece of two prompts");
    let error = small().token_cache(1).build().err();
    assert!(
        matches!(error, Some(ServeError::TokenCache(_))),
        "{error:?}"
    );
}
