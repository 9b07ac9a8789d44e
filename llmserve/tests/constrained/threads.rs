//! Who compiles, and who computes masks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use llmserve::prelude::*;

use super::support::{PageModel, Sizes, VOCAB, builder, drained};
use super::texts::Texts;
use super::words;

/// A constraint is compiled once, and masks are computed on threads of their own where there are.
#[test]
fn compiled_once_and_masked_beside_the_model() {
    for threads in [0, 2] {
        let compiler = Arc::new(Texts::default());
        let engine = builder(PageModel::hashing(), Sizes::default())
            .grammars(compiler.clone())
            .mask_threads(threads)
            .build()
            .unwrap();
        let streams: Vec<_> = (0..20)
            .map(|seed| engine.generate(words().seed(seed)))
            .collect();
        for stream in streams {
            stream.wait().unwrap();
        }
        assert!(
            compiler.compiled.load(Ordering::SeqCst) <= 2,
            "two lanes at most"
        );
        drained(&engine);
        assert!(engine.stats().masks >= 20);
        let names = compiler.threads.lock().clone();
        let own = names
            .iter()
            .filter(|name| name.starts_with("llmserve-masks"));
        match threads {
            0 => assert_eq!(own.count(), 0),
            _ => assert!(names.iter().all(|name| name.starts_with("llmserve-"))),
        }
        const { assert!(VOCAB > 32) };
    }
}
