//! Stop strings, found as the text comes.

/// What one piece of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Text that cannot be part of a stop string any more.
    pub emit: String,
    /// The stop string that was found, by its index. `emit` then ends where it began, and nothing
    /// more will be emitted.
    pub matched: Option<usize>,
}

/// Looks for stop strings in text that comes in pieces.
///
/// The match is the one that is complete first, and of those that end together the longest; of
/// equal strings the first. So it does not depend on how the text was cut into pieces, and
/// generation stops with the very token that completes it. What may still turn out to be the
/// beginning of a stop string is held back, and nothing else.
///
/// Each string is followed by its own Knuth–Morris–Pratt automaton: a byte is looked at once,
/// whatever came before it.
///
/// ```
/// use llmserve_core::text::StopStrings;
/// let mut stops = StopStrings::new(&["\n\n".into(), "END".into()]);
/// assert_eq!(stops.push("to be\n").emit, "to be");
/// assert_eq!(stops.push("or E").emit, "\nor ");
/// let last = stops.push("ND of it");
/// assert_eq!((last.emit.as_str(), last.matched), ("", Some(1)));
/// ```
#[derive(Clone)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    /// Text that may be the beginning of a stop string.
    held: String,
    matched: Option<usize>,
}

#[derive(Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each prefix, by its length, the length of its longest proper suffix that is a prefix.
    borders: Vec<usize>,
    /// Length of the longest prefix that the text now ends with.
    reached: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len() + 1];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = borders[length];
            }
            length += usize::from(bytes[i] == bytes[length]);
            borders[i + 1] = length;
        }
        Self {
            bytes,
            borders,
            reached: 0,
        }
    }

    /// Follows the text by one byte; whether it now ends with the pattern. An empty pattern is
    /// never found.
    fn step(&mut self, byte: u8) -> bool {
        if self.reached == self.bytes.len() {
            self.reached = self.borders[self.reached];
        }
        while self.reached > 0 && self.bytes[self.reached] != byte {
            self.reached = self.borders[self.reached];
        }
        self.reached += usize::from(self.bytes.get(self.reached) == Some(&byte));
        self.reached == self.bytes.len() && self.reached > 0
    }
}

impl StopStrings {
    /// A scan for `stops`. An empty string is never found.
    pub fn new(stops: &[String]) -> Self {
        Self {
            patterns: stops.iter().map(|stop| Pattern::new(stop)).collect(),
            held: String::new(),
            matched: None,
        }
    }

    /// Follows the text by `piece`. After a match, text is ignored and the match repeated.
    pub fn push(&mut self, piece: &str) -> Scan {
        self.follow(piece, true)
    }

    /// Follows the text by `piece` where no stop string may end it yet, because a minimum of
    /// tokens is not reached. One that is complete within `piece` is ordinary text; one that
    /// begins in it may be found later. Returns what [`push`](Self::push) would emit.
    pub fn pass(&mut self, piece: &str) -> String {
        self.follow(piece, false).emit
    }

    /// What was held back, when no text follows. Empty after a match.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.reached = 0;
        }
        std::mem::take(&mut self.held)
    }

    fn follow(&mut self, piece: &str, stop: bool) -> Scan {
        if self.matched.is_some() {
            return Scan {
                emit: String::new(),
                matched: self.matched,
            };
        }
        for (at, &byte) in piece.as_bytes().iter().enumerate() {
            let mut found: Option<(usize, usize)> = None;
            for (index, pattern) in self.patterns.iter_mut().enumerate() {
                let length = pattern.bytes.len();
                if pattern.step(byte) && found.is_none_or(|(_, longest)| length > longest) {
                    found = Some((index, length));
                }
            }
            if let Some((index, length)) = found.filter(|_| stop) {
                self.matched = Some(index);
                let mut emit = std::mem::take(&mut self.held);
                // A match ends with a character, since both sides are whole characters.
                emit.push_str(&piece[..=at]);
                emit.truncate(emit.len() - length);
                return Scan {
                    emit,
                    matched: self.matched,
                };
            }
        }
        self.held.push_str(piece);
        // What a pattern has reached begins with the pattern's first character, so the cut is
        // between characters. A pattern completed while it may not stop holds back what it could
        // begin anew with.
        let hold = self
            .patterns
            .iter()
            .map(|pattern| match pattern.reached == pattern.bytes.len() {
                true => pattern.borders[pattern.reached],
                false => pattern.reached,
            })
            .max()
            .unwrap_or(0);
        let emit = self.held.len() - hold;
        Scan {
            emit: self.held.drain(..emit).collect(),
            matched: None,
        }
    }
}

impl std::fmt::Debug for StopStrings {
    /// Leaves the text out: it does not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopStrings")
            .field("strings", &self.patterns.len())
            .field("held", &self.held.len())
            .field("matched", &self.matched)
            .finish()
    }
}

#[cfg(test)]
mod tests;
