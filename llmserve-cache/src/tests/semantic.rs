//! Questions that mean the same, through the layer.

use llmserve_core::{Embedder, Message};

use super::*;
use crate::semantic::{ErrorBound, SemanticIndex};
use crate::{
    BuildError, CacheLayer, HashedNgrams, Key, MemoryStore, Policy, Scope, Semantic, Source, Store,
};

/// What is asked and what is nearly the same, to hashed n-grams.
const ASKED: &str = "How do I reset the password of my account?";
const AGAIN: &str = "how do i reset the password of my account";
const NOT: &str = "How do I not reset the password of my account?";

fn level() -> Semantic {
    let index = SemanticIndex::builder(Arc::new(HashedNgrams::default()));
    Semantic::new(index.build().unwrap())
}

fn ask(text: &str) -> Request {
    Request::messages([Message::system("Be brief."), Message::user(text)])
}

/// Says which question it was asked.
fn echo() -> Arc<Scripted> {
    Scripted::new(|request| match &request.prompt {
        llmserve_core::Prompt::Messages(messages) => says(&messages[messages.len() - 1].content),
        other => says(&format!("{other:?}")),
    })
}

/// Asks, and waits until the level's thread has learnt what there was to learn.
#[track_caller]
fn answer(cached: &CacheLayer, request: Request) -> (String, Source) {
    let (stream, trace) = cached.generate_traced(request);
    let text = stream.wait().unwrap().text().replace("held back", "");
    // Jobs are done in order, so whoever has an answer comes after all that was to be learnt.
    let flush = Request::messages([Message::user("flush")]).tenant("flush");
    cached.generate(flush.clone()).wait().unwrap();
    cached.forget(&flush);
    (text, trace.source().unwrap())
}

#[test]
fn a_question_that_means_the_same_gets_the_answer() {
    let inner = echo();
    let cached = CacheLayer::builder(inner.clone()).semantic(level());
    let cached = cached.build().unwrap();
    assert_eq!(answer(&cached, ask(ASKED)), (ASKED.into(), Source::Model));
    let (text, source) = answer(&cached, ask(AGAIN));
    assert_eq!(text, ASKED);
    let Source::Semantic { similarity, .. } = source else {
        panic!("{source:?}");
    };
    assert!((0.6..1.0).contains(&similarity), "{similarity}");
    let (text, source) = answer(&cached, ask(ASKED));
    assert!(matches!(source, Source::Exact { .. }) && text == ASKED);
    assert_eq!(answer(&cached, ask(NOT)), (NOT.into(), Source::Model));
    let stats = cached.stats();
    assert_eq!(stats.semantic_hits, 1);
}

#[test]
fn nothing_else_may_differ() {
    let inner = echo();
    let cached = CacheLayer::builder(inner.clone())
        .semantic(level())
        .policy(Policy::default().sampled(true))
        .build()
        .unwrap();
    answer(&cached, ask(ASKED));
    let others: Vec<(&str, Request)> = vec![
        ("tenant", ask(AGAIN).tenant("t")),
        ("model", ask(AGAIN).model("m")),
        ("seed", ask(AGAIN).seed(1)),
        ("temperature", ask(AGAIN).temperature(0.5)),
        ("top-p", ask(AGAIN).top_p(0.5)),
        ("limit", ask(AGAIN).max_tokens(10)),
        ("stop", ask(AGAIN).stop("x")),
        (
            "system prompt",
            Request::messages([Message::system("Be long."), Message::user(AGAIN)]),
        ),
        (
            "no system prompt",
            Request::messages([Message::user(AGAIN)]),
        ),
        (
            "earlier turns",
            Request::messages([
                Message::system("Be brief."),
                Message::user("Hi"),
                Message::assistant("Hello"),
                Message::user(AGAIN),
            ]),
        ),
        ("a text", Request::text(AGAIN)),
    ];
    for (name, request) in others {
        assert_eq!(answer(&cached, request).1, Source::Model, "{name}");
    }
    assert!(matches!(
        answer(&cached, ask(AGAIN)).1,
        Source::Semantic { .. }
    ));
}

#[test]
fn what_was_forgotten_or_invalidated_is_no_neighbour() {
    let inner = echo();
    let cached = CacheLayer::builder(inner.clone()).semantic(level());
    let cached = cached.build().unwrap();
    answer(&cached, ask(ASKED));
    cached.invalidate(&Scope::All);
    assert_eq!(answer(&cached, ask(AGAIN)).1, Source::Model);
    // A dead neighbour does not stand before a living one.
    cached.forget(&ask(AGAIN));
    answer(&cached, ask(ASKED));
    cached.forget(&ask(AGAIN));
    let third = "how do I reset the password of my account?!";
    let (text, source) = answer(&cached, ask(third));
    assert!(matches!(source, Source::Semantic { .. }), "{source:?}");
    assert_eq!(text, ASKED);
}

