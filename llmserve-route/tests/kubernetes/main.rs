//! Kubernetes, as an API server that does what a test says.

mod scale;
mod server;
mod slices;
