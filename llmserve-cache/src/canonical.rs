//! Bytes that are equal exactly when the values are.
//!
//! Fields come in a fixed order. Each is either of fixed width or says its length first, each
//! optional one says first whether it is there, each variant which one it is. So no two different
//! sequences of values give the same bytes, whatever an attacker writes into a string. Integers
//! and the bits of floats are little-endian, so the bytes are the same on every machine.

/// Writes values one after another.
#[derive(Default)]
pub(crate) struct Canonical(Vec<u8>);

impl Canonical {
    pub(crate) fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn size(&mut self, value: usize) {
        // usize is at most 64 bits on every target of this edition's standard library.
        self.u64(value as u64);
    }

    /// By bits: zero and negative zero differ, equal NaNs do not.
    pub(crate) fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.size(value.len());
        self.0.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn tokens(&mut self, tokens: &[u32]) {
        self.size(tokens.len());
        self.0.reserve(tokens.len() * 4);
        for token in tokens {
            self.u32(*token);
        }
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn into_bytes(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }
}
