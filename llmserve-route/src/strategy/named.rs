//! Strategies by name.

use super::*;

/// Nobody knows a strategy of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no strategy {name:?}; there are: {}", NAMES.join(", "))]
pub struct UnknownStrategy {
    /// The name.
    pub name: String,
}

/// The names [`named`] knows.
pub const NAMES: [&str; 13] = [
    "affinity",
    "best-quality",
    "bounded-hash",
    "cheapest",
    "kv-aware",
    "latency-aware",
    "least-loaded",
    "least-tokens",
    "power-of-two",
    "prompt-length",
    "random",
    "round-robin",
    "weighted",
];

/// A ready-made strategy with its defaults, by its name: for configuration files and flags.
///
/// ```
/// use llmserve_route::strategy::named;
/// assert!(named("least-loaded").is_ok());
/// let unknown = named("best").err().unwrap().to_string();
/// assert!(unknown.starts_with("there is no strategy \"best\"; there are: affinity, "));
/// ```
///
/// # Errors
/// [`UnknownStrategy`], with those there are.
pub fn named(name: &str) -> Result<Box<dyn Strategy>, UnknownStrategy> {
    Ok(match name {
        "affinity" => Box::new(Affinity::new()),
        "best-quality" => Box::new(BestQuality::new()),
        "bounded-hash" => Box::new(BoundedHash::new()),
        "cheapest" => Box::new(Cheapest::new()),
        "kv-aware" => Box::new(KvAware::approximate()),
        "latency-aware" => Box::new(LatencyAware::new()),
        "least-loaded" => Box::new(LeastLoaded::new()),
        "least-tokens" => Box::new(LeastTokens::new()),
        "power-of-two" => Box::new(PowerOfTwo::new()),
        "prompt-length" => Box::new(PromptLength::default()),
        "random" => Box::new(Random::new()),
        "round-robin" => Box::new(RoundRobin::new()),
        "weighted" => Box::new(Weighted::new()),
        _ => {
            return Err(UnknownStrategy {
                name: name.to_owned(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_sorted() {
        assert!(NAMES.iter().all(|name| named(name).is_ok()));
        assert!(NAMES.is_sorted());
        assert!(named("Random").is_err());
    }
}
