//! The published pairs of questions, with the embedder that needs no weights.

use std::error::Error;
use std::fs;
use std::sync::Arc;

use llmserve_cache::HashedNgrams;
use llmserve_cache::semantic::SemanticIndex;
use llmserve_core::Embedder;
use serde_json::Value;

#[test]
fn few_wrong_and_a_third_of_the_right() -> Result<(), Box<dyn Error>> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/data/semantic_pairs.jsonl"
    );
    let embedder = Arc::new(HashedNgrams::default());
    let index = SemanticIndex::builder(embedder.clone()).build()?;
    // Pairs and hits: of other questions, and of the same.
    let mut counts = [(0u32, 0u32); 2];
    for (number, line) in (0u128..).zip(fs::read_to_string(file)?.lines()) {
        let pair: Value = serde_json::from_str(line)?;
        let (Some(a), Some(b), Some(same)) = (
            pair["a"].as_str(),
            pair["b"].as_str(),
            pair["same"].as_bool(),
        ) else {
            return Err(format!("line {}: {line}", number + 1).into());
        };
        let vectors = embedder.embed(&[a, b])?;
        // Either may be stored first.
        let ask = |stored: (&str, &[f32]), asked: (&str, &[f32])| {
            index.insert(number, stored.0, stored.1, number)?;
            index.lookup(number, asked.0, asked.1)
        };
        let (a, b) = ((a, &vectors[0][..]), (b, &vectors[1][..]));
        let hit = ask(a, b)?.is_some_and(|found| found.is_hit());
        let turned = ask(b, a)?.is_some_and(|found| found.is_hit());
        assert_eq!(hit, turned, "{line}");
        let count = &mut counts[usize::from(same)];
        *count = (count.0 + 1, count.1 + u32::from(hit));
    }
    let [(others, wrong), (sames, right)] = counts;
    assert!(sames >= 550 && others >= 1_000, "{counts:?}");
    assert!(200 * wrong <= others, "false hits: {counts:?}");
    assert!(3 * right >= sames, "true hits: {counts:?}");
    Ok(())
}
