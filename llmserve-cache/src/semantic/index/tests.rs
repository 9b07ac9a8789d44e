use std::collections::HashMap;
use std::thread;

use llmserve_core::Error;

use super::*;
use crate::semantic::veto::veto;

/// Letters, and pairs of them: enough to be near where texts are alike.
struct Letters;

impl Embedder for Letters {
    fn dimensions(&self) -> usize {
        64
    }

    fn identity(&self) -> &str {
        "letters-v1"
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; 64];
    vector[63] = 0.01;
    let lower: Vec<u8> = text
        .to_lowercase()
        .bytes()
        .filter(u8::is_ascii_alphanumeric)
        .collect();
    for pair in lower.windows(2) {
        vector[usize::from(pair[0]) * 31 % 63] += 1.0;
        vector[(usize::from(pair[0]) * 7 + usize::from(pair[1])) % 63] += 1.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

fn index(max_bytes: usize) -> SemanticIndex {
    index_from(max_bytes, usize::MAX)
}

fn index_from(max_bytes: usize, approximate_from: usize) -> SemanticIndex {
    SemanticIndex::builder(Arc::new(Letters))
        .max_bytes(max_bytes)
        .approximate_from(approximate_from)
        .threshold(Threshold {
            texts: 0.8,
            words: 0.5,
            gain: None,
        })
        .build()
        .expect("sound limits")
}

fn insert(index: &SemanticIndex, namespace: u128, text: &str, id: u128) {
    index
        .insert(namespace, text, &vector(text), id)
        .expect("fits");
}

fn lookup(index: &SemanticIndex, namespace: u128, text: &str) -> Option<Nearest> {
    index
        .lookup(namespace, text, &vector(text))
        .expect("an embedder that does not fail")
}

#[test]
fn the_nearest_that_is_not_told_apart() {
    let index = index(1 << 20);
    insert(&index, 1, "How far is the harbour of Oslo?", 1);
    insert(&index, 1, "How far is the harbour of Rome?", 2);
    insert(&index, 1, "Why do whales sing at night?", 3);
    // Nearest is another city, or the same; the same is given.
    let found = lookup(&index, 1, "how far is the harbour of rome").expect("three");
    assert!(found.is_hit() && found.id == 2, "{found:?}");
    let found = lookup(&index, 1, "How far is the harbour of Bonn?").expect("three");
    assert_eq!(found.veto(), Some(Veto::Name), "{found:?}");
    let found = lookup(&index, 1, "Zzz?").expect("three");
    assert_eq!(found.verdict, Verdict::Far);
    assert_eq!(lookup(&index, 2, "Why do whales sing at night?"), None);
}

#[test]
fn a_word_in_anothers_place_is_compared_by_itself() {
    let strict = Threshold {
        texts: 0.8,
        words: 0.95,
        gain: None,
    };
    let index = SemanticIndex::builder(Arc::new(Letters)).threshold(strict);
    let index = index.build().expect("sound limits");
    insert(
        &index,
        1,
        "How do I sharpen the long and heavy kitchen knives?",
        1,
    );
    let found = lookup(
        &index,
        1,
        "How do I varnish the long and heavy kitchen knives?",
    );
    assert_eq!(found.expect("one").veto(), Some(Veto::Wording));
    // Also where one of the two is a word that often says nothing.
    insert(&index, 2, "How large should a tip be in a restaurant?", 2);
    let found = lookup(&index, 2, "How large should a plate be in a restaurant?");
    assert_eq!(found.expect("one").veto(), Some(Veto::Wording));
}

#[test]
fn an_id_is_there_once() {
    let index = index(1 << 20);
    insert(&index, 1, "What is moss?", 5);
    insert(&index, 2, "What is fern?", 5);
    assert_eq!(lookup(&index, 1, "What is moss?"), None);
    assert!(lookup(&index, 2, "What is fern?").is_some_and(|found| found.is_hit()));
    let stats = index.stats();
    assert_eq!((stats.entries, stats.namespaces), (1, 1));
    assert!(index.remove(5) && !index.remove(5));
    assert_eq!(index.stats(), IndexStats::default());
}

#[test]
fn the_least_recently_used_make_room_by_size() {
    let index = index(30_000);
    for id in 0..30 {
        insert(
            &index,
            id % 3,
            &format!("What is the word number {id} of the poem?"),
            id,
        );
    }
    assert_eq!(index.stats().entries, 30);
    // Used, so the last to go.
    assert!(
        lookup(&index, 0, "What is the word number 0 of the poem?").is_some_and(|f| f.is_hit())
    );
    let long = "word ".repeat(4_000);
    insert(&index, 9, &long, 100);
    let stats = index.stats();
    assert!(stats.bytes <= 30_000 && stats.evictions > 3, "{stats:?}");
    let found = lookup(&index, 0, "What is the word number 0 of the poem?");
    assert!(found.is_some_and(|found| found.is_hit() && found.id == 0));
    assert!(!index.remove(1), "the oldest went first");
    // What does not fit at all leaves everything as it was.
    let stats = index.stats();
    let huge = "word ".repeat(10_000);
    let refused = index.insert(9, &huge, &vector(&huge), 101);
    assert!(matches!(
        refused,
        Err(IndexError::TooLarge { limit: 30_000, .. })
    ));
    assert_eq!(index.stats(), stats);
}

#[test]
fn sketches_are_within_the_bytes_and_change_no_answer() {
    let (exact, sketched) = (index(1 << 20), index_from(1 << 20, 400));
    let text = |id: u128| format!("Where does road {} of district {} lead?", id * 37, id % 11);
    for id in 0..1_000 {
        insert(&exact, 1, &text(id), id);
        insert(&sketched, 1, &text(id), id);
    }
    let (plain, more) = (exact.stats(), sketched.stats());
    assert_eq!(plain.entries, more.entries);
    // A word of signs and a factor each, with some room.
    let sketches = more.bytes - plain.bytes;
    assert!((12_000..18_000).contains(&sketches), "{sketches}");
    for id in 0..1_000 {
        let (exact, sketched) = (
            lookup(&exact, 1, &text(id)),
            lookup(&sketched, 1, &text(id)),
        );
        assert!(sketched.as_ref().is_some_and(|found| found.is_hit()));
        assert_eq!(exact, sketched);
    }
    // In too small a budget as many go as sketches take the room of.
    let small = index_from(more.bytes / 2, 100);
    for id in 0..1_000 {
        insert(&small, 1, &text(id), id);
        assert!(small.stats().bytes <= more.bytes / 2);
    }
    assert!(
        (450..=500).contains(&small.stats().entries),
        "{:?}",
        small.stats()
    );
    let left = small.stats().entries;
    assert_eq!(small.remove_namespace(1), left);
    assert_eq!(small.stats().bytes, 0);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let index = index(1 << 20);
    let short = index.insert(1, "x", &[1.0; 3], 1);
    assert!(matches!(
        short,
        Err(IndexError::Dimensions {
            given: 3,
            wanted: 64
        })
    ));
    let zero = index.lookup(1, "x", &[0.0; 64]);
    assert!(matches!(zero, Err(IndexError::NoDirection)));
    let none = SemanticIndex::builder(Arc::new(Letters))
        .candidates(0)
        .build();
    assert!(matches!(
        none,
        Err(IndexError::Limit {
            name: "candidates",
            ..
        })
    ));
    let threshold = Threshold {
        texts: f32::NAN,
        words: 0.5,
        gain: None,
    };
    let nan = SemanticIndex::builder(Arc::new(Letters))
        .threshold(threshold)
        .build();
    assert!(matches!(nan, Err(IndexError::Limit { .. })));
}

#[test]
fn against_a_plain_map_over_many_changes() {
    // All vectors read; all sketched; shelves of about the size from which they are.
    for approximate_from in [usize::MAX, 1, 60] {
        many_changes(&index_from(1 << 24, approximate_from));
    }
}

fn many_changes(index: &SemanticIndex) {
    let mut model: HashMap<u128, (u128, String)> = HashMap::new();
    let mut seed = 11u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for step in 0..6_000u32 {
        let id = u128::from(next(700));
        match next(10) {
            0..6 => {
                let namespace = u128::from(next(5));
                let text = format!("what is item {step} of list {id}");
                insert(index, namespace, &text, id);
                model.insert(id, (namespace, text));
            }
            6..9 => assert_eq!(index.remove(id), model.remove(&id).is_some()),
            _ if next(40) == 0 => {
                let namespace = u128::from(next(5));
                let before = model.len();
                model.retain(|_, (other, _)| *other != namespace);
                assert_eq!(index.remove_namespace(namespace), before - model.len());
            }
            _ => {
                if let Some((namespace, text)) = model.get(&id) {
                    let found = lookup(index, *namespace, text).expect("it is there");
                    assert!(found.is_hit() && found.id == id, "{found:?}");
                }
            }
        }
        assert_eq!(index.stats().entries, model.len());
    }
    for id in model.keys() {
        assert!(index.remove(*id));
    }
    assert_eq!(index.stats(), IndexStats::default());
    insert(index, 1, "x y z", 1);
    index.clear();
    assert_eq!(index.stats(), IndexStats::default());
}

#[test]
fn many_at_once() {
    let index = index_from(60_000, 20);
    thread::scope(|scope| {
        for thread in 0..4u128 {
            let index = &index;
            scope.spawn(move || {
                for i in 0..300u128 {
                    let text = format!("thread {thread} asks for item {i}");
                    insert(index, thread % 2, &text, thread * 1_000 + i);
                    lookup(index, thread % 2, &text);
                    if i % 3 == 0 {
                        index.remove(thread * 1_000 + i / 2);
                    }
                }
            });
        }
    });
    let stats = index.stats();
    assert!(stats.bytes <= 60_000 && stats.entries > 0, "{stats:?}");
    assert_eq!(
        index.remove_namespace(0) + index.remove_namespace(1),
        stats.entries
    );
    assert_eq!(index.stats().bytes, 0);
}

/// Texts at angles that the test gives them.
struct Angles(HashMap<String, f32>);

impl Embedder for Angles {
    fn dimensions(&self) -> usize {
        2
    }

    fn identity(&self) -> &str {
        "angles"
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        let at = |text: &&str| {
            let angle = self.0.get(*text).unwrap_or_else(|| panic!("no {text:?}"));
            vec![angle.cos(), angle.sin()]
        };
        Ok(texts.iter().map(at).collect())
    }
}

/// What an index with [`Threshold::gain`] makes of two texts at an angle, with the words of their
/// own at another and what is left without them at a third.
fn weighed(a: &str, b: &str, whole: f32, own: f32, rest: f32) -> Option<Veto> {
    weighed_at(a, b, whole, own, rest).veto()
}

fn weighed_at(a: &str, b: &str, whole: f32, own: f32, rest: f32) -> Nearest {
    let wording = compare(&focus(a, b)).expect("left to the embedder");
    let mut angles = HashMap::new();
    for ([one, other], angle) in [(&wording.rest, rest), (&wording.own, own)] {
        angles.insert(one.clone(), 0.0);
        angles.insert(other.clone(), angle);
    }
    angles.insert(a.to_owned(), 0.0);
    angles.insert(b.to_owned(), whole);
    let embedder = Arc::new(Angles(angles));
    let vectors = embedder.embed(&[a, b]).expect("all are there");
    let threshold = Threshold {
        texts: 0.75,
        words: 0.7,
        gain: Some(0.35),
    };
    let index = SemanticIndex::builder(embedder).threshold(threshold);
    let index = index.build().expect("sound limits");
    index.insert(1, a, &vectors[0], 1).expect("sound vector");
    let found = index.lookup(1, b, &vectors[1]).expect("sound vector");
    found.expect("it is stored")
}

#[test]
fn what_reading_cannot_tell_is_weighed_by_what_goes_with_the_words() {
    let (a, b) = (
        "How long do tortoises live?",
        "The usual lifespan of a tortoise?",
    );
    let reading = |a, b| compare(&focus(a, b)).expect("left to the embedder").reading;
    // Words of their own that are near need no second look.
    let own = reading(a, b);
    assert!(!matches!(own, Some(Reading::Unlikely(_))), "{own:?}");
    for (rest, veto) in [(0.5, None), (0.45, None), (0.1, Some(()))] {
        let found = weighed(a, b, 0.5, 1.5, rest);
        assert_eq!(found.map(|_| ()), veto, "{rest}: {found:?}");
    }
    // A name that one has: only where the texts are no nearer without their own words.
    let (a, b) = (
        "Why does snow melt in spring?",
        "What reason has snow in Oslo to vanish in spring?",
    );
    assert_eq!(reading(a, b), Some(Reading::Unlikely(Veto::Name)));
    for (rest, veto) in [(0.6, None), (0.45, Some(Veto::Name))] {
        assert_eq!(weighed(a, b, 0.5, 0.1, rest), veto, "{rest}");
    }
    // Farther apart, their own words must hold them together.
    let (a, b) = (
        "How long do tortoises live?",
        "The usual lifespan of a tortoise?",
    );
    for (rest, veto) in [(1.0, Some(None)), (0.85, None)] {
        let whole = 0.7_f32.acos();
        let found = weighed_at(a, b, whole, 0.1, rest);
        assert_eq!(found.is_hit().then_some(found.veto()), veto, "{rest}");
        assert!(found.is_hit() || found.veto().is_none(), "it is far");
    }
    // A name put in is all there is to say.
    let (a, b) = ("Why does snow melt?", "In Oslo, why does snow melt?");
    assert_eq!(veto(a, b), Some(Veto::Name));
}
