//! A model whose every logit depends on what its pages really hold, and helpers around it.
#![allow(dead_code, unreachable_pub)]

pub mod levels;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llmserve::kv::PagedKv;
use llmserve::sched::ContinuousScheduler;
use llmserve::{
    Batch, BlockId, Engine, EngineBuilder, GroupId, IdentityRoot, KvGroupSpec, KvLayout, Logits,
    LogitsWanted, Message, Model, ModelError, ModelInfo, PageStore, RenderOptions, StepLimits,
    TokenId, Tokenizer, TokenizerError,
};

/// The embedded model.
pub fn bard() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/models/bard-2m"
    ))
}

/// Logits as a function of the whole context, as read back through the block table.
pub type Script = Arc<dyn Fn(&[TokenId], &mut [f32]) -> Result<(), ModelError> + Send + Sync>;

/// A model without weights: its "keys and values" are the tokens themselves, kept in pages. A
/// wrong block, a lost copy or a stale slot changes its output or panics.
pub struct PageModel {
    info: ModelInfo,
    pages: Pages,
    script: Script,
}

#[derive(Default)]
struct Pages {
    block_size: usize,
    slots: Vec<Option<(TokenId, usize)>>,
}

pub const VOCAB: usize = 64;
pub const EOS: TokenId = 1;

impl PageModel {
    pub fn new(script: Script) -> Self {
        let mut info = ModelInfo::new("pages", VOCAB, 1024, KvGroupSpec::full(8, "tokens"));
        info.eos = vec![EOS];
        Self {
            info,
            pages: Pages::default(),
            script,
        }
    }

    /// Pseudo-random logits from a hash of the context.
    pub fn hashing() -> Self {
        Self::new(Arc::new(|context, logits| {
            hash_logits(context, logits);
            Ok(())
        }))
    }

    /// Always prefers `next(context)`.
    pub fn greedy(next: impl Fn(&[TokenId]) -> TokenId + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(move |context, logits| {
            logits.fill(0.0);
            logits[next(context) as usize] = 10.0;
            Ok(())
        }))
    }

    pub fn max_context(mut self, tokens: usize) -> Self {
        self.info.max_context = tokens;
        self
    }
}

pub fn hash_logits(context: &[TokenId], logits: &mut [f32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for token in context {
        state = (state ^ u64::from(*token))
            .wrapping_mul(0xff51_afd7_ed55_8ccd)
            .rotate_left(29);
    }
    for (i, logit) in logits.iter_mut().enumerate() {
        let mixed = (state ^ (i as u64 + 1)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        *logit = ((mixed >> 40) as f32 / (1u64 << 24) as f32) * 8.0;
    }
}

struct Rows(Vec<f32>);

impl Logits for Rows {
    fn rows(&self) -> usize {
        self.0.len() / VOCAB
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        Ok(&self.0[index * VOCAB..(index + 1) * VOCAB])
    }
}

impl Model for PageModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&mut self, layout: &KvLayout, _limits: StepLimits) -> Result<(), ModelError> {
        self.pages.block_size = layout.block_size;
        self.pages.slots = vec![None; layout.blocks[0] * layout.block_size];
        Ok(())
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let size = self.pages.block_size;
        let slot = |table: &[BlockId], at: usize| table[at / size].index() * size + at % size;
        for row in batch.rows {
            let table = batch.tables.table(row.sequence, GroupId::MAIN);
            for i in 0..row.len {
                let at = row.start + i;
                self.pages.slots[slot(table, at)] = Some((batch.tokens[row.offset + i], at));
            }
        }
        let mut out = Vec::new();
        for row in batch.rows {
            let table = batch.tables.table(row.sequence, GroupId::MAIN);
            let read = |at: usize| match self.pages.slots[slot(table, at)] {
                Some((token, position)) if position == at => token,
                other => panic!("position {at} of {:?} holds {other:?}", row.sequence),
            };
            let context: Vec<TokenId> = (0..row.start + row.len).map(read).collect();
            let first = match row.logits {
                LogitsWanted::None => continue,
                LogitsWanted::Last => context.len(),
                LogitsWanted::All => row.start + 1,
            };
            for end in first..=context.len() {
                let from = out.len();
                out.resize(from + VOCAB, 0.0);
                (self.script)(&context[..end], &mut out[from..])?;
            }
        }
        Ok(Box::new(Rows(out)))
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        &mut self.pages
    }
}

