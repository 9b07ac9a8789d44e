//! Serve large language models inside your own program: paged KV cache, continuous batching, streaming.
