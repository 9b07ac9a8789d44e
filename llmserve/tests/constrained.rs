//! Answers of a given form, as far as the engine is concerned: a grammar of letters over a model
//! whose output depends on every slot of its pages.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve::prelude::*;
use llmserve::{
    Batch, Constraint, Grammar, GrammarCompiler, GrammarError, GrammarMatcher, Logits, Model,
    ModelError, ModelInfo, PageStore, StepLimits, TokenId, TokenMask,
};
use parking_lot::Mutex;
use support::{EOS, Gate, PageModel, Sizes, VOCAB, builder, drained};

/// Texts of letters, one of which must come: the first letters of several may be the same. A
/// regular expression is a way to go wrong.
#[derive(Default)]
struct Texts {
    compiled: AtomicUsize,
    /// Threads that computed masks.
    threads: Arc<Mutex<Vec<String>>>,
}

struct Tree {
    texts: Vec<Vec<TokenId>>,
    fault: String,
    threads: Arc<Mutex<Vec<String>>>,
}

struct Walk {
    tree: Arc<Tree>,
    tokens: Vec<TokenId>,
}

fn letters(text: &str) -> Vec<TokenId> {
    let letter = |byte| TokenId::from(byte - b'a') + 2;
    text.bytes().map(letter).collect()
}

fn text(tokens: &[TokenId]) -> String {
    let letters = tokens.iter().filter(|token| **token != EOS);
    letters
        .map(|token| char::from(b'a' + *token as u8 - 2))
        .collect()
}

impl GrammarCompiler for Texts {
    fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
        self.compiled.fetch_add(1, Ordering::SeqCst);
        let (texts, fault) = match constraint {
            Constraint::Choice(texts) => (texts.clone(), String::new()),
            Constraint::Regex(fault) => (vec!["abcdef".into(), "abdefg".into()], fault.clone()),
            other => return Err(GrammarError::Compile(format!("{other:?}"))),
        };
        match fault.as_str() {
            "compile" => return Err(GrammarError::Compile("as asked".into())),
            "compile panics" => panic!("as asked"),
            _ => {}
        }
        let texts = texts.iter().map(|text| letters(text)).collect();
        let threads = self.threads.clone();
        Ok(Arc::new(
            Arc::new(Tree {
                texts,
                fault,
                threads,
            })
            .handle(),
        ))
    }
}

struct Handle(Arc<Tree>);

impl Tree {
    fn handle(self: Arc<Self>) -> Handle {
        Handle(self)
    }
}

impl Grammar for Handle {
    fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError> {
        if self.0.fault == "matcher" {
            return Err(GrammarError::TooComplex("as asked".into()));
        }
        Ok(Box::new(Walk {
            tree: self.0.clone(),
            tokens: Vec::new(),
        }))
    }
}

impl Walk {
    fn next(&self) -> Vec<TokenId> {
        let at = self.tokens.len();
        let texts = self
            .tree
            .texts
            .iter()
            .filter(|text| text.starts_with(&self.tokens));
        let mut next: Vec<_> = texts.filter_map(|text| text.get(at).copied()).collect();
        next.sort_unstable();
        next.dedup();
        next
    }

    fn may_end(&self) -> bool {
        self.tree.texts.contains(&self.tokens)
    }
}

