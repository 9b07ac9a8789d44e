//! The layer with a keeper that writes down what it is asked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve_core::{Error, Keeper, KeptPrefix, MemoryRecorder};

use super::*;
use crate::BuildError;

/// Answers nothing.
struct Closed;

impl Generate for Closed {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::failed(Error::ShutDown)
    }
}

/// What is kept now, and what becomes of what it is asked to keep.
#[derive(Default)]
struct Notes {
    kept: Mutex<Vec<Prefix>>,
    asked: AtomicUsize,
    most: Mutex<usize>,
    fate: Mutex<Fate>,
    waiting: Mutex<Vec<Keeper>>,
}

#[derive(Clone, Copy, Default)]
enum Fate {
    #[default]
    Ready,
    Refused,
    Panics,
    Later,
}

#[derive(Clone, Default)]
struct Noting(Arc<Notes>);

impl KeepPrefix for Noting {
    fn keep(&self, prefix: Prefix) -> KeptPrefix {
        let notes = self.0.clone();
        notes.asked.fetch_add(1, Ordering::Relaxed);
        let fate = *notes.fate.lock();
        if matches!(fate, Fate::Panics) {
            panic!("a keeper's own fault");
        }
        notes.kept.lock().push(prefix.clone());
        let mut most = notes.most.lock();
        *most = notes.kept.lock().len().max(*most);
        drop(most);
        let gone = notes.clone();
        let (guard, keeper) = KeptPrefix::pair(move || {
            let mut kept = gone.kept.lock();
            let at = kept.iter().position(|other| *other == prefix);
            at.map(|at| kept.remove(at));
        });
        match fate {
            Fate::Refused => keeper.tell(Keeping::Failed(Error::Cancelled)),
            Fate::Later => notes.waiting.lock().push(keeper),
            _ => keeper.tell(Keeping::Ready { tokens: 48 }),
        }
        guard
    }
}

impl Noting {
    fn kept(&self) -> BTreeSet<String> {
        let kept = self.0.kept.lock();
        kept.iter()
            .map(|prefix| format!("{:?}", prefix.prompt))
            .collect()
    }
}

fn system(n: usize) -> String {
    format!("{n}: {}", "instructions ".repeat(30))
}

fn kept(prompts: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    let prompt = |n| Prompt::Messages(vec![Message::system(system(n))]);
    prompts
        .into_iter()
        .map(|n| format!("{:?}", prompt(n)))
        .collect()
}

fn ask(layer: &PromptLayer, n: usize, question: usize) {
    let messages = vec![
        Message::system(system(n)),
        Message::user(format!("{question}?")),
    ];
    drop(layer.generate(Request::messages(messages)));
}

fn layer(keeper: &Noting) -> PromptLayerBuilder {
    PromptLayer::builder(Closed).keeper(keeper.clone())
}

#[test]
fn what_enough_prompts_share_is_kept_and_then_hit() {
    let keeper = Noting::default();
    let recorder = Arc::new(MemoryRecorder::default());
    let layer = layer(&keeper).recorder(recorder.clone()).build().unwrap();
    for question in 0..3 {
        ask(&layer, 1, question);
    }
    assert!(keeper.kept().is_empty());
    ask(&layer, 1, 3);
    assert_eq!(keeper.kept(), kept([1]));
    for question in 0..6 {
        ask(&layer, 1, question);
    }
    assert_eq!(keeper.0.asked.load(Ordering::Relaxed), 1);
    let stats = layer.stats();
    assert_eq!((stats.prompts, stats.hits, stats.automatic), (10, 6, 1));
    assert!(stats.beginnings > 1 && stats.bytes > 0);
    let shared = layer.shared();
    assert_eq!((shared.len(), shared[0].requests), (1, 10));
    assert_eq!(shared[0].bytes, "system".len() + system(1).len());
    drop(layer);
    assert!(keeper.kept().is_empty(), "what the layer kept goes with it");
}

#[test]
fn the_most_shared_are_kept_and_never_more() {
    let keeper = Noting::default();
    let layer = layer(&keeper).automatic(3).build().unwrap();
    // The n-th is asked for n times as often.
    for round in 0..40 {
        for n in 1..=8 {
            for question in 0..n {
                ask(&layer, n, round * 10 + question);
            }
        }
    }
    assert_eq!(keeper.kept().len(), 3);
    assert!(keeper.kept().is_subset(&kept([3, 4, 5, 6, 7, 8])));
    assert_eq!(
        *keeper.0.most.lock(),
        3,
        "first one goes, then another comes"
    );
    // What nobody asks for any more makes room for what is asked for twice as often.
    for question in 0..5_000 {
        ask(&layer, 9, question);
    }
    assert!(keeper.kept().is_superset(&kept([9])));
}

