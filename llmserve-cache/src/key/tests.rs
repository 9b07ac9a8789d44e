use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{LogitsContext, LogitsProcessor, Message};

use super::*;
use crate::tests::Random;

fn key(request: &Request) -> Key {
    Key::new("", request).unwrap()
}

fn base() -> Request {
    Request::text("prompt").seed(1)
}

pub(crate) type Change = (&'static str, fn(&mut Request));

/// Every way to change the answer. A new field of a request belongs here and in [`Key::new`].
pub(crate) const CHANGES: &[Change] = &[
    ("tenant", |r| r.tenant = Some("t".into())),
    ("empty tenant", |r| r.tenant = Some(String::new())),
    ("model", |r| r.model = Some("t".into())),
    ("empty model", |r| r.model = Some(String::new())),
    ("text", |r| r.prompt = Prompt::Text("prompt ".into())),
    ("no text", |r| r.prompt = Prompt::Text(String::new())),
    ("tokens", |r| r.prompt = Prompt::Tokens(vec![1, 2])),
    ("other tokens", |r| r.prompt = Prompt::Tokens(vec![2, 1])),
    ("no tokens", |r| r.prompt = Prompt::Tokens(Vec::new())),
    ("messages", |r| {
        r.prompt = Prompt::Messages(vec![Message::user("prompt")]);
    }),
    ("role", |r| {
        r.prompt = Prompt::Messages(vec![Message::system("prompt")]);
    }),
    ("shifted message", |r| {
        r.prompt = Prompt::Messages(vec![Message::new("userp", "rompt")]);
    }),
    ("two messages", |r| {
        r.prompt = Prompt::Messages(vec![Message::user("prompt"), Message::user("")]);
    }),
    ("no messages", |r| r.prompt = Prompt::Messages(Vec::new())),
    ("temperature", |r| r.sampling.temperature = 0.5),
    ("top_p", |r| r.sampling.top_p = 0.5),
    ("top_k", |r| r.sampling.top_k = Some(5)),
    ("top_k none", |r| r.sampling.top_k = Some(0)),
    ("min_p", |r| r.sampling.min_p = 0.5),
    ("repetition", |r| r.sampling.repetition_penalty = 0.5),
    ("presence", |r| r.sampling.presence_penalty = 0.5),
    ("frequency", |r| r.sampling.frequency_penalty = 0.5),
    ("bias", |r| {
        r.sampling.logit_bias.insert(5, 0.5);
    }),
    ("bias of another", |r| {
        r.sampling.logit_bias.insert(6, 0.5);
    }),
    ("region", |r| r.routing = Routing::default().region("eu")),
    ("need", |r| r.routing = Routing::default().need("eu")),
    ("cost", |r| r.routing = Routing::default().max_cost(0.5)),
    ("quality", |r| {
        r.routing = Routing::default().min_quality(0.5)
    }),
    ("budget", |r| {
        r.routing = Routing::default().latency_budget(Duration::from_secs(1));
    }),
    ("budget of 2^64 ns more", |r| {
        let more = Duration::from_nanos(u64::MAX) + Duration::from_nanos(1);
        r.routing = Routing::default().latency_budget(Duration::from_secs(1) + more);
    }),
    ("tier", |r| r.routing = Routing::default().tier("fast")),
    ("schema", |r| {
        r.constraint = Some(Constraint::JsonSchema("{}".into()));
    }),
    ("regex", |r| {
        r.constraint = Some(Constraint::Regex("{}".into()))
    }),
    ("choice", |r| {
        r.constraint = Some(Constraint::Choice(vec!["{}".into()]));
    }),
    ("choices", |r| {
        r.constraint = Some(Constraint::Choice(vec!["{".into(), "}".into()]));
    }),
    ("lark", |r| {
        r.constraint = Some(Constraint::Lark("{}".into()))
    }),
    ("two biases", |r| {
        r.sampling.logit_bias.extend([(5, 0.5), (6, 0.5)]);
    }),
    ("seed", |r| r.sampling.seed = Some(5)),
    ("no seed", |r| r.sampling.seed = None),
    ("max_tokens", |r| r.max_tokens = Some(5)),
    ("max_tokens 0", |r| r.max_tokens = Some(0)),
    ("min_tokens", |r| r.min_tokens = 5),
    ("ignore_eos", |r| r.ignore_eos = true),
    ("stop token", |r| r.stop_tokens = vec![5]),
    ("stop tokens", |r| r.stop_tokens = vec![5, 0]),
    ("stop", |r| r.stop = vec!["abc".into()]),
    ("stops", |r| r.stop = vec!["ab".into(), "c".into()]),
    ("shifted stops", |r| r.stop = vec!["a".into(), "bc".into()]),
    ("empty stop", |r| r.stop = vec![String::new()]),
    ("n", |r| r.n = 2),
    ("logprobs", |r| r.logprobs = Some(0)),
    ("more logprobs", |r| r.logprobs = Some(5)),
    ("prompt logprobs", |r| r.prompt_logprobs = Some(0)),
    ("more prompt logprobs", |r| r.prompt_logprobs = Some(5)),
    ("special tokens", |r| r.skip_special_tokens = false),
];

#[test]
fn every_field_that_changes_the_answer_changes_the_key() {
    let mut seen = HashMap::from([(key(&base()), "nothing")]);
    for (name, change) in CHANGES {
        let mut request = base();
        change(&mut request);
        if let Some(other) = seen.insert(key(&request), name) {
            panic!("{name} and {other} have the same key");
        }
    }
    let namespaced = Key::new("n", &base()).unwrap();
    assert!(seen.insert(namespaced, "namespace").is_none());
}

#[test]
fn fields_that_only_change_when_do_not() {
    let mut request = base().id("7").priority(-3);
    request.deadline = Some(Duration::from_secs(1));
    request.routing = Routing::default().session("s").origin("eu");
    assert_eq!(key(&request), key(&base()));
}

/// The public fields of a struct, by its source: one that may grow cannot be taken apart here.
fn fields_of<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let begin = format!("pub struct {name} {{\n");
    let (_, body) = source.split_once(&begin).expect("it is there");
    let (body, _) = body.split_once("\n}").expect("it ends");
    let field = |line: &'a str| line.strip_prefix("    pub ")?.split(':').next();
    body.lines().filter_map(field).collect()
}

