//! Who compiles, and who computes masks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use llmserve::prelude::*;
use llmserve::{Constraint, Grammar, GrammarCompiler, GrammarError};
use parking_lot::Mutex;

use super::support::{Gate, PageModel, Sizes, VOCAB, builder, drained, hash_logits};
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
            compiler.compiled.load(Ordering::SeqCst) == 1,
            "requests that come before it is known wait for the first"
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

/// A request that waits holds what it shares with all that have its form, and no matcher.
#[test]
fn matchers_are_made_for_those_that_run() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let model = PageModel::new(Arc::new(move |context, logits| {
        waiting.wait();
        hash_logits(context, logits);
        Ok(())
    }));
    let compiler = Arc::new(Texts::default());
    let made = compiler.made.clone();
    let made = || made.load(Ordering::SeqCst);
    let engine = builder(model, Sizes::default()).grammars(compiler);
    let engine = engine.build().unwrap();
    let streams: Vec<_> = (0..30)
        .map(|seed| engine.generate(words().n(4).seed(seed)))
        .collect();
    // What cannot be encoded is refused behind all that came before it, on either lane.
    for text in ["Q".to_owned(), "Q".repeat(70 << 10)] {
        let error = engine.generate(Request::text(text)).wait().unwrap_err();
        assert!(matches!(error, Error::Tokenizer(_)), "{error}");
    }
    // The first step may have been planned with some of them.
    let early = made();
    assert!(early <= 4 * 16, "{early}");
    gate.open();
    for stream in streams {
        stream.wait().unwrap();
    }
    assert_eq!(made(), 4 * 30);
    drained(&engine);
}

/// A compiler that may take its time, and notes what it was asked for.
struct Slow {
    texts: Texts,
    gate: Gate,
    asked: Arc<Mutex<Vec<String>>>,
}

impl GrammarCompiler for Slow {
    fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
        if let Constraint::Regex(name) = constraint {
            self.asked.lock().push(name.clone());
            if name.starts_with("slow") {
                self.gate.wait();
            }
        }
        self.texts.compile(constraint)
    }
}

/// Whoever has constraints that take their time keeps nobody else waiting, but for one of them
/// those whose constraints are new.
#[test]
fn a_slow_constraint_delays_its_tenant() {
    let (gate, asked) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
    let compiler = Slow {
        texts: Texts::default(),
        gate: gate.clone(),
        asked: asked.clone(),
    };
    let engine = builder(PageModel::hashing(), Sizes::default())
        .grammars(Arc::new(compiler))
        .max_intake(8);
    let engine = engine.build().unwrap();
    let base = |tenant: &str| Request::tokens([0, 2, 3]).tenant(tenant).max_tokens(20);
    engine
        .generate(base("quiet").regex("known"))
        .wait()
        .unwrap();
    let refused = base("quiet").regex("compile");
    let refusal = engine.generate(refused.clone()).wait().unwrap_err();

    let slow = |number| engine.generate(base("loud").regex(format!("slow {number}")));
    let mut waiting = vec![slow(0)];
    while asked.lock().len() < 3 {
        std::thread::yield_now();
    }
    waiting.extend((1..5).map(slow));
    // Half of the intake is full of them: more are refused, others' are not.
    match slow(5).wait().unwrap_err() {
        Error::Overloaded {
            waiting: 4,
            limit: 4,
            unit,
            ..
        } => assert!(unit.contains("tenant")),
        other => panic!("{other}"),
    }
    let new = engine.generate(base("quiet").regex("new"));
    // All that needs no compiler passes by: known forms of whomever, texts, long texts.
    for tenant in ["quiet", "loud"] {
        engine.generate(base(tenant).regex("known")).wait().unwrap();
        let again = engine.generate(refused.clone().tenant(tenant));
        assert_eq!(again.wait().unwrap_err(), refusal);
        engine.generate(base(tenant)).wait().unwrap();
        let text = Request::text("to be or not").tenant(tenant).max_tokens(3);
        engine.generate(text).wait().unwrap();
        let long = Request::text("a".repeat(70 << 10)).tenant(tenant);
        let error = engine.generate(long.regex("known")).wait().unwrap_err();
        assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
    }
    // One that nobody waits for any more costs no compilation.
    drop(waiting.pop());
    gate.open();
    new.wait().unwrap();
    for stream in waiting {
        stream.wait().unwrap();
    }
    drained(&engine);
    let expected = [
        "known", "compile", "slow 0", "slow 1", "new", "slow 2", "slow 3",
    ];
    let asked = asked.lock().clone();
    assert!(
        asked == expected
            || asked
                == [
                    "known", "compile", "slow 0", "new", "slow 1", "slow 2", "slow 3"
                ],
        "{asked:?}"
    );
}

/// Whoever drains waits for those that wait for a grammar; whoever shuts down does not.
#[test]
fn a_drain_waits_for_grammars() {
    for shut_down in [false, true] {
        let (gate, asked) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let compiler = Slow {
            texts: Texts::default(),
            gate: gate.clone(),
            asked: asked.clone(),
        };
        let engine = builder(PageModel::hashing(), Sizes::default()).grammars(Arc::new(compiler));
        let engine = engine.build().unwrap();
        let streams: Vec<_> = (0..3)
            .map(|number| Request::tokens([0, 2]).regex(format!("slow {number}")))
            .map(|request| engine.generate(request))
            .collect();
        while asked.lock().is_empty() {
            std::thread::yield_now();
        }
        let open = std::thread::spawn(move || gate.open());
        match shut_down {
            false => engine.drain(),
            true => engine.shutdown(),
        }
        open.join().unwrap();
        for stream in streams {
            match (shut_down, stream.wait()) {
                (false, answer) => assert_eq!(answer.unwrap().text().len(), 6),
                (true, answer) => assert_eq!(answer.unwrap_err(), Error::ShutDown),
            }
        }
    }
}
