//! From tensors of a checkpoint to panels.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::panel::{CHUNK, Finite, Panel, Peaks, Rounding};
use super::{Arrangement, Linear, MatrixShape, PANEL, panel_len};
use crate::error::LoadError;
use crate::kernels::Level;
use crate::kernels::buffer::floats_mut;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};
use crate::weights::TensorView;

/// Packs `layers`, each `[outputs, depth]`, in the order given, into `slab`, zeros as long as the
/// sections of `shape`, which is theirs. `norm` is the weight of the normalisation in front of
/// them, if there is one. What is written is the same at every level.
pub(crate) fn pack(
    team: &mut ThreadTeam,
    level: Level,
    shape: &MatrixShape,
    layers: &[Linear<'_>],
    arrangement: Arrangement,
    norm: Option<&[f32]>,
    slab: &mut [u32],
) -> Result<(), LoadError> {
    let sections = shape
        .sections()
        .filter(|sections| sections.total == slab.len())
        .ok_or_else(|| LoadError::InvalidOption {
            option: "dtype",
            reason: format!("{shape:?} does not fit {} words", slab.len()),
        })?;
    let (words, mut rest) = slab.split_at_mut(sections.words.padded);
    let mut next = |section: Option<super::Section>| {
        let section = section?;
        let (part, others) = std::mem::take(&mut rest).split_at_mut(section.padded);
        rest = others;
        Some(floats_mut(&mut part[..section.len]))
    };
    let (scales, bias, factors) = (
        next(sections.scales),
        next(sections.bias),
        next(sections.factors),
    );

    let plan = Plan {
        shape: *shape,
        level,
        layers,
        paired: arrangement == Arrangement::Paired,
    };
    let mut stretch = Vec::new();
    if shape.format.group() > 0 {
        stretch = plan.stretch(team)?;
    }
    if let Some(factors) = factors {
        match norm {
            Some(norm) => factors.copy_from_slice(norm),
            None => factors.fill(1.0),
        }
        for (factor, stretch) in factors.iter_mut().zip(&stretch) {
            // Powers of two: exact.
            *factor /= stretch;
        }
    }
    plan.fill(team, &stretch, &mut words[..sections.words.len], scales)?;
    match bias {
        Some(bias) => plan.bias(bias),
        None => Ok(()),
    }
}

/// Which row of which layer becomes which column.
struct Plan<'a> {
    shape: MatrixShape,
    level: Level,
    layers: &'a [Linear<'a>],
    paired: bool,
}

