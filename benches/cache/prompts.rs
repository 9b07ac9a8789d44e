//! Prompts that begin alike: what encoding them costs, with and without the tokens of their parts
//! remembered.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmserve_benches::{Report, median};
use llmserve_cache::prompt::CachingTokenizer;
use llmserve_core::Tokenizer;
use llmserve_model::HfTokenizer;

/// Bytes of the system prompt.
const SYSTEMS: [usize; 3] = [1 << 10, 4 << 10, 16 << 10];
/// Bytes of a piece that are tried; the default is among them.
const CHUNKS: [usize; 4] = [128, 256, 512, 1024];

/// Turns of the embedded model's own format. Every question is another one.
fn prompt(system: &str, question: usize) -> String {
    format!(
        "<|bos|>{system}<|eot|>\n<|user|>What does number {question} of the players say in scene {} \
         to the one who came {} days ago?<|eot|>\n<|assistant|>",
        question % 7,
        question * 31 % 1_000
    )
}

/// Text of as many bytes in which few sentences come twice.
fn system(bytes: usize) -> String {
    const SPEAKERS: [&str; 7] = [
        "Hamlet", "Ophelia", "Horatio", "Gertrude", "Polonius", "Yorick", "Osric",
    ];
    const DEEDS: [&str; 5] = [
        "speaks of",
        "hides from",
        "is angry with",
        "writes to",
        "mourns",
    ];
    const TIMES: [&str; 3] = [
        "before dawn",
        "in the great hall",
        "when all others have left",
    ];
    let mut text = String::from("You answer questions about the plays of William Shakespeare.");
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        text += &format!(
            " In part {number} {} {} {} {}; do not tell anyone who hasn't asked.",
            SPEAKERS[number % 7],
            DEEDS[number % 5],
            SPEAKERS[(number * 3 + 1) % 7],
            TIMES[number % 3],
        );
    }
    text.truncate(bytes);
    text
}

pub(crate) fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m");
    let inner: Arc<dyn Tokenizer> =
        Arc::new(HfTokenizer::from_dir(&folder)?.ok_or("no tokenizer")?);
    let rounds = if quick { 3 } else { 41 };
    for bytes in SYSTEMS {
        let system = system(bytes);
        for chunk in CHUNKS {
            sized(report, &inner, &system, chunk, rounds)?;
        }
    }
    small(report, &inner, rounds)
}

/// One size of the system prompt. Inner and caching tokenizer take turns, and each has another
/// question every time.
fn sized(
    report: &mut Report,
    inner: &Arc<dyn Tokenizer>,
    system: &str,
    chunk: usize,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let make = || {
        CachingTokenizer::builder(inner.clone())
            .chunk_bytes(chunk)
            .build()
    };
    let again = make()?;
    again.encode(&prompt(system, 0), false)?;
    let before = again.stats();
    let (mut whole_us, mut first_us, mut again_us) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = 0;
    for round in 0..rounds {
        let text = prompt(system, 1 + round);
        let (took, expected) = encode(&**inner, &text)?;
        whole_us.push(took);
        let empty = make()?;
        let (took, ids) = encode(&empty, &text)?;
        first_us.push(took);
        assert_eq!(ids, expected);
        let (took, ids) = encode(&again, &text)?;
        again_us.push(took);
        assert_eq!(ids, expected);
        tokens = ids.len();
    }
    let stats = again.stats();
    let (hits, misses) = (stats.hits - before.hits, stats.misses - before.misses);
    let whole = middle(whole_us);
    let again = middle(again_us);
    report.row(
        &format!("prompt of {} bytes, pieces of {chunk}", system.len()),
        &[
            ("tokens", tokens.into()),
            ("inner_us", whole.into()),
            ("cached_first_us", middle(first_us).into()),
            ("cached_again_us", again.into()),
            ("times_faster", (whole / again).into()),
            (
                "hit_share",
                (hits as f64 / (hits + misses).max(1) as f64).into(),
            ),
            ("bytes_held", stats.bytes.into()),
        ],
    );
    Ok(())
}

/// A text too short to be cut, and one without a seam: what the wrapper itself costs.
fn small(
    report: &mut Report,
    inner: &Arc<dyn Tokenizer>,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let cached = CachingTokenizer::builder(inner.clone()).build()?;
    for (name, text) in [
        ("short text", "What does the first player say?".to_owned()),
        ("text without seams", "1234 5678; ".repeat(400)),
    ] {
        let (mut inner_us, mut cached_us) = (Vec::new(), Vec::new());
        for _ in 0..rounds * 20 {
            inner_us.push(encode(&**inner, &text)?.0);
            cached_us.push(encode(&cached, &text)?.0);
        }
        report.row(
            name,
            &[
                ("bytes", text.len().into()),
                ("inner_us", middle(inner_us).into()),
                ("cached_us", middle(cached_us).into()),
            ],
        );
    }
    assert_eq!(cached.stats().misses, 0, "nothing was cut");
    Ok(())
}

/// How long encoding took, in microseconds, and the tokens.
fn encode(tokenizer: &dyn Tokenizer, text: &str) -> Result<(f64, Vec<u32>), Box<dyn Error>> {
    let began = Instant::now();
    let ids = black_box(tokenizer.encode(black_box(text), false)?);
    let took: Duration = began.elapsed();
    Ok((took.as_nanos() as f64 / 1e3, ids))
}

fn middle(values: Vec<f64>) -> f64 {
    median(values.into_iter())
}
