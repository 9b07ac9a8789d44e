//! The gateway and the endpoint that calls it, over real connections to this machine.

mod broken;
mod dialects;
mod gateway;
mod round_trip;
mod support;
