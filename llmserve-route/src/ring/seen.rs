//! Whether a key was there before.

use crate::random::mix;

/// Keys remembered: two that fall on one place forget each other.
const PLACES: usize = 1 << 16;

/// The keys that were there lately, in memory that does not grow.
pub(crate) struct Seen(Box<[u32]>);

impl Seen {
    /// Whether `key` was there before, as far as that is remembered. It is from now on.
    pub(crate) fn again(&mut self, key: u64) -> bool {
        let hash = mix(key);
        let (place, mark) = (hash as usize % PLACES, (hash >> 32) as u32 | 1);
        std::mem::replace(&mut self.0[place], mark) == mark
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self(vec![0; PLACES].into())
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Seen").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_known_until_others_take_its_place() {
        let mut seen = Seen::default();
        assert!((0..1_000).all(|key| !seen.again(key)));
        // A few have met already.
        assert!((0..1_000).filter(|key| seen.again(*key)).count() > 950);
        (1_000..1_000_000).for_each(|key| {
            seen.again(key);
        });
        assert!((0..1_000).all(|key| !seen.again(key)));
    }
}
