//! Memory for numbers: aligned to cache lines, zeroed lazily.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const ALIGN: usize = 64;
/// What the allocator zeroes without touching: a larger alignment would make it write every page.
const BASE_ALIGN: usize = 16;

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
    /// What was allocated; dangling when `layout` is empty.
    base: NonNull<u8>,
    layout: Layout,
    start: NonNull<T>,
    len: usize,
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
                base: NonNull::dangling(),
                layout: Layout::new::<()>(),
                start: NonNull::dangling(),
                len: 0,
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
            base,
            layout,
            start,
            len,
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

impl<T: Number> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated with this layout, dropped once.
            unsafe { dealloc(self.base.as_ptr(), self.layout) };
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
        for len in [0, 1, 15, 16, 1000, 1 << 16] {
            let mut buffer = Buffer::<f32>::try_zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            if len > 0 {
                assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
                buffer[len - 1] = 1.0;
            }
            assert_eq!(bytes_of(&buffer).len(), 4 * len);
        }
        assert!(Buffer::<f32>::try_zeroed(usize::MAX / 2).is_none());
    }
}