#[test]
fn an_embedder_that_fails_or_panics_is_a_miss() {
    struct Bad(bool);
    impl Embedder for Bad {
        fn dimensions(&self) -> usize {
            8
        }
        fn identity(&self) -> &str {
            "bad"
        }
        fn embed(&self, _: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
            assert!(!self.0, "embed, on purpose");
            Err(Error::ShutDown)
        }
    }
    for panics in [false, true] {
        let index = SemanticIndex::builder(Arc::new(Bad(panics)))
            .build()
            .unwrap();
        let inner = echo();
        let cached = CacheLayer::builder(inner.clone()).semantic(Semantic::new(index));
        let cached = cached.build().unwrap();
        for text in [ASKED, AGAIN] {
            let (stream, trace) = cached.generate_traced(ask(text));
            stream.wait().unwrap();
            assert_eq!(trace.source(), Some(Source::Model));
        }
    }
}

#[test]
fn a_slow_embedder_holds_nobody_whose_turn_it_is_not() {
    /// Waits until it may go on.
    struct Slow(Mutex<std::sync::mpsc::Receiver<()>>, HashedNgrams);
    impl Embedder for Slow {
        fn dimensions(&self) -> usize {
            self.1.dimensions()
        }
        fn identity(&self) -> &str {
            self.1.identity()
        }
        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
            let _ = self.0.lock().recv();
            self.1.embed(texts)
        }
    }
    let (go, wait) = std::sync::mpsc::channel();
    let slow = Slow(Mutex::new(wait), HashedNgrams::default());
    let index = SemanticIndex::builder(Arc::new(slow)).build().unwrap();
    let inner = echo();
    let cached = CacheLayer::builder(inner.clone())
        .semantic(Semantic::new(index).queue(1))
        .build()
        .unwrap();
    // One is being embedded or waits, and soon there is no more room: the rest run at once.
    let waiting: Vec<_> = (0..8)
        .map(|n| cached.generate(ask(&format!("question {n}"))))
        .collect();
    let runs = inner.calls();
    assert!(runs >= 6, "{runs}");
    // An exact hit or a plain request is not concerned.
    cached.generate(Request::text("plain")).wait().unwrap();
    drop(go);
    for stream in waiting {
        stream.wait().unwrap();
    }
    assert_eq!(inner.calls(), 9);
    let error = CacheLayer::builder(echo())
        .semantic(level().queue(0))
        .build();
    assert_eq!(error.err(), Some(BuildError::SemanticQueue));
}

#[test]
fn a_hit_to_be_verified_is_answered_by_the_model_and_learnt_from() {
    let inner = echo();
    let bound = ErrorBound::new(0.5).unwrap();
    let cached = CacheLayer::builder(inner.clone()).semantic(level().verify(bound));
    let cached = cached.build().unwrap();
    answer(&cached, ask(ASKED));
    // The model says the same in other words, so after some checks hits are served.
    let mut served = 0;
    for round in 0..60 {
        let again = format!("{AGAIN}{}", "?".repeat(round % 7 + 2));
        let (_, source) = answer(&cached, ask(&again));
        served += usize::from(matches!(source, Source::Semantic { .. }));
        cached.forget(&ask(&again));
    }
    assert!(served > 20, "{served}");

    // With no error allowed, all are checked.
    let inner = echo();
    let none = ErrorBound::new(0.0).unwrap();
    let cached = CacheLayer::builder(inner.clone()).semantic(level().verify(none));
    let cached = cached.build().unwrap();
    answer(&cached, ask(ASKED));
    assert_eq!(answer(&cached, ask(AGAIN)), (AGAIN.into(), Source::Model));
}

#[test]
fn twins_of_a_near_question_share_its_answer() {
    let inner = echo();
    let cached = CacheLayer::builder(inner.clone()).semantic(level());
    let cached = cached.build().unwrap();
    answer(&cached, ask(ASKED));
    let before = inner.calls();
    let twins: Vec<_> = (0..10)
        .map(|_| cached.generate_traced(ask(AGAIN)))
        .collect();
    for (stream, trace) in twins {
        assert!(stream.wait().unwrap().text().starts_with(ASKED));
        assert!(matches!(trace.source(), Some(Source::Semantic { .. })));
    }
    assert_eq!(inner.calls(), before);
}

#[test]
fn an_answer_kept_far_is_near_too() {
    // Far and near in one: what was kept near is lost, the far store still has it.
    let (near, far) = (
        Arc::new(MemoryStore::default()),
        Arc::new(MemoryStore::default()),
    );
    let cached = CacheLayer::builder(echo())
        .store(crate::Tiered::new(near.clone(), far))
        .semantic(level())
        .build()
        .unwrap();
    answer(&cached, ask(ASKED));
    near.remove(&Arc::new(Key::new("", &ask(ASKED)).unwrap()));
    assert!(matches!(
        answer(&cached, ask(AGAIN)).1,
        Source::Semantic { .. }
    ));
}

#[test]
fn what_is_invalidated_apart_is_asked_apart() {
    let cached = CacheLayer::builder(echo())
        .semantic(level())
        .tags(|request| vec![request.id.clone().unwrap_or_default()])
        .build()
        .unwrap();
    answer(&cached, ask(ASKED).id("one"));
    assert_eq!(answer(&cached, ask(AGAIN).id("two")).1, Source::Model);
    // And the one has not lost its answer to the other.
    assert!(matches!(
        answer(&cached, ask(ASKED).id("one")).1,
        Source::Exact { .. }
    ));
    assert_eq!(cached.stats().stale, 0);
}
