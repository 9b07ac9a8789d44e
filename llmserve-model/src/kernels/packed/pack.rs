//! From tensors of a checkpoint to panels.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use half::bf16;
use parking_lot::Mutex;

use super::{Arrangement, INT4_BLOCK, INT4_SCALES, Linear, PANEL, Packed, panel_len};
use crate::error::LoadError;
use crate::kernels::buffer::{Buffer, Number};
use crate::kernels::format::Format;
use crate::kernels::simd::{MAGIC, pair, rounded_bits};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};
use crate::weights::TensorView;

/// Numbers converted at a time: a multiple of every format's words and of an int4 group.
const CHUNK: usize = 128;

/// 128 numbers of each of a panel's columns.
type Piece = [[f32; CHUNK]; PANEL];

pub(super) fn pack(
    team: &mut ThreadTeam,
    format: Format,
    depth: usize,
    layers: &[Linear<'_>],
    arrangement: Arrangement,
    norm: Option<Vec<f32>>,
) -> Result<Packed, LoadError> {
    let plan = Plan::new(format, depth, layers, arrangement);
    let panels = plan.panels;
    let mut factors = norm;
    let mut stretch = Vec::new();
    if format.group() > 0 {
        stretch = plan.stretch(team)?;
        let factors = factors.get_or_insert_with(|| vec![1.0; depth]);
        for (factor, stretch) in factors.iter_mut().zip(&stretch) {
            // Powers of two: exact.
            *factor /= stretch;
        }
    }
    let mut words = allocate::<u32>(panels.saturating_mul(panel_len(format, depth)))?;
    let mut scales = match format {
        Format::Int8 => Some(allocate::<f32>(panels * PANEL)?),
        _ => None,
    };
    plan.fill(team, &stretch, &mut words, scales.as_deref_mut())?;
    Ok(Packed {
        format,
        depth,
        columns: plan.columns,
        panels,
        words,
        scales,
        bias: plan.bias()?,
        factors,
    })
}

/// Which row of which layer becomes which column.
struct Plan<'a> {
    format: Format,
    depth: usize,
    layers: &'a [Linear<'a>],
    paired: bool,
    columns: usize,
    panels: usize,
}

