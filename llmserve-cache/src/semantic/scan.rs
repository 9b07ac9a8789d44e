//! Scores of many vectors against one: whole numbers, so the same on every machine.

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
            let mut sum = 0i32;
            for (step, byte) in self.steps.iter().zip(row) {
                sum += i32::from(*step) * i32::from(*byte);
            }
            *score = sum as f32 * scale;
        }
    }
}
