//! Room for what running sequences may still generate: what is told once.

/// How much room admission keeps for what running sequences, and the newcomer, may still generate.
///
/// A sequence may generate up to its `max_new_tokens`, and most end sooner. Reserving for all of it
/// wastes the cache, reserving for nothing fills it with sequences that then preempt each other. So
/// a *share* of it is reserved: it rises with every step that had to preempt and decays while none
/// has to.
///
/// ```text
///   share 1.0 ┤            ╭╮ rise
///         0.7 ┤╲ initial  ╱│ ╲
///             │  ╲       │ │   ╲  decays from `initial` to `least` in `decay_steps`
///         0.1 ┤    ╲─────┘        ╲────
///             └──────────┬──────────────► steps
///                        a preemption
/// ```
///
/// It adapts as SGLang's new-token ratio does.
///
/// ```
/// use llmserve_sched::{ContinuousScheduler, Reservation};
/// // Answers here are always as long as they may be, and preemption is dear.
/// let all = Reservation { initial: 1.0, least: 1.0, ..Reservation::default() };
/// let scheduler = ContinuousScheduler::builder().reservation(all).build()?;
/// // Or: fill the cache and preempt, as vLLM does.
/// let scheduler = ContinuousScheduler::builder().reservation(None).build()?;
/// # Ok::<(), llmserve_sched::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reservation {
    /// The share to begin with, 0 to 1. Default 0.7.
    pub initial: f64,
    /// The share it decays to, at most `initial`. Default 0.1.
    pub least: f64,
    /// Steps with rows and without a preemption in which it decays from `initial` to `least`.
    /// Default 600; at least 1.
    pub decay_steps: u32,
    /// What a step that preempts adds to it, up to a share of 1. Default 0.2; not negative.
    pub rise: f64,
    /// Tokens of one sequence that are counted at most: hosts ask for far more than they expect.
    /// Default 4,096.
    pub most_tokens: usize,
}

impl Default for Reservation {
    fn default() -> Self {
        Self {
            initial: 0.7,
            least: 0.1,
            decay_steps: 600,
            rise: 0.2,
            most_tokens: 4096,
        }
    }
}

impl Reservation {
    /// The first number that cannot be honoured, by name.
    pub(crate) fn check(&self) -> Result<(), (&'static str, f64)> {
        let numbers = [
            ("initial", self.initial, (0.0..=1.0).contains(&self.initial)),
            (
                "least",
                self.least,
                (0.0..=self.initial).contains(&self.least),
            ),
            ("decay_steps", 0.0, self.decay_steps > 0),
            ("rise", self.rise, self.rise >= 0.0 && self.rise.is_finite()),
        ];
        match numbers.iter().find(|(_, _, fine)| !fine) {
            Some((name, value, _)) => Err((name, *value)),
            None => Ok(()),
        }
    }
}