#[test]
fn requests_have_no_field_that_nobody_has_thought_of() {
    // Whatever is new must enter the key, with a line in `CHANGES`, unless it can change no answer.
    let request = include_str!("../../../llmserve-core/src/request.rs");
    #[rustfmt::skip]
    assert_eq!(
        fields_of(request, "Request"),
        [
            // Says nothing of the answer.
            "id",
            "model", "prompt", "sampling", "max_tokens", "min_tokens", "ignore_eos", "stop_tokens",
            "stop", "constraint", "n", "logprobs", "prompt_logprobs", "skip_special_tokens",
            // Says when it comes.
            "priority",
            "tenant",
            // When, and an answer that it cut off is not kept.
            "deadline",
            // Has no key.
            "processors",
            // How fast.
            "speculative", "draft_depth",
            // Has no key.
            "resume",
            "routing",
            // Is told of it.
            "on_end",
        ],
    );
    let sampling = include_str!("../../../llmserve-core/src/sampling/params.rs");
    #[rustfmt::skip]
    assert_eq!(
        fields_of(sampling, "Sampling"),
        [
            "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "logit_bias", "seed",
        ],
    );
    let routing = include_str!("../../../llmserve-core/src/routing.rs");
    #[rustfmt::skip]
    assert_eq!(
        fields_of(routing, "Routing"),
        [
            // Says who answers soonest.
            "session",
            "regions",
            // As the session.
            "origin",
            "needs", "max_cost", "min_quality", "latency_budget", "tier",
        ],
    );
    let message = include_str!("../../../llmserve-core/src/contract/tokenizer.rs");
    assert_eq!(fields_of(message, "Message"), ["role", "content"]);
}