impl<'a> Plan<'a> {
    fn new(
        format: Format,
        depth: usize,
        layers: &'a [Linear<'a>],
        arrangement: Arrangement,
    ) -> Self {
        let paired = arrangement == Arrangement::Paired;
        let columns = if paired {
            layers.first().map_or(0, Linear::outputs)
        } else {
            layers.iter().map(Linear::outputs).sum()
        };
        let each = columns.div_ceil(PANEL);
        Self {
            format,
            depth,
            layers,
            paired,
            columns,
            panels: if paired { 2 * each } else { each },
        }
    }

    /// Where column `lane` of a panel comes from: a layer and its row.
    fn source(&self, panel: usize, lane: usize) -> Option<(usize, usize)> {
        if self.paired {
            let row = panel / 2 * PANEL + lane;
            return (row < self.columns).then_some((panel % 2, row));
        }
        let mut row = panel * PANEL + lane;
        for (index, layer) in self.layers.iter().enumerate() {
            if row < layer.outputs() {
                return Some((index, row));
            }
            row -= layer.outputs();
        }
        None
    }

    fn bias(&self) -> Result<Option<Buffer<f32>>, LoadError> {
        if self.layers.iter().all(|layer| layer.bias.is_none()) {
            return Ok(None);
        }
        let mut bias = allocate::<f32>(self.panels * PANEL)?;
        let values: Vec<_> = self
            .layers
            .iter()
            .map(|layer| layer.bias.as_ref().map(finite_vector).transpose())
            .collect::<Result<_, _>>()?;
        for (at, slot) in bias.iter_mut().enumerate() {
            if let Some((layer, row)) = self.source(at / PANEL, at % PANEL)
                && let Some(values) = &values[layer]
            {
                *slot = values[row];
            }
        }
        Ok(Some(bias))
    }

    /// For each channel the power of two that brings its largest weight near 1. Each output counts
    /// alike, however large its own weights are: they have scales of their own.
    fn stretch(&self, team: &mut ThreadTeam) -> Result<Vec<f32>, LoadError> {
        /// Rows of a task.
        const ROWS: usize = 64;
        let peaks = Mutex::new(vec![0f32; self.depth]);
        for layer in self.layers {
            let outputs = layer.outputs();
            let run = team.run(outputs.div_ceil(ROWS), |task, _| {
                let (mut mine, mut row) = (vec![0f32; self.depth], vec![0f32; self.depth]);
                for index in task * ROWS..((task + 1) * ROWS).min(outputs) {
                    // What is not finite is found, and named, when it is packed.
                    layer.weight.read(index * self.depth, &mut row);
                    let peak = row.iter().fold(0f32, |peak, x| peak.max(x.abs()));
                    let inverse = if peak > 0.0 { 1.0 / peak } else { 0.0 };
                    for (mine, x) in mine.iter_mut().zip(&row) {
                        *mine = mine.max(x.abs() * inverse);
                    }
                }
                for (peak, mine) in peaks.lock().iter_mut().zip(mine) {
                    *peak = peak.max(mine);
                }
            });
            run.map_err(threads)?;
        }
        Ok(peaks.into_inner().into_iter().map(power).collect())
    }

    fn fill(
        &self,
        team: &mut ThreadTeam,
        stretch: &[f32],
        words: &mut [u32],
        scales: Option<&mut [f32]>,
    ) -> Result<(), LoadError> {
        let size = panel_len(self.format, self.depth);
        let words = Disjoint::new(words);
        let scales = scales.map(Disjoint::new);
        // The lowest layer with a number that is not finite.
        let broken = AtomicUsize::new(usize::MAX);
        team.run(self.panels, |panel, _| {
            // SAFETY: each task has its own panel.
            let words = unsafe { words.part(panel * size..(panel + 1) * size) };
            let mut piece: Piece = [[0.0; CHUNK]; PANEL];
            let mut inverse = [0.0; PANEL];
            if let Some(scales) = scales {
                // SAFETY: each task has its own panel.
                let scales = unsafe { scales.part(panel * PANEL..(panel + 1) * PANEL) };
                for begin in (0..self.depth).step_by(CHUNK) {
                    self.read(panel, begin, stretch, &broken, &mut piece);
                    for (peak, numbers) in scales.iter_mut().zip(&piece) {
                        *peak = numbers.iter().fold(*peak, |peak, x| peak.max(x.abs()));
                    }
                }
                for (inverse, scale) in inverse.iter_mut().zip(scales) {
                    *inverse = if *scale > 0.0 { 127.0 / *scale } else { 0.0 };
                    *scale /= 127.0;
                }
            }
            for begin in (0..self.depth).step_by(CHUNK) {
                self.read(panel, begin, stretch, &broken, &mut piece);
                let len = CHUNK.min(self.depth - begin);
                self.write(&piece, begin, len, &inverse, words);
            }
        })
        .map_err(threads)?;
        match self.layers.get(broken.into_inner()) {
            Some(layer) => Err(non_finite(&layer.weight, self.rounding())),
            None => Ok(()),
        }
    }

    /// Numbers from `begin` on of a panel's columns, zeros where there are none.
    fn read(
        &self,
        panel: usize,
        begin: usize,
        stretch: &[f32],
        broken: &AtomicUsize,
        piece: &mut Piece,
    ) {
        let len = CHUNK.min(self.depth - begin);
        let rounding = self.rounding();
        for (lane, numbers) in piece.iter_mut().enumerate() {
            let Some((layer, row)) = self.source(panel, lane) else {
                numbers.fill(0.0);
                continue;
            };
            let weight = &self.layers[layer].weight;
            weight.read(row * self.depth + begin, &mut numbers[..len]);
            numbers[len..].fill(0.0);
            let finite = |all: bool, &x: &f32| all & rounding.apply(x).is_finite();
            if !numbers.iter().fold(true, finite) {
                broken.fetch_min(layer, Ordering::Relaxed);
            }
            for (x, stretch) in numbers.iter_mut().zip(stretch.get(begin..).unwrap_or(&[])) {
                *x *= stretch;
            }
        }
    }

    /// Writes `len` numbers from `begin` on of each column.
    fn write(
        &self,
        piece: &Piece,
        begin: usize,
        len: usize,
        inverse: &[f32; PANEL],
        words: &mut [u32],
    ) {
        let per_word = match self.format {
            Format::Int4 => return write_int4(piece, begin, len, words),
            Format::F32 => 1,
            Format::Bf16 => 2,
            Format::Int8 => 4,
        };
        let first = begin / per_word * PANEL;
        let words = &mut words[first..first + len.div_ceil(per_word) * PANEL];
        for (word, words) in words.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
            let k = word * per_word;
            for ((word, piece), inverse) in words.iter_mut().zip(piece).zip(inverse) {
                *word = match self.format {
                    Format::F32 => piece[k].to_bits(),
                    Format::Bf16 => pair(piece[k], piece[k + 1]),
                    _ => {
                        // The lowest byte of the rounded number, its sign turned: 128 more.
                        let byte = |k: usize| (piece[k] * inverse + MAGIC).to_bits() as u8 ^ 0x80;
                        u32::from_le_bytes([byte(k), byte(k + 1), byte(k + 2), byte(k + 3)])
                    }
                };
            }
        }
    }

    fn rounding(&self) -> Rounding {
        match self.format {
            Format::Bf16 => Rounding::Bf16,
            _ => Rounding::None,
        }
    }
}

