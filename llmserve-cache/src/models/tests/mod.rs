//! Caches of scripted models.

mod ends;
mod loads;
mod random;
mod rooms;
mod stress;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use llmserve_core::{
    Error, Event, EventStream, FinishReason, Finished, Generate, LoadProgress, Loaded, Loader,
    Request, Started, TextEvent, Timings, Usage,
};
use parking_lot::Mutex;

use super::{ModelCache, ModelState};

/// Waits for what other threads do; a test that waits too long has found a hang.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// What loaders and models of one test share.
#[derive(Default)]
struct Scene {
    /// Models by name: what they say that they take, and what they take.
    sizes: HashMap<String, (u64, u64)>,
    /// Loads begun, by name and in order.
    loads: Mutex<Vec<String>>,
    /// Loads wait for a word.
    gated: AtomicBool,
    /// Words given, for as many loads.
    words: AtomicUsize,
    /// What the next loads do instead of succeeding.
    faults: Mutex<Vec<Fault>>,
    /// Models in memory.
    live: AtomicUsize,
    /// Bytes in memory, and the most there were.
    bytes: Mutex<(u64, u64)>,
    /// Streams alive.
    streams: AtomicUsize,
}

enum Fault {
    Fail(Error),
    Panic,
}

#[derive(Clone)]
struct Scripts(Arc<Scene>);

impl Loader for Scripts {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.sizes.keys().cloned().collect();
        names.sort();
        names
    }

    fn estimate(&self, model: &str) -> Result<u64, Error> {
        Ok(self.0.sizes[model].0)
    }

    fn load(&self, model: &str, progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
        let scene = &self.0;
        scene.loads.lock().push(model.to_owned());
        progress.report(1, 2);
        let word = |words: usize| words.checked_sub(1);
        let (relaxed, words) = (Ordering::SeqCst, &scene.words);
        while scene.gated.load(relaxed) && words.fetch_update(relaxed, relaxed, word).is_err() {
            progress.check()?;
            thread::sleep(Duration::from_micros(100));
        }
        let fault = scene.faults.lock().pop();
        match fault {
            Some(Fault::Fail(error)) => return Err(error),
            Some(Fault::Panic) => panic!("load, on purpose"),
            None => {}
        }
        let bytes = scene.sizes[model].1;
        Ok(Loaded::new(Actor::new(model, bytes, scene.clone()), bytes))
    }
}

/// A model that answers with its own name. Asked to ignore end tokens it says at once that it is
/// done, and with a least number of tokens it never is.
struct Actor {
    name: String,
    bytes: u64,
    scene: Arc<Scene>,
}

impl Actor {
    fn new(name: &str, bytes: u64, scene: Arc<Scene>) -> Self {
        scene.live.fetch_add(1, Ordering::SeqCst);
        {
            let mut held = scene.bytes.lock();
            held.0 += bytes;
            held.1 = held.1.max(held.0);
        }
        Self {
            name: name.to_owned(),
            bytes,
            scene,
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.scene.bytes.lock().0 -= self.bytes;
        self.scene.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Generate for Actor {
    fn generate(&self, request: Request) -> EventStream {
        if let llmserve_core::Prompt::Text(text) = &request.prompt
            && text == "panic"
        {
            panic!("generate, on purpose");
        }
        if request.ignore_eos {
            request.on_end.iter().for_each(|ended| ended());
        }
        self.scene.streams.fetch_add(1, Ordering::SeqCst);
        EventStream::new(Acting {
            events: vec![finished(), text(&self.name), started()],
            held: request.min_tokens > 0,
            _request: request,
            waker: None,
            scene: self.scene.clone(),
        })
    }
}

struct Acting {
    /// Last first.
    events: Vec<Event>,
    /// Stops for ever before its end.
    held: bool,
    _request: Request,
    waker: Option<Waker>,
    scene: Arc<Scene>,
}

impl Stream for Acting {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.held && self.events.len() == 1 {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(self.events.pop().map(Ok))
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.scene.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

fn started() -> Event {
    Event::Started(Started::default())
}

fn text(text: &str) -> Event {
    Event::Text(TextEvent {
        index: 0,
        text: text.to_owned(),
    })
}

fn finished() -> Event {
    Event::Finished(Finished {
        index: 0,
        reason: FinishReason::Stop,
        text: String::new(),
        usage: Usage::default(),
        timings: Timings::default(),
    })
}

/// Models that take what they say.
fn scene(sizes: &[(&str, u64)]) -> Arc<Scene> {
    measured(&sizes.iter().map(|(n, s)| (*n, *s, *s)).collect::<Vec<_>>())
}

/// Models that take something else than they say.
fn measured(sizes: &[(&str, u64, u64)]) -> Arc<Scene> {
    let sizes = sizes
        .iter()
        .map(|(n, said, real)| (n.to_string(), (*said, *real)));
    Arc::new(Scene {
        sizes: sizes.collect(),
        ..Scene::default()
    })
}

impl Scene {
    fn gated(self: Arc<Self>) -> Arc<Self> {
        self.gated.store(true, Ordering::SeqCst);
        self
    }

    /// Lets one load pass.
    fn pass(&self) {
        self.words.fetch_add(1, Ordering::SeqCst);
    }

    fn loads(&self) -> Vec<String> {
        self.loads.lock().clone()
    }

    fn fault(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }
}

fn ask(model: &str) -> Request {
    Request::text("Hi").model(model)
}

/// A request whose answer never ends by itself.
fn held(model: &str) -> Request {
    ask(model).min_tokens(1)
}

/// The answer of a model, which is its name.
#[track_caller]
fn answers(models: &ModelCache, model: &str) {
    let answer = models.generate(ask(model)).wait();
    assert_eq!(answer.as_ref().map(|answer| answer.text()), Ok(model));
}

/// Reads up to where the answer is held.
fn read_some(stream: &mut EventStream) {
    for _ in 0..2 {
        assert!(matches!(stream.blocking_next(), Some(Ok(_))));
    }
}

fn state(models: &ModelCache, model: &str) -> Option<ModelState> {
    models.stats().model(model).map(|model| model.state)
}

#[track_caller]
fn ends(models: ModelCache, scene: &Scene) {
    drop(models);
    eventually("everything is unloaded", || {
        scene.live.load(Ordering::SeqCst) == 0 && scene.streams.load(Ordering::SeqCst) == 0
    });
    assert_eq!(scene.bytes.lock().0, 0);
}
