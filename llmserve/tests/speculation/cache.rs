//! What drafts leave behind in the KV cache: nothing.

use super::*;

/// Behaviour: drafts are never put in the prefix cache.
#[test]
fn what_can_be_hit_was_said() {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let seen = stored.clone();
    let sizes = Sizes {
        block_size: 2,
        blocks: 300,
        ..Sizes::default()
    };
    let engine = speculative(sizes, Oracle { wrong: 2 }).on_block_events(move |events| {
        for event in events {
            if let BlockEvent::Stored { tokens, .. } = event {
                seen.lock().unwrap().push(tokens.clone());
            }
        }
    });
    // Events are kept only by a manager built to.
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(sizes.blocks)
        .block_size(2)
        .root(IdentityRoot::new(1, "tokens", 2))
        .events(true);
    let engine = engine.kv(kv.build().unwrap()).build().unwrap();
    let mut said = Vec::new();
    for seed in 0..6u32 {
        let prompt = vec![2 + seed, 9, 4];
        let request = Request::tokens(prompt.clone())
            .max_tokens(30)
            .ignore_eos(true);
        let answer = engine
            .generate(request.temperature(0.8).seed(u64::from(seed)))
            .wait()
            .unwrap();
        said.push([prompt, answer.ids().to_vec()].concat());
    }
    assert!(engine.stats().spec_draft_tokens > engine.stats().spec_accepted_tokens);
    drained(&engine);
    let stored = stored.lock().unwrap();
    assert!(stored.len() > 60, "{}", stored.len());
    for block in &*stored {
        let known = said
            .iter()
            .any(|said| said.chunks_exact(2).any(|pair| pair == block));
        assert!(known, "{block:?} was never said");
    }
}

#[test]
fn cancelling_under_speculation_frees_everything() {
    let sizes = Sizes {
        block_size: 4,
        blocks: 80,
        ..Sizes::default()
    };
    let engine = speculative(sizes, Oracle { wrong: 4 }).build().unwrap();
    let mut streams: Vec<_> = requests(30, 8)
        .into_iter()
        .map(|request| engine.generate(request.max_tokens(60)))
        .collect();
    for stream in streams.iter_mut().step_by(2) {
        stream.blocking_next();
        stream.blocking_next();
    }
    let mut kept = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        if i % 2 == 1 {
            kept.push(stream);
        }
    }
    for stream in kept {
        stream.wait().unwrap();
    }
    drained(&engine);
}
