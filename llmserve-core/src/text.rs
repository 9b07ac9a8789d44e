//! Tokens to text as they come: incremental detokenisation and stop strings.
