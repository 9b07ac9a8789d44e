//! What is never answered with another's answer, whoever thinks that it is alike.

use llmserve_core::{Embedder, Message, Prompt};

use super::*;
use crate::key::tests::CHANGES;
use crate::semantic::SemanticIndex;
use crate::{CacheLayer, Policy, Semantic, Source};

/// Finds everything the same.
struct Blind;

impl Embedder for Blind {
    fn dimensions(&self) -> usize {
        8
    }
    fn identity(&self) -> &str {
        "blind"
    }
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        Ok(vec![vec![0.125f32.sqrt(); 8]; texts.len()])
    }
}

const TEXT: &str = "How do I reset the password of my account?";

fn conversation() -> Request {
    let turns = [
        Message::system("Be brief."),
        Message::user("Hi"),
        Message::assistant("Hello"),
        Message::user(TEXT),
    ];
    Request::messages(turns).seed(1)
}

fn change_turn(request: &mut Request, turn: usize, change: fn(&mut Message)) {
    if let Prompt::Messages(messages) = &mut request.prompt {
        change(&mut messages[turn]);
    }
}

#[test]
fn whatever_differs_but_the_last_turn_is_another_request_on_every_level() {
    let inner = Scripted::new(|_| says("an answer"));
    let index = SemanticIndex::builder(Arc::new(Blind)).build().unwrap();
    let cached = CacheLayer::builder(inner.clone())
        .semantic(Semantic::new(index))
        .policy(Policy::default().sampled(true))
        .build()
        .unwrap();
    let source = |request: Request| {
        let (stream, trace) = cached.generate_traced(request);
        stream.wait().unwrap();
        // Jobs are done in order: what was to be learnt is, once something later is answered.
        let flush = Request::messages([Message::user("flush")]).tenant("flush");
        cached.generate(flush.clone()).wait().unwrap();
        cached.forget(&flush);
        trace.source().unwrap()
    };
    assert_eq!(source(conversation()), Source::Model);

    type Turn = (&'static str, fn(&mut Request));
    let turns: &[Turn] = &[
        ("system prompt", |r| {
            change_turn(r, 0, |m| m.content.push(' '))
        }),
        ("system's role", |r| {
            change_turn(r, 0, |m| m.role = "user".into())
        }),
        ("earlier turn", |r| {
            change_turn(r, 1, |m| m.content = "Hi!".into())
        }),
        ("earlier answer", |r| {
            change_turn(r, 2, |m| m.content.clear())
        }),
        ("earlier role", |r| {
            change_turn(r, 2, |m| m.role = "tool".into())
        }),
        ("last role", |r| {
            change_turn(r, 3, |m| m.role = "tool".into())
        }),
        ("one turn less", |r| {
            if let Prompt::Messages(messages) = &mut r.prompt {
                messages.remove(1);
            }
        }),
        ("one turn more", |r| {
            if let Prompt::Messages(messages) = &mut r.prompt {
                messages.insert(1, Message::user(""));
            }
        }),
    ];
    for (name, change) in CHANGES.iter().chain(turns) {
        let mut request = conversation();
        change(&mut request);
        assert_eq!(source(request), Source::Model, "{name}");
    }
    // To an index that finds all the same, whatever else is the same is.
    assert!(matches!(source(conversation()), Source::Exact { .. }));
    let mut again = conversation();
    change_turn(&mut again, 3, |turn| turn.content = TEXT.to_lowercase());
    let found = source(again);
    assert!(matches!(found, Source::Semantic { .. }), "{found:?}");
}
