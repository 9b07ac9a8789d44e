//! How a step's rows are cut into register tiles.

use std::ops::Range;

/// `rows` rows in tiles of nearly equal height, none above a level's most.
///
/// The rows of a tile are stored interleaved, `[k][row in tile]`, so that a matrix product reads
/// them from front to back. How rows are cut changes speed, never a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    rows: usize,
    tiles: usize,
}

/// Where a row's numbers lie in an interleaved matrix: number `k` at `start + k * step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strided {
    pub(crate) start: usize,
    pub(crate) step: usize,
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

    /// Where row `row` of a matrix of `width` columns lies.
    #[inline]
    pub(crate) fn place(self, row: usize, width: usize) -> Strided {
        let (each, extra) = (self.rows / self.tiles, self.rows % self.tiles);
        let tall = extra * (each + 1);
        let tile = if row < tall {
            row / (each + 1)
        } else {
            extra + (row - tall) / each
        };
        let rows = self.tile(tile);
        Strided {
            start: rows.start * width + (row - rows.start),
            step: rows.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_places_agree() {
        for rows in 1..80 {
            for most in [1, 2, 6, 12] {
                let tiling = Tiling::new(rows, most);
                let mut next = 0;
                for tile in 0..tiling.tiles() {
                    let range = tiling.tile(tile);
                    assert_eq!(range.start, next);
                    assert!((1..=most).contains(&range.len()));
                    for row in range.clone() {
                        let place = tiling.place(row, 10);
                        assert_eq!(place.step, range.len());
                        assert_eq!(place.start, range.start * 10 + row - range.start);
                    }
                    next = range.end;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
