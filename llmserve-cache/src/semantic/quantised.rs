//! A vector as two planes of bytes.
//!
//! ```text
//!  v[i] ≈ scale · (coarse[i] + fine[i] / 254)
//!          │       │            └ what the first byte left over, within ±½: read for the best only
//!          │       └ within ±127: what a scan reads
//!          └ largest |v[i]| / 127
//! ```
//!
//! One byte a dimension orders neighbours well but not always rightly, so a scan takes more than it
//! was asked for and the second byte decides. Both together are half of what `f32` takes.

/// Steps of the fine plane in one of the coarse: ±½ becomes ±127.
const FINE: f32 = 254.0;
const LARGEST: f32 = 127.0;

/// A vector of length 1, as it is kept.
pub(super) struct Quantised {
    pub(super) scale: f32,
    pub(super) coarse: Vec<i8>,
    pub(super) fine: Vec<i8>,
}

impl Quantised {
    /// Of a vector that [`unit`] made.
    pub(super) fn new(unit: &[f32]) -> Self {
        let largest = unit.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = largest / LARGEST;
        let mut coarse = Vec::with_capacity(unit.len());
        let mut fine = Vec::with_capacity(unit.len());
        for x in unit {
            let steps = x / scale;
            let near = steps.round().clamp(-LARGEST, LARGEST);
            let rest = ((steps - near) * FINE).round().clamp(-LARGEST, LARGEST);
            coarse.push(near as i8);
            fine.push(rest as i8);
        }
        Self {
            scale,
            coarse,
            fine,
        }
    }
}

/// A vector as it was, from both of its planes.
pub(super) fn restored(scale: f32, coarse: &[i8], fine: &[i8]) -> Vec<f32> {
    let planes = coarse.iter().zip(fine);
    planes
        .map(|(c, f)| scale * (f32::from(*c) + f32::from(*f) / FINE))
        .collect()
}

/// A vector that neighbours are looked for.
pub(super) struct Query {
    /// For the scan: whole numbers so large that their dot product with any coarse plane still
    /// fits 32 bits.
    pub(super) steps: Vec<i16>,
    /// Cosine of a score of 1 in the scan.
    pub(super) step: f32,
    /// For the decision.
    pub(super) unit: Vec<f32>,
    /// Which of several equals comes first differs by query: see [`Shelf`](super::shelf::Shelf).
    pub(super) salt: u64,
}

impl Query {
    /// Of a vector that [`unit`] made.
    pub(super) fn new(unit: Vec<f32>) -> Self {
        let room = (i32::MAX as usize / (LARGEST as usize * unit.len().max(1))).min(32_767);
        let largest = unit.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = largest / room.max(1) as f32;
        let steps: Vec<i16> = unit.iter().map(|x| (x / scale).round() as i16).collect();
        let bytes: Vec<u8> = steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        let salt = xxhash_rust::xxh3::xxh3_64(&bytes);
        Self {
            steps,
            step: scale,
            unit,
            salt,
        }
    }

    /// Cosine with a kept vector, by both of its planes. Sums in eight lanes of a fixed order, so
    /// that it is the same on every machine.
    pub(super) fn cosine(&self, scale: f32, coarse: &[i8], fine: &[i8]) -> f32 {
        let mut lanes = [0.0f32; 8];
        for (i, ((q, c), f)) in self.unit.iter().zip(coarse).zip(fine).enumerate() {
            lanes[i % 8] += q * (f32::from(*c) + f32::from(*f) / FINE);
        }
        (lanes.iter().sum::<f32>() * scale).clamp(-1.0, 1.0)
    }
}

/// The vector with length 1; `None` where it has no direction: all zero, or not finite.
pub(super) fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = square.sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    let unit: Vec<f32> = vector
        .iter()
        .map(|x| (f64::from(*x) / length) as f32)
        .collect();
    unit.iter().any(|x| *x != 0.0).then_some(unit)
}
