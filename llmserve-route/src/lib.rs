//! Choosing who answers: routing over many engines and endpoints.
