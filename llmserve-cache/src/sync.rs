//! The lock that runs share, which loom replaces in the tests of interleavings
//! (`RUSTFLAGS="--cfg loom"`): it runs a test once for every order in which threads could take it.

#[cfg(not(all(test, loom)))]
pub(crate) use parking_lot::Mutex;

#[cfg(all(test, loom))]
pub(crate) use explored::Mutex;

/// Loom's lock with `parking_lot`'s call.
#[cfg(all(test, loom))]
mod explored {
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("no test panics with the lock")
        }
    }
}
