//! Logical paged KV cache: block pool, block tables, prefix index, copy-on-write and eviction.