impl PageStore for Pages {
    fn page_bytes(&self, _group: GroupId) -> usize {
        self.block_size * 12
    }

    fn copy(
        &mut self,
        _group: GroupId,
        from: BlockId,
        to: BlockId,
        slots: usize,
    ) -> Result<(), ModelError> {
        let from = from.index() * self.block_size;
        self.slots
            .copy_within(from..from + slots, to.index() * self.block_size);
        Ok(())
    }

    fn read(&self, _: GroupId, _: BlockId, _: &mut Vec<u8>) -> Result<(), ModelError> {
        Err(ModelError::Backend("not in these tests".into()))
    }

    fn write(&mut self, _: GroupId, _: BlockId, _: &[u8]) -> Result<(), ModelError> {
        Err(ModelError::Backend("not in these tests".into()))
    }
}

/// Holds the model back until everything a test needs is submitted.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn wait(&self) {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

/// One letter a token: id 2 is `a`, 3 is `b`, …; 0 and 1 are special; the last ids are bytes of
/// `é` (two tokens).
pub struct Letters;

impl Tokenizer for Letters {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let letters = text.bytes().map(|b| match b {
            b'a'..=b'z' => Ok(TokenId::from(b - b'a') + 2),
            b' ' => Ok(30),
            other => Err(TokenizerError::Codec(format!("byte {other} is unknown"))),
        });
        add_special
            .then_some(Ok(0))
            .into_iter()
            .chain(letters)
            .collect()
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for id in ids {
            match id {
                0 | 1 if skip_special => {}
                0 => bytes.extend_from_slice(b"<bos>"),
                1 => bytes.extend_from_slice(b"<eos>"),
                2..=27 => bytes.push(b'a' + (id - 2) as u8),
                30 => bytes.push(b' '),
                31 => bytes.push(0xc3),
                32 => bytes.push(0xa9),
                _ => bytes.push(b'?'),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn render(&self, messages: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
        Ok(messages
            .iter()
            .map(|message| message.content.as_str())
            .collect())
    }
}

/// Sizes of a test engine.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub blocks: usize,
    pub block_size: usize,
    pub max_num_seqs: usize,
    pub max_batched_tokens: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            blocks: 512,
            block_size: 16,
            max_num_seqs: 64,
            max_batched_tokens: 512,
        }
    }
}

pub fn builder(model: impl Model + 'static, sizes: Sizes) -> EngineBuilder {
    let root = IdentityRoot::new(1, "tokens", sizes.block_size);
    let kv = PagedKv::builder()
        .blocks(sizes.blocks)
        .block_size(sizes.block_size)
        .root(root);
    // Nothing reserved, so that few blocks mean preemptions.
    let scheduler = ContinuousScheduler::builder()
        .reservation(None)
        .max_num_seqs(sizes.max_num_seqs)
        .max_batched_tokens(sizes.max_batched_tokens);
    Engine::builder(model)
        .kv(kv.build().unwrap())
        .scheduler(scheduler.build().unwrap())
        .tokenizer(Arc::new(Letters))
        .seed(7)
}

pub fn engine(model: impl Model + 'static, sizes: Sizes) -> Engine {
    builder(model, sizes).build().unwrap()
}

/// Waits for the engine to end and checks that nothing is left behind.
pub fn drained(engine: &Engine) {
    engine.drain();
    let stats = engine.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.kv_blocks_held),
        (0, 0, 0),
        "{stats:?}"
    );
}
