use std::num::NonZeroU16;

use llmserve_core::Embedder;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::HashedNgrams;

fn vector(text: &str) -> Vec<f32> {
    HashedNgrams::default().embed(&[text]).unwrap().remove(0)
}

fn cosine(a: &str, b: &str) -> f32 {
    vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum()
}

fn sized(dimensions: u16) -> HashedNgrams {
    HashedNgrams::with_dimensions(NonZeroU16::new(dimensions).unwrap())
}

/// Whoever stores vectors finds them again: another hash here is another version in the identity.
#[test]
fn vectors_are_those_of_version_1() {
    let texts = [
        "",
        "a",
        "How do I reset my password?",
        "ΟΔΟΣ Straße İstanbul",
        "今日は 天気 です。",
        "fn main() { println!(\"{}\", 3.5 - 2); }",
        &"the same word over and over ".repeat(50),
    ];
    let mut bytes = Vec::new();
    for embedder in [HashedNgrams::default(), sized(7)] {
        for vector in embedder.embed(&texts).unwrap() {
            bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
    assert_eq!(HashedNgrams::default().identity(), "hashed-ngram-v1-384");
    assert_eq!(
        xxh3_128(&bytes),
        272_734_227_126_159_675_451_064_639_811_765_200_148
    );
}

#[test]
fn likeness_follows_words_and_spelling() {
    let asked = "How do I reset my password?";
    let order = [
        "how do i  reset my PASSWORD ?",
        "How do I reset my pasword?",
        "How do I reset my router?",
        "What are the steps to change a forgotten password?",
        "The cat sat on the mat.",
    ];
    let cosines: Vec<f32> = order.iter().map(|text| cosine(asked, text)).collect();
    assert!(cosines[0] > 0.9999, "{cosines:?}");
    assert!(cosines.is_sorted_by(|a, b| a > b), "{cosines:?}");
    assert!(cosines[4] < 0.2, "{cosines:?}");
}

#[test]
fn what_distinguishes_two_texts_is_seen() {
    for (a, b) in [
        ("dog bites man", "man bites dog"),
        ("3 + 4", "3 - 4"),
        ("?", "!"),
        ("", "."),
        ("a", "a a"),
        ("日本語", "語本日"),
        ("résumé", "resume"),
        ("a\u{301}b", "ab"),
    ] {
        let cosine = cosine(a, b);
        assert!(cosine < 0.99, "{a:?} and {b:?}: {cosine}");
    }
}

#[test]
fn case_and_white_space_are_not() {
    for (a, b) in [
        ("Straße IN Köln", "straße in köln"),
        ("ΟΔΟΣ", "οδος"),
        (" a\tb\n", "a b"),
        ("東京 都", "東京都"),
        ("", " \n\u{3000}"),
    ] {
        assert_eq!(vector(a), vector(b), "{a:?} and {b:?}");
    }
}

#[test]
fn features_that_cancel_out_leave_a_vector_all_the_same() {
    let embedder = sized(1);
    for i in 0..2000 {
        let vector = &embedder.embed(&[&format!("{i} {}", i * 7)]).unwrap()[0];
        assert!(vector == &[1.0] || vector == &[-1.0], "{vector:?}");
    }
}

#[test]
fn no_two_sizes_are_taken_for_one_another() {
    assert_eq!(sized(u16::MAX).dimensions(), 65535);
    assert_eq!(sized(128).identity(), "hashed-ngram-v1-128");
    assert_ne!(sized(128).identity(), HashedNgrams::default().identity());
}

proptest! {
    #[test]
    fn every_text_has_a_vector_of_length_1(text in ".{0,200}", dimensions in 1u16..600) {
        let vector = sized(dimensions).embed(&[&text]).unwrap().remove(0);
        prop_assert_eq!(vector.len(), usize::from(dimensions));
        let squares: f64 = vector.iter().map(|&x| f64::from(x).powi(2)).sum();
        prop_assert!((squares - 1.0).abs() < 1e-5, "{}", squares);
    }

    #[test]
    fn company_leaves_no_trace(texts in prop::collection::vec(".{0,40}", 0..6)) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let together = HashedNgrams::default().embed(&texts).unwrap();
        prop_assert_eq!(together.len(), texts.len());
        for (text, with) in texts.iter().zip(together) {
            prop_assert_eq!(vector(text), with);
        }
    }

    #[test]
    fn ascii_case_makes_no_difference(text in "[ -~]{0,60}") {
        prop_assert_eq!(vector(&text), vector(&text.to_uppercase()));
    }

    #[test]
    fn words_more_in_common_are_more_alike(
        words in prop::collection::hash_set("[a-z]{5,9}", 8..12),
        other in prop::collection::hash_set("[0-9]{5,9}", 12..13),
    ) {
        let words: Vec<String> = words.into_iter().collect();
        let mut changed = words.clone();
        changed[0] = other.iter().next().unwrap().clone();
        let strange: Vec<String> = other.into_iter().collect();
        let (text, near, far) = (words.join(" "), changed.join(" "), strange.join(" "));
        prop_assert!(cosine(&text, &near) > cosine(&text, &far) + 0.3);
    }
}
