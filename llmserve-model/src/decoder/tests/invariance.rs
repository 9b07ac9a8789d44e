//! A row's logits depend on its tokens and positions alone, bit for bit.

use std::path::Path;

use llmserve_core::LogitsWanted;

use super::driver::{Driver, build, golden};
use crate::{CpuOptions, DType, Kernels};

const TOKENS: usize = 70;

fn text(seed: usize) -> Vec<u32> {
    (0..TOKENS)
        .map(|i| ((i * i * 7 + i * 13 + seed * 101) % 320) as u32)
        .collect()
}

fn driver(options: &CpuOptions, block_size: usize, sequences: usize) -> Driver {
    Driver::new(
        build(&golden("llama"), options),
        block_size,
        sequences,
        TOKENS,
    )
}

fn variants() -> Vec<CpuOptions> {
    let mut all = Vec::new();
    for kernels in Kernels::available() {
        for dtype in DType::ALL {
            all.push(CpuOptions {
                dtype,
                kernels: Some(kernels),
                threads: Some(1),
                ..CpuOptions::default()
            });
        }
    }
    all
}

fn same(a: &[Vec<f32>], b: &[Vec<f32>]) {
    assert_eq!(a.len(), b.len());
    for (row, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(
            a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()),
            "row {row} differs"
        );
    }
}

/// More tokens in a step than go through a feed-forward layer at a time.
#[test]
fn a_step_of_many_tokens_is_what_its_chunks_are() {
    let bard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m");
    let tokens: Vec<u32> = (0..1021).map(|i| (i * i * 7 + i * 13) % 2048).collect();
    for dtype in DType::ALL {
        let options = CpuOptions {
            dtype,
            threads: Some(2),
            ..CpuOptions::default()
        };
        let all = |chunk| {
            let model = build(&bard, &options);
            Driver::new(model, 16, 1, tokens.len()).all(0, &tokens, chunk)
        };
        same(&all(tokens.len()), &all(400));
    }
}

#[test]
fn chunks_threads_and_block_sizes_leave_no_trace() {
    let tokens = text(0);
    for options in variants() {
        let whole = driver(&options, 16, 1).all(0, &tokens, TOKENS);
        for (threads, block_size, chunk) in [
            (1, 16, 1),
            (2, 16, 7),
            (3, 3, 32),
            (2, 1, 7),
            (1, 32, 32),
            (2, 4, TOKENS),
        ] {
            let options = CpuOptions {
                threads: Some(threads),
                ..options.clone()
            };
            same(
                &whole,
                &driver(&options, block_size, 1).all(0, &tokens, chunk),
            );
        }
    }
}

#[test]
fn company_leaves_no_trace() {
    let texts: Vec<_> = (0..5).map(text).collect();
    for mut options in variants() {
        let alone: Vec<_> = texts
            .iter()
            .map(|tokens| driver(&options, 16, 1).all(0, tokens, TOKENS))
            .collect();
        options.threads = Some(2);
        let mut driver = driver(&options, 16, 5);
        // Everybody at a pace of their own, from one token a step to all at once.
        let mut at = [0usize; 5];
        let mut got = vec![Vec::new(); 5];
        for step in 0.. {
            let mut parts = Vec::new();
            for sequence in [3, 0, 4, 1, 2] {
                let pace = [1, 3, 11, 26, TOKENS][sequence];
                let end = (at[sequence] + pace).min(TOKENS);
                if at[sequence] < end && step % (sequence + 1) == 0 {
                    let tokens = &texts[sequence][at[sequence]..end];
                    parts.push((sequence, at[sequence], tokens, LogitsWanted::All));
                    at[sequence] = end;
                }
            }
            if at == [TOKENS; 5] && parts.is_empty() {
                break;
            }
            let mut rows = driver.step(&parts).unwrap().into_iter();
            for (sequence, _, tokens, _) in parts {
                got[sequence].extend(rows.by_ref().take(tokens.len()));
            }
        }
        for (alone, got) in alone.iter().zip(&got) {
            same(alone, got);
        }
    }
}

#[test]
fn only_the_rows_that_want_logits_have_them_and_they_are_the_same() {
    let tokens = text(1);
    for mut options in variants() {
        options.threads = Some(2);
        let all = driver(&options, 16, 1).all(0, &tokens, TOKENS);
        let mut driver = driver(&options, 16, 3);
        assert!(
            driver
                .step(&[(0, 0, &tokens[..30], LogitsWanted::None)])
                .unwrap()
                .is_empty()
        );
        let rows = driver
            .step(&[
                (1, 0, &tokens[..20], LogitsWanted::None),
                (0, 30, &tokens[30..40], LogitsWanted::Last),
                (2, 0, &tokens[..2], LogitsWanted::All),
            ])
            .unwrap();
        same(&rows, &[all[39].clone(), all[0].clone(), all[1].clone()]);
        let rows = driver
            .step(&[(1, 20, &tokens[20..21], LogitsWanted::Last)])
            .unwrap();
        same(&rows, &all[20..21]);
        assert!(driver.step(&[]).unwrap().is_empty());
    }
}

#[test]
fn a_row_may_read_blocks_that_another_writes_in_the_same_step() {
    let tokens = text(2);
    for mut options in variants() {
        options.threads = Some(2);
        let all = driver(&options, 8, 1).all(0, &tokens, TOKENS);
        let mut driver = driver(&options, 8, 2);
        // Sequence 1 begins with the first four blocks of sequence 0, which this step fills.
        let shared = driver.tables.0[0][..4].to_vec();
        driver.tables.0[1][..4].copy_from_slice(&shared);
        let rows = driver
            .step(&[
                (1, 32, &tokens[32..50], LogitsWanted::Last),
                (0, 0, &tokens[..40], LogitsWanted::Last),
            ])
            .unwrap();
        same(&rows, &[all[49].clone(), all[39].clone()]);
    }
}
