//! Room for what running sequences may still generate: what is told once.

/// How much room admission keeps for what running sequences, and the newcomer, may still generate.
///
/// A sequence may generate up to its `max_new_tokens`, and most end sooner. Reserving for all of it
/// wastes the cache, reserving for nothing fills it with sequences that then preempt each other. So
/// the scheduler learns from the sequences that end which share of what they might have generated
/// they did, and expects the same of those that run. It follows them to their ends: each grows,
/// and frees its blocks when it is expected to end. A newcomer is admitted if there is room for a
/// *share* of the most that all of them together ever take beyond what they have, and a margin.
///
/// ```text
///   blocks ┤- - - - - - - - - - - - - - - - - - all, less the margin
///          │        ╱│  ╱│ the most that those who run will take
///          │     ╱╱  │╱  ╲
///          │  ╱╱          ╲___ …
///          └──┬──────┬───┬──────► steps
///            now     ends, as expected
/// ```
///
/// The share rises with every step that had to preempt and decays while none has to: sequences
/// that came together end together, and only some overlap between those that go and those that
/// come keeps the cache full. The adaptive share is that of SGLang's new-token ratio; following
/// the running to their ends, by what those before them generated, is the idea of Past-Future
/// scheduling (Gong et al., ASPLOS 2025).
///
/// ```
/// use llmserve_sched::{ContinuousScheduler, Reservation};
/// // Preemption is dear here.
/// let all = Reservation { initial: 1.0, least: 1.0, ..Reservation::default() };
/// let scheduler = ContinuousScheduler::builder().reservation(all).build()?;
/// // Or: fill the cache and preempt, as vLLM does.
/// let scheduler = ContinuousScheduler::builder().reservation(None).build()?;
/// # Ok::<(), llmserve_sched::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reservation {
    /// The share of what is expected that is kept to begin with, 0 to 1. Default 0.7.
    pub initial: f64,
    /// The share it decays to, at most `initial`. Default 0.
    pub least: f64,
    /// Steps with rows and without a preemption in which it decays from `initial` to `least`.
    /// Default 300; at least 1.
    pub decay_steps: u32,
    /// What a step that preempts adds to it, up to a share of 1. Default 0.05; not negative.
    pub rise: f64,
    /// Share of all blocks kept beyond that, `0.0..1.0`, rounded down to whole blocks. Default
    /// 0.05.
    pub margin: f64,
    /// Tokens of one sequence that are expected at most. Default 4,096.
    pub most_tokens: usize,
}

impl Default for Reservation {
    fn default() -> Self {
        Self {
            initial: 0.7,
            least: 0.0,
            decay_steps: 300,
            rise: 0.05,
            margin: 0.05,
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
            ("margin", self.margin, (0.0..1.0).contains(&self.margin)),
            ("decay_steps", 0.0, self.decay_steps > 0),
            ("rise", self.rise, self.rise >= 0.0 && self.rise.is_finite()),
        ];
        match numbers.iter().find(|(_, _, fine)| !fine) {
            Some((name, value, _)) => Err((name, *value)),
            None => Ok(()),
        }
    }
}
