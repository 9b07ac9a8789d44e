//! Answers of a given form, as far as the engine is concerned: a grammar of letters over a model
//! whose output depends on every slot of its pages.

mod answers;
mod faults;
mod forced;
mod noting;
#[path = "../support/mod.rs"]
mod support;
mod texts;
mod threads;

use std::sync::Arc;

use llmserve::prelude::*;
use support::{PageModel, Sizes, builder};
use texts::Texts;

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
