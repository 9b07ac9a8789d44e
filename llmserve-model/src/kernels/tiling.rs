//! How a step's rows are cut into register tiles.

use std::ops::Range;

/// `rows` rows in tiles of nearly equal height, none above a level's most.
///
/// How rows are cut changes speed, never a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    rows: usize,
    tiles: usize,
}

impl Tiling {
    pub(crate) fn new(rows: usize, most: usize) -> Self {
        Self {
            rows,
            tiles: rows.div_ceil(most.max(1)),
        }
    }

    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    pub(crate) fn tiles(self) -> usize {
        self.tiles
    }

    /// The rows of tile `tile`.
    #[inline]
    pub(crate) fn tile(self, tile: usize) -> Range<usize> {
        // The first `extra` tiles have one row more.
        let (each, extra) = (self.rows / self.tiles, self.rows % self.tiles);
        let start = tile * each + tile.min(extra);
        start..start + each + usize::from(tile < extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for rows in 1..80 {
            for most in [1, 2, 6, 12] {
                let tiling = Tiling::new(rows, most);
                let mut next = 0;
                for tile in 0..tiling.tiles() {
                    let range = tiling.tile(tile);
                    assert_eq!(range.start, next);
                    assert!((1..=most).contains(&range.len()));
                    next = range.end;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