#[test]
fn strings_do_not_run_into_each_other() {
    let a = base().tenant("ab").model("c");
    let b = base().tenant("a").model("bc");
    assert_ne!(key(&a), key(&b));
    assert_ne!(key(&base().tenant("ab")), key(&base().model("ab")));
    assert_ne!(
        Key::new("a", &base().tenant("b")),
        Key::new("ab", &base().tenant(""))
    );
    // A text that looks like an encoded list of tokens.
    let forged: String = (0..8).map(|_| '\u{1}').collect();
    assert_ne!(
        key(&Request::text(forged)),
        key(&Request::tokens([0x0101_0101, 0x0101_0101]))
    );
}

#[test]
fn what_has_no_name_has_no_key() {
    struct Nop;
    impl LogitsProcessor for Nop {
        fn process(&self, _: &LogitsContext<'_>, _: &mut [f32]) {}
    }
    let has = |request: &Request| Key::new("", request).is_some();
    assert!(has(&Request::text("")));
    assert!(has(&Request::text("").temperature(f32::NAN)));
    assert!(!has(&Request::text("").processor(Arc::new(Nop))));
    let mut resumes = Request::text("");
    resumes.resume = vec![1];
    assert!(!has(&resumes));
}

/// A request out of a small space, so that equal ones come up often.
fn random_request(random: &mut Random) -> Request {
    let text = |random: &mut Random| ["", "a", "b", "ab"][random.below(4)].to_owned();
    let mut request = match random.below(3) {
        0 => Request::text(text(random)),
        1 => Request::tokens((0..random.below(3)).map(|i| i as u32).collect::<Vec<_>>()),
        _ => Request::messages(
            (0..random.below(3))
                .map(|_| Message::new(text(random), text(random)))
                .collect::<Vec<_>>(),
        ),
    }
    .seed(random.below(2) as u64);
    let mut maybe = |request: &mut Request, change: &dyn Fn(&mut Request, String)| {
        if random.below(6) == 0 {
            change(request, text(random));
        }
    };
    maybe(&mut request, &|r, text| r.tenant = Some(text));
    maybe(&mut request, &|r, text| r.model = Some(text));
    maybe(&mut request, &|r, text| r.stop.push(text));
    maybe(&mut request, &|r, text| r.stop.push(text));
    maybe(&mut request, &|r, text| r.n = text.len());
    maybe(&mut request, &|r, text| r.max_tokens = Some(text.len()));
    maybe(&mut request, &|r, text| r.logprobs = Some(text.len()));
    maybe(&mut request, &|r, text| r.sampling.top_k = Some(text.len()));
    maybe(&mut request, &|r, _| r.ignore_eos = true);
    request
}

#[test]
fn bytes_are_equal_exactly_when_requests_are() {
    let mut random = Random(11);
    let mut equal = 0;
    let mut bytes_of = HashMap::new();
    for _ in 0..20_000 {
        let r = random_request(&mut random);
        // The naive key: everything, spelled out.
        let spelled = format!(
            "{:?}",
            (
                (&r.tenant, &r.model, &r.prompt, &r.sampling),
                (&r.stop, r.n, r.max_tokens, r.logprobs, r.ignore_eos),
            )
        );
        let bytes = key(&r).bytes().to_vec();
        if let Some(before) = bytes_of.insert(spelled, bytes.clone()) {
            equal += 1;
            assert_eq!(before, bytes);
        }
    }
    let distinct: std::collections::HashSet<_> = bytes_of.values().collect();
    assert_eq!(distinct.len(), bytes_of.len());
    assert!(equal > 1_000 && distinct.len() > 1_000);
}

#[test]
fn hashes_are_stable_across_processes_and_machines() {
    // A change here makes every stored answer unfindable: it must be deliberate, with FORMAT.
    let request = Request::messages([Message::user("Hi")])
        .tenant("t")
        .model("m")
        .temperature(0.5)
        .seed(7)
        .stop("\n");
    let key = Key::new("n", &request).unwrap();
    assert_eq!(key.hash128(), xxh3_128(key.bytes()));
    assert_eq!(format!("{key:?}"), "89b39e244331e0bef5fb991597f80612");
}

#[test]
fn debug_does_not_tell_the_prompt() {
    assert!(!format!("{:?}", key(&Request::text("secret"))).contains("secret"));
}
