//! Which keys are asked for most.

/// Keys watched at once.
const WATCHED: usize = 32;

/// Counts are halved when there were this many, so that what was hot cools.
const WINDOW: u32 = 1_024;

/// Before this many no key is called hot.
const WARM: u32 = 128;

/// Shares of recent requests of the keys with the most: Space-Saving (Metwally, Agrawal and El
/// Abbadi, 2005) with halving. Counts err upwards, by no more than a 32nd of all.
#[derive(Debug, Default)]
pub(super) struct Heat {
    watched: Vec<(u64, u32)>,
    total: u32,
}

impl Heat {
    /// Counts a request for `key`.
    pub(super) fn count(&mut self, key: u64) {
        if self.total >= WINDOW {
            self.total /= 2;
            for (_, count) in &mut self.watched {
                *count /= 2;
            }
        }
        self.total += 1;
        if let Some((_, count)) = self.watched.iter_mut().find(|(has, _)| *has == key) {
            *count += 1;
        } else if self.watched.len() < WATCHED {
            self.watched.push((key, 1));
        } else if let Some(least) = self.watched.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (key, least.1 + 1);
        }
    }

    /// The share of recent requests that were for `key`, 0 to 1; 0 where that is not known.
    pub(super) fn share(&self, key: u64) -> f64 {
        if self.total < WARM {
            return 0.0;
        }
        let count = self.watched.iter().find(|(has, _)| *has == key);
        count.map_or(0.0, |(_, count)| f64::from(*count) / f64::from(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_stand_out_and_cool() {
        let mut heat = Heat::default();
        heat.count(7);
        assert_eq!(heat.share(7), 0.0);
        for cold in 0..2_000 {
            heat.count(7);
            heat.count(1_000 + cold);
        }
        assert!((0.45..0.6).contains(&heat.share(7)), "{}", heat.share(7));
        assert!(heat.share(2_999) < 0.05);
        for cold in 0..8_000 {
            heat.count(10_000 + cold);
        }
        assert!(heat.share(7) < 0.1);
        assert_eq!(heat.watched.len(), WATCHED);
    }
}
