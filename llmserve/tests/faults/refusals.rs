//! Requests that cannot be served.

use llmserve::prelude::*;

use super::support::{PageModel, Sizes, drained, engine};

#[test]
fn requests_that_cannot_be_served_say_why() {
    let engine = engine(
        PageModel::hashing(),
        Sizes {
            blocks: 4,
            max_num_seqs: 8,
            ..Sizes::default()
        },
    );
    let refused = |request: Request| engine.generate(request).wait().unwrap_err();
    let field = |request: Request| match refused(request) {
        Error::InvalidRequest { field, .. } => field,
        other => panic!("{other}"),
    };
    let ok = || Request::tokens([2, 3]);
    assert_eq!(field(Request::tokens([])), "prompt");
    assert_eq!(field(Request::tokens([64])), "prompt");
    assert_eq!(field(Request::messages([])), "prompt");
    assert_eq!(field(ok().max_tokens(0)), "max_tokens");
    assert_eq!(field(ok().max_tokens(3).min_tokens(4)), "min_tokens");
    assert_eq!(field(ok().temperature(-1.0)), "temperature");
    assert_eq!(field(ok().temperature(f32::NAN)), "temperature");
    assert_eq!(field(ok().temperature(f32::INFINITY)), "temperature");
    assert_eq!(field(ok().top_p(0.0)), "top_p");
    assert_eq!(field(ok().top_p(1.5)), "top_p");
    assert_eq!(field(ok().top_k(0)), "top_k");
    assert_eq!(field(ok().min_p(2.0)), "min_p");
    assert_eq!(field(ok().n(0)), "n");
    assert_eq!(field(ok().n(9)), "n");
    assert_eq!(field(ok().stop("")), "stop");
    assert_eq!(field(ok().stop_token(64)), "stop_tokens");
    assert_eq!(field(ok().logprobs(65)), "logprobs");
    assert!(matches!(
        refused(Request::text("UPPER")),
        Error::Tokenizer(_)
    ));
    // 4 blocks of 16 hold 64 tokens, one of which must be new.
    match refused(Request::tokens(vec![2; 64])) {
        Error::PromptTooLong {
            tokens: 64,
            limit: 63,
            limited_by,
        } => {
            assert!(limited_by.contains("4 blocks of 16"), "{limited_by}");
        }
        other => panic!("{other}"),
    }
    let fits = engine
        .generate(Request::tokens(vec![2; 63]).ignore_eos(true))
        .wait()
        .unwrap();
    assert_eq!(
        (fits.ids().len(), &fits.choices[0].reason),
        (1, &Some(FinishReason::Length))
    );
    drained(&engine);
}