impl GrammarMatcher for Walk {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.tree.threads.lock().push(name);
        match (self.tree.fault.as_str(), self.tokens.len()) {
            ("mask", 3) => return Err(GrammarError::Broken("as asked".into())),
            ("mask panics", 3) => panic!("as asked"),
            ("nothing", 3) => return Ok(()),
            _ => {}
        }
        mask.reset(mask.vocab_size());
        self.next().iter().for_each(|token| mask.allow(*token));
        if self.may_end() {
            mask.allow(EOS);
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if self.tree.fault == "accept panics" && self.tokens.len() == 3 {
            panic!("as asked");
        }
        if !self.next().contains(&token) {
            return Err(GrammarError::Broken(format!(
                "{token} after {:?}",
                self.tokens
            )));
        }
        self.tokens.push(token);
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarError> {
        self.tokens.truncate(self.tokens.len() - tokens);
        Ok(())
    }

    fn valid_prefix(&mut self, tokens: &[TokenId]) -> Result<usize, GrammarError> {
        let mut ahead = Walk {
            tree: self.tree.clone(),
            tokens: self.tokens.clone(),
        };
        let valid = tokens
            .iter()
            .take_while(|token| ahead.accept(**token).is_ok());
        Ok(valid.count())
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) -> Result<(), GrammarError> {
        if self.tree.fault == "forced panics" && self.tokens.len() == 3 {
            panic!("as asked");
        }
        let mut ahead = Walk {
            tree: self.tree.clone(),
            tokens: self.tokens.clone(),
        };
        while let ([only], false) = (ahead.next().as_slice(), ahead.may_end()) {
            let only = *only;
            out.push(only);
            ahead.tokens.push(only);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.may_end() && self.next().is_empty()
    }
}

fn engine_with(sizes: Sizes, threads: usize) -> Engine {
    let builder = builder(PageModel::hashing(), sizes).grammars(Arc::new(Texts::default()));
    builder.mask_threads(threads).build().unwrap()
}

fn engine(sizes: Sizes) -> Engine {
    engine_with(sizes, 1)
}

const WORDS: [&str; 8] = [
    "abcdefghijklmnop",
    "abcdefghijkxyz",
    "ab",
    "abq",
    "mnopqrst",
    "mnopqrsu",
    "zzzzzzzzzzzzzzzzzzzzzzzz",
    "z",
];

fn words() -> Request {
    // Hot, so that every text comes.
    Request::tokens([0, 2, 3]).one_of(WORDS).temperature(20.0)
}

#[test]
fn every_answer_is_one_of_the_texts() {
    let engine = engine(Sizes::default());
    let streams = (0..200)
        .map(|seed| engine.generate(words().seed(seed)))
        .collect::<Vec<_>>();
    let mut seen = std::collections::BTreeSet::new();
    for stream in streams {
        let response = stream.wait().unwrap();
        let choice = &response.choices[0];
        assert!(WORDS.contains(&choice.text.as_str()), "{:?}", choice.text);
        assert_eq!(text(&choice.ids), choice.text);
        // One that could go on ends with an end token; one that could not needs none.
        let expected = match choice.text.as_str() {
            "ab" | "z" => FinishReason::Eos(EOS),
            _ => FinishReason::Complete,
        };
        assert_eq!(choice.reason, Some(expected));
        assert_eq!(choice.usage.completion_tokens, choice.ids.len());
        seen.insert(choice.text.clone());
    }
    assert_eq!(seen.len(), WORDS.len());
    drained(&engine);
    let stats = engine.stats();
    assert!(stats.forced_tokens > 500 && stats.forced_tokens < stats.generation_tokens);
}

/// The same ids whoever else is there, whatever the chunks, the cache, the threads, and whether
/// logprobs make every token a picked one.
#[test]
fn ids_do_not_depend_on_company() {
    let request = |seed: u64| {
        let prompt: Vec<u32> = (0..8 + seed as u32 % 20)
            .map(|i| 2 + (i * i) % 40)
            .collect();
        let mut request = Request::tokens(prompt)
            .one_of(WORDS)
            .temperature(1.5)
            .seed(seed);
        request.sampling.repetition_penalty = 1.3;
        request.sampling.min_p = 0.01;
        request
    };
    let ids = |response: &Response| {
        let choices = response.choices.iter();
        choices
            .map(|c| (c.ids.clone(), c.reason.clone()))
            .collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..40)
        .map(|seed| {
            let engine = engine(Sizes::default());
            let response = engine.generate(request(seed)).wait().unwrap();
            drained(&engine);
            ids(&response)
        })
        .collect();
    let small = Sizes {
        blocks: 14,
        block_size: 4,
        max_num_seqs: 8,
        max_batched_tokens: 16,
    };
    for (sizes, threads) in [(Sizes::default(), 0), (Sizes::default(), 3), (small, 1)] {
        let engine = engine_with(sizes, threads);
        let requests = (0..40).map(|seed| match seed % 4 {
            0 => request(seed).logprobs(2),
            _ => request(seed),
        });
        let streams: Vec<_> = requests.map(|request| engine.generate(request)).collect();
        for (seed, stream) in streams.into_iter().enumerate() {
            let response = stream.wait().unwrap();
            assert_eq!(
                ids(&response),
                alone[seed],
                "seed {seed}, {} blocks",
                sizes.blocks
            );
            let told = &response.choices[0].logprobs;
            assert_eq!(
                told.len(),
                if seed % 4 == 0 {
                    response.ids().len()
                } else {
                    0
                }
            );
        }
        drained(&engine);
        if sizes.blocks == 14 {
            assert!(
                engine.stats().preemptions > 0,
                "this size is to be too small"
            );
        }
    }
}

/// Choices of one request are those of its fork, valid each, and repeat themselves.
#[test]
fn choices_share_a_prefill_and_not_a_grammar() {
    let run = |sizes| {
        let engine = engine(sizes);
        let response = engine.generate(words().n(6).seed(3)).wait().unwrap();
        drained(&engine);
        response
            .choices
            .iter()
            .map(|c| c.ids.clone())
            .collect::<Vec<_>>()
    };
    let choices = run(Sizes::default());
    for ids in &choices {
        assert!(WORDS.contains(&text(ids).as_str()), "{ids:?}");
    }
    assert!(choices.iter().any(|ids| *ids != choices[0]));
    let small = Sizes {
        blocks: 10,
        block_size: 4,
        max_num_seqs: 6,
        max_batched_tokens: 6,
    };
    assert_eq!(run(small), choices);
}

/// Of each step, its rows: the first position and how many.
type Steps = Arc<Mutex<Vec<Vec<(usize, usize)>>>>;

/// Wraps the model: notes each step's rows.
struct Noting(PageModel, Steps);

impl Model for Noting {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }
    fn prepare(
        &mut self,
        layout: &llmserve::KvLayout,
        limits: StepLimits,
    ) -> Result<(), ModelError> {
        self.0.prepare(layout, limits)
    }
    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        self.1
            .lock()
            .push(batch.rows.iter().map(|row| (row.start, row.len)).collect());
        self.0.submit(batch)
    }
    fn pages(&mut self) -> &mut dyn PageStore {
        self.0.pages()
    }
}

