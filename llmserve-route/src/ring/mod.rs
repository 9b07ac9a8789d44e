//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016).

mod bounded;
mod heat;
mod points;
mod seen;

pub use bounded::BoundedHash;
pub(crate) use points::Points;
pub(crate) use seen::Seen;
