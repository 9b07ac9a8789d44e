//! Rows of the embedding, read where they lie.

use super::tiling::Tiling;
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};
use crate::weights::FileDType;

/// Copies row `ids[i]` of a matrix of `width` columns, stored as `dtype`, into row `i` of `out`.
pub(crate) fn embed(
    team: &mut ThreadTeam,
    embedding: &[u8],
    dtype: FileDType,
    ids: &[u32],
    width: usize,
    out: &mut [f32],
) -> Result<(), TaskPanicked> {
    /// Rows of a task: fewer are not worth waking anybody.
    const ROWS: usize = 16;
    let tiling = Tiling::new(ids.len(), ROWS);
    let out = Disjoint::new(out);
    team.run(tiling.tiles(), |tile, _| {
        for row in tiling.tile(tile) {
            // SAFETY: each row is in one tile.
            let to = unsafe { out.part(row * width..(row + 1) * width) };
            dtype.read(embedding, ids[row] as usize * width, to);
        }
    })
}
