//! Attention against its definition and against itself.

mod agenda;
mod definition;
mod driver;
mod law;
