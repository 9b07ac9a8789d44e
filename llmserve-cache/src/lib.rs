//! Answers that need no model run: a cache layer around anything that generates.