#[test]
fn names_keep_prefixes_until_they_are_forgotten_or_given_away() {
    let keeper = Noting::default();
    let layer = layer(&keeper).automatic(0).build().unwrap();
    let prefix = |n| Prefix::messages([Message::system(system(n))]);
    layer.register("a", prefix(1)).unwrap();
    layer.register("b", prefix(2)).unwrap();
    assert_eq!(keeper.kept(), kept([1, 2]));
    assert_eq!(layer.wait("a").unwrap(), 48);
    assert!(matches!(
        layer.keeping("b"),
        Some(Keeping::Ready { tokens: 48 })
    ));
    assert!(layer.keeping("c").is_none());

    ask(&layer, 1, 1);
    ask(&layer, 3, 1);
    assert_eq!((layer.stats().hits, layer.stats().registered), (1, 2));
    layer.register("a", prefix(3)).unwrap();
    assert_eq!(keeper.kept(), kept([2, 3]));
    ask(&layer, 1, 2);
    ask(&layer, 3, 2);
    assert_eq!(layer.stats().hits, 2);
    assert!(layer.forget("a") && layer.forget("b") && !layer.forget("b"));
    assert!(keeper.kept().is_empty());
    assert!(layer.wait("b").unwrap_err().to_string().contains("`b`"));
    let empty = layer.register("a", Prefix::text(""));
    assert_eq!(
        empty,
        Err(PromptError::Empty {
            name: "a".to_owned()
        })
    );
}

#[test]
fn prompts_go_on_from_a_prefix_by_name() {
    let layer = PromptLayer::builder(Closed).build().unwrap();
    let open = Prefix::messages([Message::system("s"), Message::user("Read: ")]).open();
    layer.register("open", open).unwrap();
    layer
        .register("whole", Prefix::messages([Message::system("s")]))
        .unwrap();
    layer.register("text", Prefix::text("Once ")).unwrap();
    layer
        .register("ids", Prefix::new(Prompt::Tokens(vec![1, 2])))
        .unwrap();
    let said = vec![Message::user("this"), Message::assistant("Yes.")];
    let messages = Prompt::Messages(said.clone());
    let read = [
        Message::system("s"),
        Message::user("Read: this"),
        said[1].clone(),
    ];
    assert_eq!(
        layer.prompt("open", messages.clone()),
        Ok(Prompt::Messages(read.into()))
    );
    let plain = [Message::system("s"), said[0].clone(), said[1].clone()];
    assert_eq!(
        layer.prompt("whole", messages.clone()),
        Ok(Prompt::Messages(plain.into()))
    );
    let once = layer.prompt("text", Prompt::Text("more".into()));
    assert_eq!(once, Ok(Prompt::Text("Once more".into())));
    assert_eq!(
        layer.prompt("ids", Prompt::Tokens(vec![3])),
        Ok(Prompt::Tokens(vec![1, 2, 3]))
    );
    let wrong = layer.prompt("text", messages.clone()).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "prefix `text` is a text, so what follows cannot be messages"
    );
    let unknown = layer.prompt("none", messages).unwrap_err();
    assert_eq!(unknown.to_string(), "no prefix is registered as `none`");
    // Nobody keeps anything here, and nobody waits for it.
    assert_eq!(layer.wait("text").unwrap(), 0);
}

#[test]
fn templates_have_names_and_keep_what_their_prompts_begin_with() {
    let keeper = Noting::default();
    let layer = layer(&keeper).build().unwrap();
    let template = PromptTemplate::builder()
        .system(system(1))
        .user("{{q}}")
        .build();
    layer.register_template("t", template.unwrap()).unwrap();
    assert_eq!(keeper.kept(), kept([1]));
    let request = layer.request("t", [("q", "Why?")]).unwrap();
    drop(layer.generate(request));
    assert_eq!(layer.stats().hits, 1);
    let missing = layer.request("t", [("p", "")]).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("template `t`: the template has no slot `p`")
    );
    assert!(layer.request("u", [("q", "")]).is_err());

    // One whose prompts have nothing in common is a template all the same.
    let bare = PromptTemplate::builder().user("{{q}}").build().unwrap();
    layer.register_template("t", bare).unwrap();
    assert!(keeper.kept().is_empty());
    assert!(layer.request("t", [("q", "Why?")]).is_ok());
    assert_eq!(layer.wait("t").unwrap(), 0);
}

