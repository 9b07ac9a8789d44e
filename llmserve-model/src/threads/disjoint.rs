//! One slice, written by many tasks, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that tasks of a team write at the same time, each elements of its own.
///
/// The bounds are checked here; that parts do not overlap is each user's promise.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: as a `&mut [T]` cut into parts, one for each thread.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: every access is unsafe and promises that no other thread has the same element.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// A part.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap, and none has an element that is
    /// [`write`](Self::write)n meanwhile.
    ///
    /// # Panics
    /// If `range` leaves the slice.
    #[inline(always)]
    pub(crate) unsafe fn part(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the line above, not aliased by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
        }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// No other thread accesses the element meanwhile, and no [`part`](Self::part) has it.
    ///
    /// # Panics
    /// If `index` lies outside.
    #[inline(always)]
    pub(crate) unsafe fn write(self, index: usize, value: T)
    where
        T: Copy,
    {
        assert!(index < self.len);
        // SAFETY: in bounds by the line above, not aliased by the caller's promise; `T: Copy` has
        // nothing to drop.
        unsafe { self.start.add(index).write(value) };
    }
}