#[test]
fn what_must_follow_costs_no_step() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let model = Noting(PageModel::hashing(), steps.clone());
    let builder = builder(model, Sizes::default()).grammars(Arc::new(Texts::default()));
    let engine = builder.build().unwrap();
    let run = |request: Request| {
        steps.lock().clear();
        let response = engine.generate(request).wait().unwrap();
        let noted = std::mem::take(&mut *steps.lock());
        (
            response.choices[0].text.clone(),
            response.choices[0].reason.clone(),
            noted,
        )
    };
    let base = || Request::tokens([0, 2, 3]);
    let one = run(base().one_of(["abcdefgh"]));
    let complete = Some(FinishReason::Complete);
    assert_eq!(
        one,
        ("abcdefgh".into(), complete.clone(), vec![vec![(0, 3)]])
    );
    // a b c are forced behind a first pick that has no choice either; then d or x, and the rest.
    let two = run(base().one_of(["abcdefgh", "abcxyz"]));
    assert!(["abcdefgh", "abcxyz"].contains(&two.0.as_str()));
    assert_eq!(
        (two.1, two.2),
        (complete.clone(), vec![vec![(0, 3)], vec![(3, 3)]])
    );
    // With logprobs, or where a single token may be ruled out, each is picked.
    let steps = run(base().one_of(["abcd"]).logprobs(0)).2;
    assert_eq!(steps.len(), 4);
    let mut request = base().one_of(["abcd"]);
    request.sampling.logit_bias.insert(40, f32::NEG_INFINITY);
    assert_eq!(run(request).2.len(), 4);
    let mut request = base().one_of(["abcd"]);
    request
        .sampling
        .logit_bias
        .insert(letters("c")[0], f32::NEG_INFINITY);
    let error = engine.generate(request).wait().unwrap_err();
    assert_eq!(error, Error::NothingToSample { position: 4 });
    drained(&engine);
}

#[test]
fn ends_and_their_order() {
    let engine = engine(Sizes::default());
    let run = |request: Request| {
        let response = engine.generate(request).wait().unwrap();
        let choice = &response.choices[0];
        (
            choice.text.clone(),
            choice.reason.clone().unwrap(),
            choice.ids.len(),
        )
    };
    let base = || Request::tokens([0, 2, 3]);
    // Cut short within a run that is forced, and complete with its last token.
    let cut = run(base().one_of(["abcdef"]).max_tokens(4));
    assert_eq!(cut, ("abcd".into(), FinishReason::Length, 4));
    let exact = run(base().one_of(["abcd"]).max_tokens(4));
    assert_eq!(exact, ("abcd".into(), FinishReason::Complete, 4));
    // Stop strings and stop tokens cut, in forced text as well; nothing does before min_tokens.
    let stop = |request: Request| run(request.one_of(["abcdefab"]));
    assert_eq!(
        stop(base().stop("cd")),
        ("ab".into(), FinishReason::StopString("cd".into()), 4)
    );
    let b = letters("b")[0];
    assert_eq!(
        stop(base().stop_token(b)),
        ("a".into(), FinishReason::StopToken(b), 2)
    );
    let error = engine.generate(base().one_of(["ab"]).stop_token(b).min_tokens(4));
    assert_eq!(
        error.wait().unwrap_err(),
        Error::NothingToSample { position: 3 }
    );
    // An answer that cannot go on ends, whatever its least length; one that can goes on.
    let short = run(base().one_of(["ab"]).min_tokens(5));
    assert_eq!(short, ("ab".into(), FinishReason::Complete, 2));
    for seed in 0..10 {
        let request = base().one_of(["a", "abc"]).temperature(3.0).seed(seed);
        assert_eq!(run(request.clone().min_tokens(2)).0, "abc");
        assert_eq!(run(request.ignore_eos(true)).0, "abc");
    }
    drained(&engine);
}

