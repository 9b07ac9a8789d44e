//! Every number of llmserve: weights, tokenizer, decoder, CPU kernels, physical KV pages.
