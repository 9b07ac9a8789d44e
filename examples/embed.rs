//! An engine built from parts by hand, with a scheduling policy of the host's own, serving
//! 64 requests from 8 threads: `cargo run --release --example embed [-- --dtype int8]`.
use std::error::Error;
use std::thread;

use clap::Parser;
use llmserve::kv::PagedKv;
use llmserve::model::{CpuOptions, DType, ModelFolder};
use llmserve::sched::{ContinuousScheduler, Policy, Rank};
use llmserve::{Engine, Generate, IdentityRoot, Model, Request, SchedRequest};

/// Shortest job first: who asks for least is served first.
struct ShortestFirst;

impl Policy for ShortestFirst {
    fn rank(&self, request: &SchedRequest) -> Rank {
        Rank::new((request.tokens + request.max_new_tokens) as i64)
    }
}

#[derive(Parser)]
struct Args {
    /// How weights are stored.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16|int8|int4")]
    dtype: DType,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = llmserve_examples::embedded_model();
    let dtype = Args::parse().dtype;
    let options = CpuOptions {
        dtype,
        ..CpuOptions::default()
    };
    let loaded = ModelFolder::load(&folder, options)?;
    let info = loaded.model.info();
    let root = IdentityRoot::new(info.fingerprint, &info.kv.groups[0].layout, 16);
    let kv = PagedKv::builder().blocks(512).block_size(16).root(root);
    let policy: Box<dyn Policy> = Box::new(ShortestFirst);
    let scheduler = ContinuousScheduler::builder()
        .max_num_seqs(16)
        .max_batched_tokens(512)
        .policy(policy);
    let engine = Engine::builder(loaded.model)
        .kv(kv.build()?)
        .scheduler(scheduler.build()?)
        .tokenizer(loaded.tokenizer.ok_or("no tokenizer")?)
        .build()?;

    let serve = |thread: usize| {
        let engine = engine.clone();
        thread::spawn(move || -> Result<usize, llmserve::Error> {
            let mut tokens = 0;
            for i in 0..8 {
                let request = Request::text(format!("ACT {thread}\n\nSCENE {i}\t"));
                let request = request.max_tokens(8 + 8 * i).temperature(0.8);
                tokens += engine.generate(request).wait()?.ids().len();
            }
            Ok(tokens)
        })
    };
    let threads: Vec<_> = (0..8).map(serve).collect();
    for (i, thread) in threads.into_iter().enumerate() {
        let tokens = thread.join().map_err(|_| "a thread panicked")??;
        println!("thread {i}: 8 requests, {tokens} tokens");
    }
    println!("{:#?}", engine.stats());
    Ok(())
}
