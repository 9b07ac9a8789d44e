//! What stays in memory of the files, and what is known of them.

use std::sync::Arc;

use llmserve_core::{KvLayout, Model, ModelError, StepLimits};

use super::driver::golden;
use crate::weights::testing::{f32_bytes, safetensors};
use crate::{CpuModel, CpuOptions, DecoderConfig, FileDType, Weights};

const HIDDEN: usize = 256;
const INNER: usize = 2048;
const VOCAB: usize = 512;

fn config(tied: bool) -> DecoderConfig {
    DecoderConfig {
        hidden_size: HIDDEN,
        intermediate_size: INNER,
        vocab_size: VOCAB,
        tie_embeddings: tied,
        ..DecoderConfig::from_dir(&golden("llama")).unwrap()
    }
}

/// A checkpoint of some megabytes, its tensors in the order given or reversed.
fn checkpoint(config: &DecoderConfig, reversed: bool, bump: Option<&str>) -> Vec<u8> {
    let queries = config.num_heads * config.head_dim;
    let keys = config.num_kv_heads * config.head_dim;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..config.num_layers {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![queries, HIDDEN]),
            ("self_attn.k_proj", vec![keys, HIDDEN]),
            ("self_attn.v_proj", vec![keys, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, queries]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    if !config.tie_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]));
    }
    let data: Vec<_> = shapes
        .iter()
        .map(|(name, shape)| {
            let len = shape.iter().product::<usize>();
            let seed = name.bytes().map(usize::from).sum::<usize>();
            let mut numbers: Vec<_> = (0..len).map(|i| ((i + seed) % 97) as f32 * 0.01).collect();
            if bump == Some(name) {
                numbers[len - 1] += 1.0;
            }
            f32_bytes(&numbers)
        })
        .collect();
    let mut tensors: Vec<_> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| {
            (
                name.as_str(),
                FileDType::F32,
                shape.as_slice(),
                data.as_slice(),
            )
        })
        .collect();
    if reversed {
        tensors.reverse();
    }
    safetensors(&tensors)
}

fn load(config: &DecoderConfig, file: &[u8], threads: usize) -> (tempfile::TempDir, CpuModel) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let weights = Arc::new(Weights::open(dir.path()).unwrap());
    let options = CpuOptions {
        threads: Some(threads),
        ..CpuOptions::default()
    };
    let model = CpuModel::build(config, weights, &options).unwrap();
    (dir, model)
}

#[test]
fn the_fingerprint_knows_the_weights_and_not_how_they_came() {
    for tied in [false, true] {
        let config = config(tied);
        let print = |file: &[u8], threads| load(&config, file, threads).1.info().fingerprint;
        let one = print(&checkpoint(&config, false, None), 1);
        assert_eq!(one, print(&checkpoint(&config, true, None), 3));
        for name in [
            "model.embed_tokens.weight",
            "model.norm.weight",
            "model.layers.1.mlp.down_proj.weight",
        ] {
            assert_ne!(one, print(&checkpoint(&config, false, Some(name)), 2));
        }
    }
}

/// Kilobytes of the mapping of a file under `dir` that are in memory.
#[cfg(target_os = "linux")]
fn resident(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let file = dir.join("model.safetensors");
    let mut lines = maps.lines();
    lines
        .find(|line| line.ends_with(file.to_str().unwrap()))
        .expect("the file is mapped");
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn packed_tensors_leave_memory() {
    let embedding = 4 * VOCAB * HIDDEN / 1024;
    for tied in [false, true] {
        let config = config(tied);
        let file = checkpoint(&config, false, None);
        let (dir, model) = load(&config, &file, 2);
        let resident = resident(dir.path());
        // Where one tensor ends and the next begins, whole neighbourhoods of pages are mapped when
        // the next is read: 64 KiB each on Linux.
        let edges = 2 * 64 * (9 * config.num_layers + 3);
        assert!(file.len() / 1024 > 3 * (embedding + edges));
        assert!(resident < embedding + edges, "{resident} kB");
        drop(model);
    }
}

#[test]
fn a_long_context_costs_what_is_used_of_it() {
    let config = DecoderConfig {
        max_position: 1 << 26,
        ..config(true)
    };
    let (_dir, mut model) = load(&config, &checkpoint(&config, false, None), 1);
    let began = std::time::Instant::now();
    let layout = KvLayout {
        block_size: 16,
        blocks: vec![1 << 18],
    };
    let limits = StepLimits {
        tokens: 8,
        rows: 1,
        logits: 1,
    };
    match model.prepare(&layout, limits) {
        // Where memory is not handed out lazily there may not be enough.
        Ok(()) | Err(ModelError::Prepare(_)) => {}
        Err(other) => panic!("{other}"),
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(2));
}

#[cfg(target_os = "linux")]
#[test]
fn rows_of_the_embedding_do_not_pile_up() {
    use super::super::embedding::Embedding;
    use super::driver::Driver;
    let config = config(true);
    let (dir, model) = load(&config, &checkpoint(&config, false, None), 1);
    let mut driver = Driver::new(model, 16, 1, VOCAB);
    // Where other tensors end, their neighbourhoods stay.
    let before = resident(dir.path());
    let tokens: Vec<u32> = (0..240).map(|i| (i * 37) % VOCAB as u32).collect();
    let mut most = 0;
    for (at, part) in tokens.chunks(Embedding::ROWS).enumerate() {
        let wanted = llmserve_core::LogitsWanted::Last;
        driver
            .step(&[(0, Embedding::ROWS * at, part, wanted)])
            .unwrap();
        most = resident(dir.path()).max(most);
    }
    // Had nothing been let go of, all of it would be resident: the rows lie all over it. Pages that
    // it shares with its neighbours stay, and what is mapped around them.
    let all = 4 * VOCAB * HIDDEN / 1024;
    let edges = 2 * 64;
    assert!(all > 3 * edges);
    assert!(most <= before + edges, "{most} kB, {before} kB before");
}