/// The power of two that brings `peak` near 1.
fn power(peak: f32) -> f32 {
    let exponent = ((peak * std::f32::consts::SQRT_2).to_bits() >> 23) as i32 - 127;
    // All zeros, or so near that nothing is to be gained; what is not finite is refused later.
    if !(-100..=100).contains(&exponent) {
        return 1.0;
    }
    f32::from_bits(((127 - exponent) as u32) << 23)
}

fn write_int4(piece: &Piece, begin: usize, len: usize, words: &mut [u32]) {
    const GROUP: usize = Format::Int4.group();
    let first = begin / GROUP * INT4_BLOCK;
    let blocks = &mut words[first..first + len.div_ceil(GROUP) * INT4_BLOCK];
    for (group, block) in blocks
        .as_chunks_mut::<INT4_BLOCK>()
        .0
        .iter_mut()
        .enumerate()
    {
        let (scales, words) = block.split_at_mut(INT4_SCALES);
        for (column, numbers) in piece.iter().enumerate() {
            let (groups, _) = numbers.as_chunks::<GROUP>();
            let (scale, nibbles) = quantise_int4(&groups[group]);
            scales[column % 16] |= u32::from(scale.to_bits()) << (16 * (column / 16));
            for (word, nibbles) in nibbles.as_chunks::<8>().0.iter().enumerate() {
                // Byte `i` holds number `i` in its lower and number `i + 4` in its upper half.
                let word = &mut words[word * PANEL + column];
                *word =
                    u32::from_le_bytes(std::array::from_fn(|i| nibbles[i] | nibbles[i + 4] << 4));
            }
        }
    }
}

