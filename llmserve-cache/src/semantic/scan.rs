//! Scores of many vectors against one: whole numbers, so the same on every machine.

use std::hint::black_box;

use pulp::{Arch, NullaryFnOnce};

/// Writes the coarse cosine of every row: `scores[r] = scales[r] · (steps · row r)`.
///
/// `coarse` holds `scales.len()` rows of `steps.len()` bytes. The dot product is exact; the query's
/// own scale is left to the caller, as it changes no order.
pub(super) fn scan(arch: Arch, steps: &[i16], coarse: &[i8], scales: &[f32], scores: &mut [f32]) {
    arch.dispatch(Scan {
        steps,
        coarse,
        scales,
        scores,
    });
}

struct Scan<'a> {
    steps: &'a [i16],
    coarse: &'a [i8],
    scales: &'a [f32],
    scores: &'a mut [f32],
}

impl NullaryFnOnce for Scan<'_> {
    type Output = ();

    // Inlined into the dispatch, it is compiled once for each instruction set.
    #[inline(always)]
    fn call(self) {
        let rows = self.coarse.chunks_exact(self.steps.len());
        for ((row, scale), score) in rows.zip(self.scales).zip(self.scores) {
            *score = score_of(self.steps, row, *scale);
        }
    }
}

/// The same of rows that lie apart, each with its scale: calls back with which it is, and its score.
pub(super) fn scan_some<'a>(
    arch: Arch,
    steps: &[i16],
    places: &[u32],
    row: impl Fn(u32) -> (&'a [i8], f32),
    score: impl FnMut(u32, f32),
) {
    arch.dispatch(ScanSome {
        steps,
        places,
        row,
        score,
    });
}

/// Rows that are fetched together: far more than the processor looks ahead by itself.
const TOGETHER: usize = 8;

struct ScanSome<'a, R, S> {
    steps: &'a [i16],
    places: &'a [u32],
    row: R,
    score: S,
}

impl<'a, R: Fn(u32) -> (&'a [i8], f32), S: FnMut(u32, f32)> NullaryFnOnce for ScanSome<'_, R, S> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        for places in self.places.chunks(TOGETHER) {
            // One byte of every cache line, so that memory is waited for once and not for each row.
            let mut touched = 0;
            for place in places {
                touched ^= (self.row)(*place)
                    .0
                    .iter()
                    .step_by(64)
                    .fold(0, |x, y| x ^ y);
            }
            black_box(touched);
            for place in places {
                let (row, scale) = (self.row)(*place);
                (self.score)(*place, score_of(self.steps, row, scale));
            }
        }
    }
}

#[inline(always)]
fn score_of(steps: &[i16], row: &[i8], scale: f32) -> f32 {
    let mut sum = 0i32;
    for (step, byte) in steps.iter().zip(row) {
        sum += i32::from(*step) * i32::from(*byte);
    }
    sum as f32 * scale
}
