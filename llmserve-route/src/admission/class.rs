//! Kinds of requests that share the places.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A kind of requests: what it may claim, and how many of it may wait.
///
/// ```
/// use std::time::Duration;
/// use llmserve_route::admission::Class;
/// let class = Class::new("interactive").weight(8).reserved(2).queue(64).max_wait(Duration::from_secs(5));
/// assert_eq!(class.weight, 8);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Class {
    /// Its name, for errors and metrics.
    pub name: String,
    /// Its share of the tokens while others wait as well, against their weights; at least 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Places that no other class may take.
    #[serde(default)]
    pub reserved: usize,
    /// Most requests that may wait. Default: 1,024.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// Longest that one waits before it is given up. None: as long as it takes.
    #[serde(default)]
    pub max_wait: Option<Duration>,
}

fn one() -> u32 {
    1
}

fn default_queue() -> usize {
    1_024
}

impl Class {
    /// A class of weight 1 without reserved places, of which 1,024 may wait.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: one(),
            reserved: 0,
            queue: default_queue(),
            max_wait: None,
        }
    }
}

/// Setters: each replaces the field of its name.
impl Class {
    /// See [`Class::weight`].
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// See [`Class::reserved`].
    pub fn reserved(mut self, places: usize) -> Self {
        self.reserved = places;
        self
    }

    /// See [`Class::queue`].
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self
    }

    /// See [`Class::max_wait`].
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }
}
