//! A constraint from strangers, and an answer under it: an error, or tokens that may follow.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use llmserve_core::{Constraint, GrammarCompiler, TokenMask};
use llmserve_model::{LlguidanceCompiler, ModelFolder};

static COMPILER: LazyLock<(LlguidanceCompiler, usize, Vec<u32>)> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/bard-2m");
    let folder = ModelFolder::open(Path::new(path)).expect("it is part of the repository");
    let (vocab_size, eos) = (folder.config.vocab_size, folder.config.eos.clone());
    let tokenizer = Arc::new(folder.tokenizer.expect("it has a tokenizer"));
    (LlguidanceCompiler::new(tokenizer, vocab_size, &eos), vocab_size, eos)
});

fuzz_target!(|data: (u8, &str, &[u8])| {
    let (kind, text, picks) = data;
    let constraint = match kind % 4 {
        0 => Constraint::JsonSchema(text.to_owned()),
        1 => Constraint::Regex(text.to_owned()),
        2 => Constraint::Choice(text.split('\n').map(str::to_owned).collect()),
        _ => Constraint::Lark(text.to_owned()),
    };
    let (compiler, vocab_size, eos) = &*COMPILER;
    let Ok(grammar) = compiler.compile(&constraint) else {
        return;
    };
    let mut matcher = grammar.matcher().expect("what compiles has matchers");
    let (mut mask, mut forced) = (TokenMask::none(*vocab_size), Vec::new());
    for pick in picks {
        forced.clear();
        if matcher.forced(&mut forced).is_err() || matcher.mask(&mut mask).is_err() {
            return;
        }
        if let Some(first) = forced.first() {
            assert!(mask.count() == 1 && mask.allows(*first), "{constraint:?}");
        }
        let allowed: Vec<_> = mask.iter().collect();
        let Some(token) = allowed.get(*pick as usize % allowed.len().max(1)) else {
            return;
        };
        if eos.contains(token) || matcher.accept(*token).is_err() {
            return;
        }
    }
});