impl Plan<'_> {
    /// Where column `lane` of a panel comes from: a layer and its row.
    fn source(&self, panel: usize, lane: usize) -> Option<(usize, usize)> {
        if self.paired {
            let row = panel / 2 * PANEL + lane;
            return (row < self.shape.columns).then_some((panel % 2, row));
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

    fn bias(&self, bias: &mut [f32]) -> Result<(), LoadError> {
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
        Ok(())
    }

    /// For each channel the power of two that brings its largest weight near 1, and never above:
    /// nothing overflows. Each output counts alike, however large its own weights are: they have
    /// scales of their own.
    fn stretch(&self, team: &mut ThreadTeam) -> Result<Vec<f32>, LoadError> {
        /// Rows of a task.
        const ROWS: usize = 64;
        let depth = self.shape.depth;
        // Of numbers without their signs: as integers they compare as they do as numbers.
        let peaks = Mutex::new(vec![0u32; depth]);
        for layer in self.layers {
            let outputs = layer.outputs();
            let run = team.run(outputs.div_ceil(ROWS), |task, _| {
                let mut mine = vec![0u32; depth];
                self.level.run(Peaks {
                    weight: &layer.weight,
                    depth,
                    rows: task * ROWS..((task + 1) * ROWS).min(outputs),
                    peaks: &mut mine,
                });
                for (peak, mine) in peaks.lock().iter_mut().zip(mine) {
                    *peak = mine.max(*peak);
                }
            });
            run.map_err(threads)?;
        }
        let peaks = peaks.into_inner().into_iter();
        Ok(peaks.map(|peak| power(f32::from_bits(peak))).collect())
    }

    fn fill(
        &self,
        team: &mut ThreadTeam,
        stretch: &[f32],
        words: &mut [u32],
        scales: Option<&mut [f32]>,
    ) -> Result<(), LoadError> {
        let MatrixShape { format, depth, .. } = self.shape;
        let size = panel_len(format, depth);
        let words = Disjoint::new(words);
        let scales = scales.map(Disjoint::new);
        let rounding = Rounding::of(format);
        // The lowest layer with a number that is not finite.
        let broken = AtomicUsize::new(usize::MAX);
        team.run(self.shape.panels, |panel, _| {
            let mut columns = [None; PANEL];
            for (lane, column) in columns.iter_mut().enumerate() {
                let source = self.source(panel, lane);
                *column = source.map(|(layer, row)| (&self.layers[layer].weight, row));
            }
            let mut sound = true;
            self.level.run(Panel {
                format,
                depth,
                columns: &columns,
                stretch,
                rounding,
                // SAFETY: each task has its own panel.
                words: unsafe { words.part(panel * size..(panel + 1) * size) },
                // SAFETY: each task has its own panel.
                scales: scales.map(|all| unsafe { all.part(panel * PANEL..(panel + 1) * PANEL) }),
                sound: &mut sound,
            });
            if !sound {
                let layers = (0..PANEL).filter_map(|lane| self.source(panel, lane));
                for (layer, _) in layers {
                    // A panel may have rows of several layers: the culprit is looked for.
                    if layer < broken.load(Ordering::Relaxed)
                        && first_non_finite(&self.layers[layer].weight, rounding).is_some()
                    {
                        broken.fetch_min(layer, Ordering::Relaxed);
                    }
                }
            }
        })
        .map_err(threads)?;
        match self.layers.get(broken.into_inner()) {
            Some(layer) => Err(non_finite(&layer.weight, rounding)),
            None => Ok(()),
        }
    }
}

/// The greatest power of two that does not bring `peak` above 1.
fn power(peak: f32) -> f32 {
    // Rounded up, but for powers of two.
    let exponent = ((peak.to_bits() + 0x007f_ffff) >> 23) as i32 - 127;
    // All zeros, or so near that nothing is to be gained; what is not finite is refused later.
    if !(-100..=100).contains(&exponent) {
        return 1.0;
    }
    f32::from_bits(((127 - exponent) as u32) << 23)
}

fn threads(panic: TaskPanicked) -> LoadError {
    LoadError::Threads {
        reason: panic.to_string(),
    }
}

/// Index and value of a tensor's first number that storing makes infinite, or that is not finite.
fn first_non_finite(view: &TensorView<'_>, rounding: Rounding) -> Option<(usize, f32)> {
    let mut chunk = [0.0; CHUNK];
    let elements = view.elements();
    for begin in (0..elements).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(elements - begin)];
        view.read(begin, chunk);
        if let Some(at) = chunk.iter().position(|&x| !rounding.apply(x).is_finite()) {
            return Some((begin + at, rounding.apply(chunk[at])));
        }
    }
    None
}

/// The error of a tensor with such a number.
fn non_finite(view: &TensorView<'_>, rounding: Rounding) -> LoadError {
    // The caller has seen one.
    let (index, value) = first_non_finite(view, rounding).unwrap_or((0, f32::NAN));
    LoadError::NonFinite {
        tensor: view.name.clone(),
        index,
        value,
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
pub(crate) fn check_finite(
    team: &mut ThreadTeam,
    level: Level,
    view: &TensorView<'_>,
) -> Result<(), LoadError> {
    const PART: usize = 1 << 16;
    let elements = view.elements();
    let finite = AtomicBool::new(true);
    team.run(elements.div_ceil(PART), |part, _| {
        let mut sound = true;
        level.run(Finite {
            view,
            range: part * PART..elements.min((part + 1) * PART),
            sound: &mut sound,
        });
        if !sound {
            finite.store(false, Ordering::Relaxed);
        }
    })
    .map_err(threads)?;
    match finite.into_inner() {
        true => Ok(()),
        false => Err(non_finite(view, Rounding::None)),
    }
}