/// The scale, of those near the one that the largest number asks for, with the least square error,
/// and the numbers by it, as stored: 0 to 15 around 8.
fn quantise_int4(numbers: &[f32; 32]) -> (bf16, [u8; 32]) {
    let peak = numbers
        .iter()
        .fold(0f32, |peak, x| if x.abs() > peak.abs() { *x } else { peak });
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in 0..CANDIDATES {
        // The largest number becomes -8 there and thereabouts, whichever its sign.
        let divisor = -(7.0 + 1.6 * step as f32 / (CANDIDATES - 1) as f32);
        let scale = bf16::from_f32(peak / divisor).to_f32();
        if scale == 0.0 || !scale.is_finite() {
            continue;
        }
        let inverse = 1.0 / scale;
        let mut errors = [0f32; 16];
        for half in numbers.as_chunks::<16>().0 {
            for (error, x) in errors.iter_mut().zip(half) {
                let q = rounded(x * inverse) - MAGIC;
                let off = q * scale - x;
                *error += off * off;
            }
        }
        let error = errors.iter().sum();
        if error < best.0 {
            best = (error, scale, inverse);
        }
    }
    let (_, scale, inverse) = best;
    let nibble = |x: f32| (rounded(x * inverse).to_bits() as u8).wrapping_add(8) & 15;
    (bf16::from_f32(scale), numbers.map(nibble))
}

/// Scales that are tried for each group.
const CANDIDATES: usize = 17;

/// The nearest whole number from -8 to 7, plus [`MAGIC`].
#[inline(always)]
fn rounded(x: f32) -> f32 {
    x.clamp(-8.0, 7.0) + MAGIC
}

fn allocate<T: Number>(len: usize) -> Result<Buffer<T>, LoadError> {
    Buffer::try_zeroed(len).ok_or_else(|| LoadError::InvalidOption {
        option: "dtype",
        reason: format!(
            "no memory for {len} words of {} bytes: a smaller type needs less",
            size_of::<T>()
        ),
    })
}

fn threads(panic: TaskPanicked) -> LoadError {
    LoadError::Threads {
        reason: panic.to_string(),
    }
}

/// What storing does to a number before it can overflow.
#[derive(Clone, Copy)]
enum Rounding {
    None,
    Bf16,
}

impl Rounding {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        match self {
            Rounding::None => x,
            Rounding::Bf16 => f32::from_bits(rounded_bits(x) & 0xffff_0000),
        }
    }
}

/// Where a tensor holds its first number that is not finite.
fn non_finite(view: &TensorView<'_>, rounding: Rounding) -> LoadError {
    let mut chunk = [0.0; CHUNK];
    let elements = view.elements();
    for begin in (0..elements).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(elements - begin)];
        view.read(begin, chunk);
        if let Some(at) = chunk.iter().position(|&x| !rounding.apply(x).is_finite()) {
            return LoadError::NonFinite {
                tensor: view.name.clone(),
                index: begin + at,
                value: rounding.apply(chunk[at]),
            };
        }
    }
    // Not reached: the caller has seen one.
    LoadError::NonFinite {
        tensor: view.name.clone(),
        index: 0,
        value: f32::NAN,
    }
}

/// A tensor's numbers, widened and checked.
pub(crate) fn finite_vector(view: &TensorView<'_>) -> Result<Vec<f32>, LoadError> {
    let values = view.to_f32();
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(values),
        false => Err(non_finite(view, Rounding::None)),
    }
}

/// Checks a tensor that stays in its file.
pub(crate) fn check_finite(team: &mut ThreadTeam, view: &TensorView<'_>) -> Result<(), LoadError> {
    const PART: usize = 1 << 16;
    let elements = view.elements();
    let finite = AtomicBool::new(true);
    team.run(elements.div_ceil(PART), |part, _| {
        let mut chunk = [0.0; CHUNK];
        let end = elements.min((part + 1) * PART);
        for begin in (part * PART..end).step_by(CHUNK) {
            let chunk = &mut chunk[..CHUNK.min(end - begin)];
            view.read(begin, chunk);
            if !chunk.iter().fold(true, |all, x| all & x.is_finite()) {
                finite.store(false, Ordering::Relaxed);
            }
        }
    })
    .map_err(threads)?;
    match finite.into_inner() {
        true => Ok(()),
        false => Err(non_finite(view, Rounding::None)),
    }
}
