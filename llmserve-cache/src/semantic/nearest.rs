//! What a lookup finds.

use std::sync::Arc;

use super::veto::Veto;

/// The entry that a lookup settled on, and whether its answer may be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest {
    /// What the entry was inserted under.
    pub id: u128,
    /// The entry's text.
    pub text: Arc<str>,
    /// Cosine of the two texts' vectors, −1 to 1.
    pub similarity: f32,
    /// Whether the one's answer is the other's.
    pub verdict: Verdict,
}

impl Nearest {
    /// Whether the entry's answer may be given.
    pub fn is_hit(&self) -> bool {
        self.verdict == Verdict::Hit
    }

    /// Why it may not, although the vectors are near.
    pub fn veto(&self) -> Option<Veto> {
        match self.verdict {
            Verdict::Vetoed(veto) => Some(veto),
            _ => None,
        }
    }
}

/// Whether an entry's answer may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may: the texts are near, or near enough for words that hold them together, and nothing that
    /// matters tells them apart.
    Hit,
    /// The vectors are not near enough.
    Far,
    /// The vectors are near, the texts are not the same.
    Vetoed(Veto),
}
