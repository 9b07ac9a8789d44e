//! Continuous batching: queues, token budget, chunked prefill, preemption.
