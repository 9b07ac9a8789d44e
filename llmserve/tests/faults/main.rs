//! What goes wrong ends in typed errors on the streams it touches, and nowhere else.

mod parts;
mod refusals;
mod steps;
#[path = "../support/mod.rs"]
mod support;

fn cycle(context: &[u32]) -> u32 {
    2 + (context.len() as u32 % 26)
}
