//! Memory for numbers: aligned to cache lines, zeroed lazily.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// A cache line, and the widest vector.
const ALIGN: usize = 64;
/// What the allocator zeroes without touching: a larger alignment would make it write every page.
const BASE_ALIGN: usize = 16;
/// A huge page of most processors.
const HUGE: usize = 2 << 20;

/// Numbers of which every bit pattern, all zeros included, is a value.
///
/// # Safety
/// The type has no padding, no invalid bit pattern and nothing to drop.
pub(crate) unsafe trait Number: Copy + Send + Sync + 'static {}
// SAFETY: a plain number.
unsafe impl Number for f32 {}
// SAFETY: a plain number.
unsafe impl Number for u32 {}
// SAFETY: a plain number.
unsafe impl Number for u16 {}

/// A fixed slice of numbers, zero at first, aligned to 64 bytes. Pages of it that were never
/// written cost no physical memory where the operating system maps zeros lazily.
pub(crate) struct Buffer<T: Number> {
    start: NonNull<T>,
    len: usize,
    backing: Backing,
}

/// Whose memory it is.
enum Backing {
    /// Nobody's: there are no numbers.
    Nothing,
    /// The allocator's, given back with this layout.
    Heap(NonNull<u8>, Layout),
    /// The system's own, given back when it is dropped.
    Map(#[allow(dead_code)] MmapMut),
}

// SAFETY: owns its memory, as a `Box<[T]>` does.
unsafe impl<T: Number> Send for Buffer<T> {}
// SAFETY: as a `Box<[T]>`.
unsafe impl<T: Number> Sync for Buffer<T> {}

impl<T: Number> Buffer<T> {
    /// A buffer of `len` zeros, or none if the memory is not to be had.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self {
                start: NonNull::dangling(),
                len: 0,
                backing: Backing::Nothing,
            });
        }
        let bytes = len.checked_mul(size_of::<T>())?.checked_add(ALIGN)?;
        let layout = Layout::from_size_align(bytes, BASE_ALIGN).ok()?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = base.as_ptr().align_offset(ALIGN);
        // `align_offset` may refuse to answer, in theory only.
        let skip = if skip < ALIGN { skip } else { 0 };
        // SAFETY: `skip < ALIGN`, which was allocated on top of `len` numbers.
        let start = unsafe { base.add(skip) }.cast();
        Some(Self {
            start,
            len,
            backing: Backing::Heap(base, layout),
        })
    }

    /// As [`try_zeroed`](Self::try_zeroed), in huge pages where the system has them for the asking:
    /// for what is read from end to end, over and over. Touching a byte of it makes 2 MiB resident.
    pub(crate) fn try_zeroed_huge(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        if bytes < HUGE {
            return Self::try_zeroed(len);
        }
        let mut map = MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?;
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            // It costs speed and nothing else.
            tracing::debug!(%error, "no huge pages");
        }
        let skip = map.as_ptr().align_offset(HUGE);
        let skip = if skip < HUGE { skip } else { 0 };
        let base = NonNull::new(map.as_mut_ptr())?;
        // SAFETY: `skip < HUGE`, which was mapped on top of `len` numbers; mappings begin at pages,
        // so that the numbers are aligned even where nothing is skipped.
        let start = unsafe { base.add(skip) }.cast();
        Some(Self {
            start,
            len,
            backing: Backing::Map(map),
        })
    }
}

/// The bytes of numbers, in the machine's own order.
pub(crate) fn bytes_of<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: a `Number` has no padding, so all bytes are initialised, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// The bytes of numbers, to be overwritten.
pub(crate) fn bytes_of_mut<T: Number>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as `bytes_of`; and whatever is written is a valid `Number`.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// The bits of numbers, to be taken for numbers of the same size.
pub(crate) fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: alike in size and alignment, and every pattern of bits is a value of both.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

impl<T: Number> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Backing::Heap(base, layout) = self.backing {
            // SAFETY: allocated with this layout, dropped once.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised numbers live there as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> DerefMut for Buffer<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_aligned_and_as_long_as_asked() {
        let makers = [Buffer::<f32>::try_zeroed, Buffer::try_zeroed_huge];
        for (make, align) in makers.into_iter().zip([ALIGN, HUGE]) {
            for len in [0, 1, 15, 16, 1000, 1 << 16, HUGE / 4, HUGE / 2 + 7] {
                let mut buffer = make(len).unwrap();
                assert_eq!(buffer.len(), len);
                assert!(buffer.iter().all(|&x| x == 0.0));
                if len > 0 {
                    assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
                    buffer[len - 1] = 1.0;
                }
                if 4 * len >= HUGE {
                    assert_eq!(buffer.as_ptr() as usize % align, 0);
                }
                assert_eq!(bytes_of(&buffer).len(), 4 * len);
            }
            assert!(make(usize::MAX / 2).is_none());
            assert!(make(usize::MAX / 8).is_none());
        }
    }
}
