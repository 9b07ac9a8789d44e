//! Numbers that never change again: packed by this process, or mapped from a file.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use super::buffer::{Buffer, Number};
use crate::weights::MappedFile;

/// Bytes at whose multiples a part begins: what the kernels are promised.
pub(crate) const PART_ALIGN: usize = 64;

/// What numbers lie in: held for as long as they are used, and looked at through pointers alone.
#[allow(dead_code)]
enum Memory {
    Owned(Buffer<u32>),
    Mapped(Arc<MappedFile>),
}

/// A slice of numbers in memory that it keeps alive with others; read-only, so that parts of it may
/// be anywhere at once.
pub(crate) struct Stored<T: Number> {
    start: NonNull<T>,
    len: usize,
    memory: Arc<Memory>,
}

// SAFETY: nobody writes to the memory, as with an `Arc<[T]>`.
unsafe impl<T: Number> Send for Stored<T> {}
// SAFETY: as an `Arc<[T]>`.
unsafe impl<T: Number> Sync for Stored<T> {}

impl Stored<u32> {
    /// All of a buffer.
    pub(crate) fn owned(buffer: Buffer<u32>) -> Self {
        let (start, len) = (NonNull::from(&*buffer).cast(), buffer.len());
        Self {
            start,
            len,
            memory: Arc::new(Memory::Owned(buffer)),
        }
    }

    /// The `bytes` of a mapped file, if they are there, aligned, and whole words.
    pub(crate) fn mapped(file: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        let found = file.bytes().get(bytes)?;
        let start = NonNull::from(found).cast::<u32>();
        let fits = found.len().is_multiple_of(size_of::<u32>());
        (fits && start.addr().get().is_multiple_of(PART_ALIGN)).then(|| Self {
            start,
            len: found.len() / size_of::<u32>(),
            memory: Arc::new(Memory::Mapped(file.clone())),
        })
    }

    /// The words of `range` as numbers of the same size, if they are there and aligned.
    pub(crate) fn part<T: Number>(&self, range: Range<usize>) -> Option<Stored<T>> {
        let found = self.get(range)?;
        let start = NonNull::from(found).cast::<T>();
        let fits = size_of::<T>() == size_of::<u32>() && align_of::<T>() <= PART_ALIGN;
        (fits && start.addr().get().is_multiple_of(PART_ALIGN)).then(|| Stored {
            start,
            len: found.len(),
            memory: self.memory.clone(),
        })
    }
}

impl<T: Number> Deref for Stored<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` numbers lie there, checked when this was made; every pattern of bits is
        // one; and `memory` keeps them where they are and lends them to nobody to write.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> fmt::Debug for Stored<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match *self.memory {
            Memory::Owned(_) => "owned",
            Memory::Mapped(_) => "mapped",
        };
        write!(f, "Stored({}, {whose})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outlive_the_whole_and_stay_inside() {
        let mut buffer = Buffer::<u32>::try_zeroed(64).unwrap();
        buffer[16] = 2f32.to_bits();
        buffer[63] = 7;
        let whole = Stored::owned(buffer);
        let part = whole.part::<f32>(16..48).unwrap();
        assert!(whole.part::<u32>(8..16).is_none(), "not aligned");
        assert!(whole.part::<u32>(48..65).is_none(), "beyond");
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 48..16;
        assert!(whole.part::<u32>(backwards).is_none());
        assert!(whole.part::<u16>(0..16).is_none(), "another size");
        assert_eq!(whole.part::<u32>(48..64).unwrap()[15], 7);
        assert!(whole.part::<u32>(64..64).unwrap().is_empty());
        drop(whole);
        assert_eq!(part.len(), 32);
        assert_eq!(part[0], 2.0);
    }

    #[test]
    fn a_file_lends_only_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words");
        let bytes: Vec<u8> = (0..200u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = Arc::new(MappedFile::open(&path).unwrap());
        let words = Stored::mapped(&file, 64..196).unwrap();
        drop(file);
        assert!(format!("{words:?}").contains("mapped"));
        assert_eq!(words.len(), 33);
        assert_eq!(words[0].to_ne_bytes(), [64, 65, 66, 67]);
        let Memory::Mapped(file) = &*words.memory else {
            panic!("mapped")
        };
        for bad in [0..201, 4..8, 0..6, 64..204, usize::MAX..usize::MAX] {
            assert!(Stored::mapped(file, bad.clone()).is_none(), "{bad:?}");
        }
    }
}
