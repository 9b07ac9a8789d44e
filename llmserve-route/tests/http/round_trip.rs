//! Through an endpoint and a gateway a service is what it is without them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use llmserve_core::{
    Choice, Constraint, Event, FinishReason, Finished, Generate, Message, Prompt, Request,
    Response, Routing, Started, Timings, TokenEvent, TokenLogprobs, Usage,
};
use llmserve_route::gateway::Gateway;
use llmserve_route::remote::{Dialect, RemoteEndpoint};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::support::{Scripted, Server, Step};

/// One server and one endpoint for all cases: connections are used again.
struct Bench {
    service: Arc<Scripted>,
    script: Arc<Mutex<Vec<Step>>>,
    endpoint: RemoteEndpoint,
    _server: Server,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let script: Arc<Mutex<Vec<Step>>> = Arc::default();
    let steps = script.clone();
    let service = Scripted::new(move |_| steps.lock().clone());
    let server = Server::serve(Gateway::new(service.clone()).tenant_from_user(true));
    let endpoint = server.endpoint(|endpoint| endpoint.dialect(Dialect::Llmserve));
    Mutex::new(Bench {
        service,
        script,
        endpoint,
        _server: server,
    })
});

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-zA-Z ]{1,6}",
        Just("é\u{1f600}".to_owned()),
        Just("\"\\\n\r\u{2028}\0".to_owned()),
        Just("data: [DONE]\n\n".to_owned()),
    ]
}

fn reason() -> impl Strategy<Value = FinishReason> {
    prop_oneof![
        any::<u32>().prop_map(FinishReason::Eos),
        any::<u32>().prop_map(FinishReason::StopToken),
        text().prop_map(FinishReason::StopString),
        Just(FinishReason::Complete),
        Just(FinishReason::Length),
        Just(FinishReason::Deadline),
        Just(FinishReason::Stop),
        "[a-z_]{1,9}".prop_map(FinishReason::Other),
    ]
}

fn logprob() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -100.0f32..=0.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(-1e-9f32)]
}

fn logprobs(id: u32, k: usize) -> impl Strategy<Value = TokenLogprobs> {
    let top = proptest::collection::btree_map(0u32..50_000, logprob(), k..=k);
    (logprob(), top).prop_map(move |(logprob, top)| {
        let mut top: Vec<(u32, f32)> = top.into_iter().collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        TokenLogprobs { id, logprob, top }
    })
}

/// The events of one choice, its index left open.
fn choice(k: Option<usize>) -> impl Strategy<Value = (Vec<TokenEvent>, FinishReason, String)> {
    let token = (any::<u32>(), text()).prop_flat_map(move |(id, text)| {
        let logprobs = match k {
            None => Just(None).boxed(),
            Some(k) => logprobs(id, k).prop_map(Some).boxed(),
        };
        logprobs.prop_map(move |logprobs| TokenEvent {
            index: 0,
            id,
            text: text.clone(),
            logprobs,
        })
    });
    (proptest::collection::vec(token, 0..8), reason(), text())
}

#[derive(Clone, Debug)]
struct Script {
    n: usize,
    k: Option<usize>,
    chat: bool,
    steps: Vec<Step>,
}

fn script() -> impl Strategy<Value = Script> {
    (1usize..4, proptest::option::of(0usize..4), any::<bool>())
        .prop_flat_map(|(n, k, chat)| {
            let choices = proptest::collection::vec(choice(k), n..=n);
            let order = proptest::collection::vec(0usize..12, 40);
            let prompt = proptest::collection::vec(any::<u32>(), 1..5);
            (Just((n, k, chat)), choices, order, prompt, 0usize..3)
        })
        .prop_map(|((n, k, chat), choices, order, prompt, cached)| {
            let usage = |completion_tokens| Usage {
                prompt_tokens: prompt.len(),
                cached_tokens: cached.min(prompt.len()),
                completion_tokens,
            };
            let mut queues: Vec<Vec<Event>> = Vec::new();
            for (index, (tokens, reason, text)) in choices.into_iter().enumerate() {
                let count = tokens.len();
                let mut events: Vec<Event> = tokens
                    .into_iter()
                    .map(|token| Event::Token(TokenEvent { index, ..token }))
                    .collect();
                events.push(Event::Finished(Finished {
                    index,
                    reason,
                    text,
                    usage: usage(count),
                    timings: Timings::default(),
                }));
                events.reverse();
                queues.push(events);
            }
            let mut steps = vec![Step::Emit(Event::Started(Started {
                prompt_ids: prompt.clone().into(),
                prompt_logprobs: None,
            }))];
            let mut order = order.into_iter().cycle();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let pick = order.next().unwrap_or(0);
                match queues.get_mut(pick) {
                    Some(queue) => steps.extend(queue.pop().map(Step::Emit)),
                    None if pick > 8 => steps.push(Step::Yield),
                    // Whoever is left, so that it ends.
                    None => {
                        let queue = queues.iter_mut().find(|queue| !queue.is_empty());
                        steps.extend(queue.and_then(Vec::pop).map(Step::Emit));
                    }
                }
            }
            Script { n, k, chat, steps }
        })
}

