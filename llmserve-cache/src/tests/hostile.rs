//! Code that hosts bring along, and that panics.

use llmserve_core::{Counter, Gauge, Histogram, Message, Recorder};

use super::*;
use crate::semantic::SemanticIndex;
use crate::{
    CacheLayer, Entry, Epochs, HashedNgrams, Key, Lookup, Policy, Semantic, Source, Store,
    StoreStats,
};

/// Panics when an instrument is made, or else whenever one is used.
pub(crate) struct Broken {
    pub(crate) at_once: bool,
}

struct Instrument;

impl Counter for Instrument {
    fn add(&self, _: u64) {
        panic!("add, on purpose");
    }
}

impl Gauge for Instrument {
    fn set(&self, _: f64) {
        panic!("set, on purpose");
    }
}

impl Histogram for Instrument {
    fn record(&self, _: f64) {
        panic!("record, on purpose");
    }
}

impl Recorder for Broken {
    fn counter(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Counter> {
        assert!(!self.at_once, "counter, on purpose");
        Arc::new(Instrument)
    }
    fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
        assert!(!self.at_once, "gauge, on purpose");
        Arc::new(Instrument)
    }
    fn histogram(
        &self,
        _: &'static str,
        _: &'static str,
        _: &'static [f64],
        _: &[(&str, &str)],
    ) -> Arc<dyn Histogram> {
        assert!(!self.at_once, "histogram, on purpose");
        Arc::new(Instrument)
    }
}

/// Every way to an answer, with everything that a host may bring along panicking.
#[test]
fn nobody_notices_a_recorder_or_a_listener_that_panics() {
    for at_once in [false, true] {
        let inner = Scripted::new(|request| match &request.prompt {
            llmserve_core::Prompt::Messages(messages) => says(&messages[0].content),
            other => says(&format!("{other:?}")),
        });
        let index = SemanticIndex::builder(Arc::new(HashedNgrams::default()));
        let cached = CacheLayer::builder(inner.clone())
            .semantic(Semantic::new(index.build().unwrap()))
            .policy(Policy::default().only(|request| match request.priority {
                7 => panic!("only, on purpose"),
                _ => true,
            }))
            .tags(|request| match request.priority {
                8 => panic!("tags, on purpose"),
                _ => Vec::new(),
            })
            .on_answer(|_, _| panic!("on_answer, on purpose"))
            .recorder(Arc::new(Broken { at_once }))
            .build()
            .unwrap();
        let question = "How do I reset the password of my account?";
        let ask = |text: &str| {
            let request = Request::messages([Message::user(text)]);
            let (stream, trace) = cached.generate_traced(request);
            let text = stream.wait().unwrap().text().to_owned();
            assert_eq!(text, format!("{question}held back"));
            trace.source().unwrap()
        };
        assert_eq!(ask(question), Source::Model);
        assert!(matches!(ask(question), Source::Exact { .. }));
        assert!(matches!(
            ask("how do i reset the password of my account"),
            Source::Semantic { .. }
        ));
        // Two together, one of which goes away.
        let twins = [(); 3].map(|()| cached.generate(Request::text("twins")));
        let [first, second, third] = twins;
        drop(first);
        second.wait().unwrap();
        third.wait().unwrap();
        for priority in [7, 8] {
            let request = Request::text("").priority(priority);
            cached.generate(request).wait().unwrap();
        }
        cached.invalidate(&crate::Scope::All);
        assert_eq!(ask(question), Source::Model);
        let stats = cached.stats();
        assert_eq!((stats.hits, stats.semantic_hits), (1, 1));
        assert_eq!((stats.misses, stats.joined, stats.bypassed), (3, 2, 2));
        // Found by its key, and then as its own neighbour.
        assert_eq!((stats.stored, stats.stale), (3, 2));
        assert_eq!((stats.running, stats.store_failures), (0, 0));
        assert_eq!(inner.live.load(Ordering::SeqCst), 0);
    }
}

/// A store that finds by hash alone, as a careless one does, gives nobody another's answer.
#[test]
fn a_store_that_finds_another_keys_entry_is_not_believed() {
    #[derive(Default)]
    struct Careless {
        last: Mutex<Option<Entry>>,
        epochs: Arc<Epochs>,
        later: bool,
    }
    impl Store for Careless {
        fn get(&self, _: &Arc<Key>) -> Lookup {
            let found = self.last.lock().clone();
            match self.later {
                true => Lookup::Pending(Box::pin(std::future::ready(found))),
                false => Lookup::Ready(found),
            }
        }
        fn put(&self, entry: Entry) {
            *self.last.lock() = Some(entry);
        }
        fn remove(&self, _: &Arc<Key>) {}
        fn epochs(&self) -> &Arc<Epochs> {
            &self.epochs
        }
        fn max_entry_size(&self) -> usize {
            usize::MAX
        }
        fn stats(&self) -> StoreStats {
            StoreStats::default()
        }
    }
    for later in [false, true] {
        let inner = Scripted::new(|request| says(&format!("{:?}", request.prompt)));
        let store = Careless {
            later,
            ..Careless::default()
        };
        let cached = CacheLayer::builder(inner.clone()).store(store);
        let cached = cached.build().unwrap();
        for text in ["one", "two", "two", "one"] {
            let answer = cached.generate(Request::text(text)).wait().unwrap();
            assert!(answer.text().contains(text), "{later}: {text}");
        }
        let stats = cached.stats();
        assert_eq!((inner.calls(), stats.hits), (3, 1));
        assert!(stats.store_failures >= 2);
    }
}
