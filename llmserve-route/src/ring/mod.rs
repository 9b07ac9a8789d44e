//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016).

mod bounded;
mod heat;
mod points;

pub use bounded::BoundedHash;