/// An answer without its times, which differ.
fn timeless(mut response: Response) -> Response {
    for choice in &mut response.choices {
        choice.timings = Timings::default();
    }
    response
}

fn request(script: &Script) -> Request {
    let mut request = if script.chat {
        Request::messages([Message::user("Who is there?")])
    } else {
        Request::tokens([1, 2, 3])
    };
    request.n = script.n;
    request.logprobs = script.k;
    request
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn answers_are_the_same(script in script()) {
        let bench = BENCH.lock();
        bench.script.lock().clone_from(&script.steps);
        let direct = timeless(bench.service.generate(request(&script)).wait().expect("direct"));
        let through = bench.endpoint.generate(request(&script)).wait().expect("through");
        prop_assert_eq!(timeless(through), direct);
    }

    #[test]
    fn requests_are_the_same(request in any_request()) {
        let bench = BENCH.lock();
        bench.script.lock().clone_from(&vec![Step::Emit(Event::Started(Started::default()))]);
        // The answer breaks off: the request is what counts.
        let _ = bench.endpoint.generate(request.clone()).wait();
        let seen = bench.service.last();
        prop_assert_eq!(&seen.model, &request.model);
        prop_assert_eq!(&seen.prompt, &request.prompt);
        prop_assert_eq!(&seen.sampling, &request.sampling);
        prop_assert_eq!(
            (seen.max_tokens, seen.min_tokens, seen.ignore_eos, seen.n, seen.logprobs),
            (request.max_tokens, request.min_tokens, request.ignore_eos, request.n, request.logprobs)
        );
        prop_assert_eq!((&seen.stop, &seen.stop_tokens), (&request.stop, &request.stop_tokens));
        prop_assert_eq!(&seen.constraint, &request.constraint);
        prop_assert_eq!(
            (seen.skip_special_tokens, seen.priority, &seen.tenant, seen.deadline),
            (request.skip_special_tokens, request.priority, &request.tenant, request.deadline)
        );
        prop_assert_eq!(
            (seen.speculative, seen.draft_depth, &seen.resume, &seen.routing),
            (request.speculative, request.draft_depth, &request.resume, &request.routing)
        );
    }
}

fn prompt() -> impl Strategy<Value = Prompt> {
    let message =
        ("system|user|assistant", text()).prop_map(|(role, text)| Message::new(role, text));
    prop_oneof![
        text().prop_map(Prompt::Text),
        proptest::collection::vec(any::<u32>(), 0..5).prop_map(|ids| match ids.is_empty() {
            // An empty list is one of texts as well, and refused.
            true => Prompt::Tokens(vec![1]),
            false => Prompt::Tokens(ids),
        }),
        proptest::collection::vec(message, 0..4).prop_map(Prompt::Messages),
    ]
}