/// A grammar that fails to compile ends its request alone with an error; the next one is scheduled
/// in the same step.
#[test]
fn failures_reach_one_request() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate::default();
    let waiting = gate.clone();
    let model = PageModel::new(Arc::new(move |context, logits| {
        waiting.wait();
        support::hash_logits(context, logits);
        Ok(())
    }));
    let engine = builder(Noting(model, steps.clone()), Sizes::default())
        .grammars(Arc::new(Texts::default()))
        .build()
        .unwrap();
    let base = || Request::tokens([0, 2, 3, 4, 5]).max_tokens(20).seed(1);
    let first = engine.generate(base().ignore_eos(true));
    while steps.lock().is_empty() {
        std::thread::yield_now();
    }
    // All of these come while the first step runs.
    let broken = |error: &Error| matches!(error, Error::Grammar(GrammarError::Broken(_)));
    let panicked = |error: &Error| {
        matches!(
            error,
            Error::Panicked {
                part: "grammar",
                ..
            }
        )
    };
    let compile = Error::Grammar(GrammarError::Compile("as asked".into()));
    let is_compile = |error: &Error| *error == compile;
    let too_complex = |error: &Error| matches!(error, Error::Grammar(GrammarError::TooComplex(_)));
    let nothing = |error: &Error| matches!(error, Error::NothingToSample { .. });
    type Fault<'a> = (&'a str, &'a dyn Fn(&Error) -> bool);
    let faults: [Fault<'_>; 8] = [
        ("compile", &is_compile),
        ("compile panics", &panicked),
        ("matcher", &too_complex),
        ("mask", &broken),
        ("mask panics", &panicked),
        ("accept panics", &panicked),
        ("forced panics", &panicked),
        ("nothing", &nothing),
    ];
    let sick: Vec<_> = faults
        .iter()
        // Every token picked, but where the fault is in what must follow.
        .map(|(fault, _)| match *fault {
            "forced panics" => base().regex(*fault),
            _ => base().regex(*fault).logprobs(0),
        })
        .map(|request| engine.generate(request))
        .collect();
    let next = engine.generate(base().one_of(WORDS));
    let free = engine.generate(base());
    // New constraints pass one after the other: behind the last of them, all others have.
    let mut refused = sick.into_iter().zip(faults);
    let early: Vec<_> = refused.by_ref().take(3).collect();
    for (stream, (fault, expected)) in early {
        let error = stream.wait().unwrap_err();
        assert!(expected(&error), "{fault}: {error}");
    }
    let last = engine.generate(base().lark("one more"));
    assert!(matches!(last.wait().unwrap_err(), Error::Grammar(_)));
    gate.open();
    for (stream, (fault, expected)) in refused {
        let error = stream.wait().unwrap_err();
        assert!(expected(&error), "{fault}: {error}");
    }
    let response = next.wait().unwrap();
    assert!(WORDS.contains(&response.choices[0].text.as_str()));
    assert!(free.wait().is_ok() && first.wait().is_ok());
    // The step after the first had the prompts of the next two, and of those that fail later.
    assert_eq!(
        steps.lock()[1]
            .iter()
            .filter(|(start, _)| *start == 0)
            .count(),
        7
    );
    drained(&engine);
    assert_eq!(engine.stats().failed_requests, 5);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let plain = support::engine(PageModel::hashing(), Sizes::default());
    let engine = engine(Sizes::default());
    let base = || Request::tokens([0, 2]);
    let long = "a".repeat((1 << 20) + 1);
    for (engine, request) in [
        (&plain, base().one_of(["ab"])),
        (&plain, base().json_schema("{}")),
        (&engine, base().one_of::<&str>([])),
        (&engine, base().one_of(["a", ""])),
        (&engine, base().lark(long)),
    ] {
        let error = engine.generate(request).wait().unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidRequest {
                    field: "constraint",
                    ..
                }
            ),
            "{error}"
        );
    }
    drained(&plain);
    drained(&engine);
}

#[test]
fn a_dropped_stream_takes_its_grammar_along() {
    let engine = engine(Sizes::default());
    for seed in 0..30 {
        let mut stream = engine.generate(words().seed(seed).n(2).logprobs(0));
        for _ in 0..seed % 5 {
            let _ = stream.blocking_next();
        }
    }
    let alive = engine.generate(words().seed(1)).wait().unwrap();
    assert!(WORDS.contains(&alive.choices[0].text.as_str()));
    drained(&engine);
}

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
