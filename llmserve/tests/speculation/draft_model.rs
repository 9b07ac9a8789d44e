//! A draft model by itself, without an engine.

use llmserve::Sampling;
use llmserve::sampling::Sampler;

use super::*;

/// Many sequences that go on, and a prompt that takes many passes: it must come to its drafts.
#[test]
fn a_long_prompt_is_read_beside_many_that_decode() {
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(1200)
        .block_size(4)
        .root(IdentityRoot::new(2, "draft", 4));
    let draft = DraftModel::new(PageModel::hashing(), kv.build().unwrap());
    let mut draft = draft.max_batched_tokens(8);
    let target = PageModel::hashing().info().clone();
    let limits = ProposerLimits {
        sequences: 21,
        max_len: 512,
        depth: 2,
    };
    draft.prepare(&target, limits).unwrap();

    let mut texts: Vec<Vec<TokenId>> = (0..20).map(|at| vec![2 + at, 5]).collect();
    texts.push((0..100).map(|at| 2 + at % 30).collect());
    let mut samplers = vec![Sampler::new(&Sampling::default(), 0, 0); texts.len()];
    let mut first = None;
    for round in 0..40 {
        let mut asks: Vec<DraftAsk<'_>> = texts
            .iter_mut()
            .zip(&mut samplers)
            .enumerate()
            .map(|(at, (text, sampler))| {
                DraftAsk::new(SequenceId::new(at as u32, 0), text, 2, 2, sampler)
            })
            .collect();
        let last = asks.last().unwrap().sequence();
        draft.propose(&mut asks).unwrap();
        let drafted: Vec<usize> = asks.iter().map(|ask| ask.drafted().len()).collect();
        let of = |ask: &DraftAsk<'_>| ask.sequence() == last;
        if asks.iter().any(|ask| of(ask) && !ask.drafted().is_empty()) {
            first.get_or_insert(round);
        }
        drop(asks);
        if round > 6 {
            // Those that only go on have theirs in every round.
            assert!(
                drafted[..20].iter().all(|drafts| *drafts == 2),
                "{drafted:?}"
            );
        }
        // Both drafts were right, and one more token came.
        for (text, drafts) in texts.iter_mut().zip(drafted) {
            if drafts > 0 {
                text.push(7);
            }
        }
    }
    assert!(first.is_some_and(|round| round < 25), "{first:?}");
}