#[test]
fn what_cannot_be_kept_is_let_go_of_and_asked_for_again_when_twice_as_many_share_it() {
    for fate in [Fate::Refused, Fate::Panics] {
        let keeper = Noting::default();
        *keeper.0.fate.lock() = fate;
        let layer = layer(&keeper).build().unwrap();
        (0..140).for_each(|question| ask(&layer, 1, question));
        // At first by 4, then each time when twice as many have come since it failed.
        let asked = keeper.0.asked.load(Ordering::Relaxed);
        assert!((2..=6).contains(&asked), "{asked}");
        assert!(keeper.kept().is_empty());
        assert_eq!(layer.stats().automatic, 0);
        layer.register("a", Prefix::text("x")).unwrap();
        assert!(layer.wait("a").is_err());
    }
}

#[test]
fn who_waits_is_told_when_it_is_ready_or_nobody_keeps_it() {
    let keeper = Noting::default();
    *keeper.0.fate.lock() = Fate::Later;
    let layer = layer(&keeper).build().unwrap();
    layer.register("a", Prefix::text("x")).unwrap();
    layer.register("b", Prefix::text("y")).unwrap();
    let waits = |name: &'static str| {
        let layer = layer.clone();
        std::thread::spawn(move || layer.wait(name))
    };
    let (a, b) = (waits("a"), waits("b"));
    let mut keepers = std::mem::take(&mut *keeper.0.waiting.lock());
    keepers.remove(0).tell(Keeping::Ready { tokens: 7 });
    drop(keepers);
    assert_eq!(a.join().unwrap().ok(), Some(7));
    assert!(matches!(b.join().unwrap(), Err(Error::Cancelled)));
    // One who waits for a name that goes meanwhile still holds what it waits for.
    layer.register("c", Prefix::text("z")).unwrap();
    let c = waits("c");
    layer.forget("c");
    drop(std::mem::take(&mut *keeper.0.waiting.lock()));
    assert!(c.join().unwrap().is_err());
}

#[test]
fn what_was_shared_in_an_earlier_life_is_kept_from_the_start() {
    let keeper = Noting::default();
    let first = layer(&keeper).build().unwrap();
    (0..12).for_each(|question| ask(&first, 1, question));
    (0..5).for_each(|question| ask(&first, 2, question));
    (0..2).for_each(|question| ask(&first, 3, question));
    let written = serde_json::to_string(&first.shared()).unwrap();
    drop(first);

    let recalled: Vec<SharedPrefix> = serde_json::from_str(&written).unwrap();
    let second = layer(&keeper).recall(recalled).build().unwrap();
    assert_eq!(keeper.kept(), kept([1, 2]));
    ask(&second, 2, 9);
    assert_eq!(second.stats().hits, 1);
    assert_eq!(second.shared()[0].requests, 12);
}

#[test]
fn settings_of_which_nothing_comes_are_refused() {
    let field = |builder: PromptLayerBuilder| match builder.build() {
        Err(BuildError::TooSmall { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let builder = || PromptLayer::builder(Closed);
    assert_eq!(field(builder().least_requests(1)), "least_requests");
    assert_eq!(field(builder().least_bytes(0)), "least_bytes");
    assert_eq!(field(builder().reach(255)), "reach");
    assert_eq!(field(builder().window(7)), "window");
    assert_eq!(field(builder().max_bytes(1_000)), "max_bytes");
}

#[test]
fn many_threads_leave_nothing_behind() {
    let keeper = Noting::default();
    let layer = layer(&keeper).automatic(4).window(100).build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let layer = &layer;
            scope.spawn(move || {
                for round in 0..400 {
                    ask(layer, (round * 7 + thread) % 12, round);
                    match round % 5 {
                        0 => {
                            let prefix = Prefix::text(format!("{}", round % 3));
                            layer.register(format!("{}", round % 7), prefix).unwrap();
                        }
                        1 => drop(layer.forget(&format!("{}", (round + 3) % 7))),
                        2 => drop(layer.shared()),
                        _ => drop(layer.stats()),
                    }
                }
            });
        }
    });
    assert!(layer.stats().automatic <= 4);
    assert_eq!(
        keeper.0.kept.lock().len(),
        layer.stats().automatic + layer.stats().registered
    );
    drop(layer);
    assert!(keeper.kept().is_empty());
}