fn constraint() -> impl Strategy<Value = Constraint> {
    prop_oneof![
        Just(r#"{"type": "object", "properties": {"b": {}, "a": {}}}"#)
            .prop_map(|schema| Constraint::JsonSchema(schema.to_owned())),
        text().prop_map(Constraint::Regex),
        proptest::collection::vec(text(), 1..3).prop_map(Constraint::Choice),
        text().prop_map(Constraint::Lark),
    ]
}

fn routing() -> impl Strategy<Value = Routing> {
    let name = || proptest::option::of("[a-z]{1,5}");
    let names = || proptest::collection::vec("[a-z]{1,5}", 0..3);
    (name(), names(), name(), names(), name(), 0u64..4).prop_map(
        |(session, regions, origin, needs, tier, ms)| {
            let mut routing = Routing::default();
            routing.session = session;
            routing.regions = regions;
            routing.origin = origin;
            routing.needs = needs;
            routing.tier = tier;
            if ms > 0 {
                routing = routing
                    .latency_budget(Duration::from_millis(ms))
                    .max_cost(ms as f64 / 7.0)
                    .min_quality(0.3);
            }
            routing
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    let sampling = (
        0.0f32..2.0,
        0.1f32..=1.0,
        proptest::option::of(1usize..99),
        -2.0f32..2.0,
        proptest::option::of(any::<u64>()),
        proptest::collection::btree_map(any::<u32>(), -100.0f32..100.0, 0..3),
    );
    let ends = (
        proptest::option::of(1usize..999),
        0usize..3,
        any::<bool>(),
        proptest::collection::vec(text(), 0..3),
        proptest::collection::vec(any::<u32>(), 0..3),
    );
    let rest = (
        1usize..5,
        proptest::option::of(0usize..20),
        -9i32..9,
        proptest::option::of("[a-zé]{1,5}"),
        proptest::option::of(1_000u64..99_000),
        proptest::collection::vec(any::<u32>(), 0..3),
    );
    let form = (proptest::option::of(constraint()), routing());
    (prompt(), sampling, ends, rest, form).prop_map(|(prompt, sampling, ends, rest, form)| {
        let mut request = Request::new(prompt).model("bard");
        let (temperature, top_p, top_k, penalty, seed, bias) = sampling;
        let with = &mut request.sampling;
        (with.temperature, with.top_p, with.top_k, with.seed) = (temperature, top_p, top_k, seed);
        with.presence_penalty = penalty;
        with.frequency_penalty = penalty / 3.0;
        with.repetition_penalty = 1.0 + penalty.abs();
        with.min_p = top_p / 3.0;
        with.logit_bias = bias;
        let (max_tokens, min_tokens, flag, stop, stop_tokens) = ends;
        (request.max_tokens, request.min_tokens) = (max_tokens, min_tokens);
        (request.stop, request.stop_tokens) = (stop, stop_tokens);
        request.ignore_eos = flag;
        request.skip_special_tokens = !flag;
        request.speculative = flag;
        let (n, logprobs, priority, tenant, deadline, resume) = rest;
        (request.n, request.logprobs, request.priority) = (n, logprobs, priority);
        (request.tenant, request.resume) = (tenant, resume);
        request.deadline = deadline.map(Duration::from_millis);
        request.draft_depth = max_tokens.map(|depth| depth % 4);
        (request.constraint, request.routing) = form;
        request
    })
}

#[test]
fn text_without_tokens_passes_too() {
    let steps = vec![
        Step::Emit(Event::Started(Started::default())),
        Step::Emit(Event::Text(llmserve_core::TextEvent {
            index: 0,
            text: "to be".into(),
        })),
        super::support::finished(0, FinishReason::Stop, 3),
    ];
    let server = Server::of(Scripted::always(steps.clone()));
    let endpoint = server.endpoint(|endpoint| endpoint.dialect(Dialect::Llmserve));
    let response = endpoint
        .generate(Request::text("x"))
        .wait()
        .expect("an answer");
    let Choice { text, usage, .. } = &response.choices[0];
    assert_eq!((text.as_str(), usage.completion_tokens), ("to be", 3));
    // As OpenAI's own: no ids are asked for, and none come.
    let server = Server::of(Scripted::always(super::support::says(&["to", " be"])));
    let endpoint = server.endpoint(|endpoint| endpoint);
    let response = endpoint
        .generate(Request::text("x").max_tokens(4))
        .wait()
        .expect("an answer");
    assert_eq!((response.text(), response.ids().len()), ("to be", 0));
    assert_eq!(response.choices[0].usage.completion_tokens, 2);
    assert_eq!(response.choices[0].usage.cached_tokens, 1);
}
