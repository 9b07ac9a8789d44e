//! What is said under speculation has the distribution of what is said without it.
//!
//! A model whose logits depend on the last token alone, so that what followed each token are
//! independent draws of one distribution, which can be computed the plain way. Of each setting
//! 200,000 tokens are sampled with drafts and as many without, and compared by chi-square: one
//! with the other, and the first with what was computed.

use llmserve::kv::PagedKv;
use llmserve::sched::ContinuousScheduler;
use llmserve::{
    Batch, Constraint, Grammar, GrammarCompiler, GrammarError, GrammarMatcher, GroupId,
    KvGroupSpec, KvLayout, Logits, LogitsWanted, ModelError, PageStore, StepLimits, TokenMask,
};

use super::*;

/// Tokens of the model; the first two and the last six are never said.
const TOKENS: usize = 16;
const SAID: std::ops::Range<TokenId> = 2..10;
const SEQUENCES: usize = 400;
/// Of each sequence; the first follows its prompt, which no grammar knows, and is not counted.
const LENGTH: usize = 501;

/// Log-odds that depend on the last token alone.
fn chain_logits(last: TokenId, logits: &mut [f32]) {
    hash_logits(&[last], logits);
    for (token, logit) in logits.iter_mut().enumerate() {
        *logit = match SAID.contains(&(token as TokenId)) {
            true => *logit * 0.4,
            false => f32::NEG_INFINITY,
        };
    }
}

/// The target: the logits after each token.
struct Chain {
    info: ModelInfo,
    after: Arc<Vec<[f32; TOKENS]>>,
}

struct Rows {
    after: Arc<Vec<[f32; TOKENS]>>,
    tokens: Vec<TokenId>,
}

impl Chain {
    fn new() -> Self {
        let mut after = vec![[0.0; TOKENS]; TOKENS];
        for (last, logits) in after.iter_mut().enumerate() {
            chain_logits(last as TokenId, logits);
        }
        let group = KvGroupSpec::full(8, "none");
        Self {
            info: ModelInfo::new("chain", TOKENS, 1024, group),
            after: Arc::new(after),
        }
    }
}

impl Logits for Rows {
    fn rows(&self) -> usize {
        self.tokens.len()
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        Ok(&self.after[self.tokens[index] as usize])
    }
}

impl Model for Chain {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&mut self, _: &KvLayout, _: StepLimits) -> Result<(), ModelError> {
        Ok(())
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let mut tokens = Vec::new();
        for row in batch.rows {
            let of_row = &batch.tokens[row.offset..row.offset + row.len];
            let from = match row.logits {
                LogitsWanted::None => row.len,
                LogitsWanted::Last => row.len - 1,
                LogitsWanted::All => 0,
            };
            tokens.extend_from_slice(&of_row[from..]);
            let table = batch.tables.table(row.sequence, GroupId::MAIN);
            assert!(!table.is_empty());
        }
        Ok(Box::new(Rows {
            after: self.after.clone(),
            tokens,
        }))
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        unreachable!("nothing forks here")
    }
}

/// Drafts from a distribution of its own: flatter, and wrong about two tokens.
struct Other {
    after: Vec<([f32; TOKENS], Survey)>,
    scratch: SamplerScratch,
}

impl Other {
    fn new() -> Self {
        let after = (0..TOKENS as TokenId).map(|last| {
            let (mut logits, mut survey) = ([0.0; TOKENS], Survey::default());
            chain_logits(last, &mut logits);
            logits.iter_mut().for_each(|logit| *logit *= 0.5);
            logits[2] += 0.8;
            logits[7] = f32::NEG_INFINITY;
            survey.take(&logits);
            (logits, survey)
        });
        Self {
            after: after.collect(),
            scratch: SamplerScratch::new(),
        }
    }
}

impl Proposer for Other {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        for ask in asks {
            while ask.wanted() > 0 {
                let last = ask.context().last().copied().unwrap_or(0);
                let (logits, survey) = &self.after[last as usize];
                ask.pick(logits, survey, &mut self.scratch)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, _: SequenceId) {}
}

/// A grammar of any length in which two of the eight tokens may not follow each.
#[derive(Clone, Default)]
struct Steps(Vec<TokenId>);

fn may_follow(last: Option<TokenId>, token: TokenId) -> bool {
    let far = last.map(|last| (token + 16 - last) % 8);
    SAID.contains(&token) && far != Some(3) && far != Some(6)
}

impl GrammarCompiler for Steps {
    fn compile(&self, _: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Grammar for Steps {
    fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError> {
        Ok(Box::new(self.clone()))
    }
}

impl GrammarMatcher for Steps {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        mask.reset(mask.vocab_size());
        let last = self.0.last().copied();
        SAID.filter(|token| may_follow(last, *token))
            .for_each(|token| mask.allow(token));
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if !may_follow(self.0.last().copied(), token) {
            return Err(GrammarError::Broken(format!("{token} after {:?}", self.0)));
        }
        self.0.push(token);
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarError> {
        self.0.truncate(self.0.len() - tokens);
        Ok(())
    }

    fn valid_prefix(&mut self, tokens: &[TokenId]) -> Result<usize, GrammarError> {
        let mut last = self.0.last().copied();
        let valid = tokens.iter().take_while(|token| {
            let before = last.replace(**token);
            may_follow(before, **token)
        });
        Ok(valid.count())
    }

    fn forced(&mut self, _: &mut Vec<TokenId>) -> Result<(), GrammarError> {
        Ok(())
    }

    fn is_complete(&self) -> bool {
        false
    }
}

/// How tokens are picked, and whether a grammar is followed.
#[derive(Clone, Copy, Debug)]
struct Setting {
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: Option<usize>,
    grammar: bool,
}

const PLAIN: Setting = Setting {
    temperature: 1.0,
    top_p: 1.0,
    min_p: 0.0,
    top_k: None,
    grammar: false,
};

fn engine(verification: Verification) -> Engine {
    let kv = PagedKv::builder()
        .blocks(64 * 40)
        .block_size(16)
        .prefix_caching(false)
        .root(IdentityRoot::new(1, "none", 16));
    let scheduler = ContinuousScheduler::builder().max_num_seqs(64);
    let speculation = Speculation::new(Other::new())
        .depth(FixedDepth(3))
        .verification(verification);
    Engine::builder(Chain::new())
        .kv(kv.build().unwrap())
        .scheduler(scheduler.build().unwrap())
        .grammars(Arc::new(Steps::default()))
        .speculative(speculation)
        .build()
        .unwrap()
}

fn said(engine: &Engine, setting: Setting, seeds: u64, speculative: bool) -> Vec<Vec<TokenId>> {
    let streams: Vec<_> = (0..SEQUENCES as u64)
        .map(|at| {
            let mut request = Request::tokens(vec![SAID.start + at as TokenId % 8])
                .max_tokens(LENGTH)
                .temperature(setting.temperature)
                .top_p(setting.top_p)
                .min_p(setting.min_p)
                .seed(seeds + at)
                .speculative(speculative);
            request.sampling.top_k = setting.top_k;
            if setting.grammar {
                request = request.regex("steps");
            }
            engine.generate(request)
        })
        .collect();
    let ids = |stream: EventStream| stream.wait().unwrap().ids().to_vec();
    streams.into_iter().map(ids).collect()
}

/// How often each token followed each.
type Counts = [[f64; TOKENS]; TOKENS];

fn counts(said: &[Vec<TokenId>]) -> Counts {
    let mut counts = [[0.0; TOKENS]; TOKENS];
    for pair in said.iter().flat_map(|ids| ids.windows(2)) {
        counts[pair[0] as usize][pair[1] as usize] += 1.0;
    }
    counts
}

/// The target's distribution after `last`, computed the plain way.
fn exact(last: TokenId, setting: Setting) -> [f64; TOKENS] {
    let mut logits = [0.0; TOKENS];
    chain_logits(last, &mut logits);
    let weights = logits.iter().zip(0..).map(|(logit, token)| {
        let may = !setting.grammar || may_follow(Some(last), token);
        match may {
            true => (f64::from(*logit) / f64::from(setting.temperature)).exp(),
            false => 0.0,
        }
    });
    let mut ranked: Vec<(usize, f64)> = weights.enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    if let Some(k) = setting.top_k {
        ranked.truncate(k);
    }
    let best = ranked[0].1;
    ranked.retain(|(_, weight)| *weight >= f64::from(setting.min_p) * best && *weight > 0.0);
    let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
    let mut mass = 0.0;
    ranked.retain(|(_, weight)| {
        let before = mass;
        mass += weight / total;
        before < f64::from(setting.top_p) - 1e-9
    });
    let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
    let mut out = [0.0; TOKENS];
    for (token, weight) in ranked {
        out[token] = weight / total;
    }
    out
}

/// A chi-square as a normal deviate, by Wilson and Hilferty: p is above 0.01 below 2.326.
fn deviate(chi: f64, freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    ((chi / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

const P_001: f64 = 2.326;

/// Of counts against what was computed. What cannot come must not have.
fn against_exact(counts: &Counts, setting: Setting) -> f64 {
    let (mut chi, mut freedom) = (0.0, 0.0);
    for last in SAID {
        let seen = &counts[last as usize];
        let total: f64 = seen.iter().sum();
        let expected = exact(last, setting);
        for (token, share) in expected.iter().enumerate() {
            if *share == 0.0 {
                assert_eq!(seen[token], 0.0, "{setting:?}: {token} after {last}");
                continue;
            }
            chi += (seen[token] - total * share).powi(2) / (total * share);
            freedom += 1.0;
        }
        freedom -= 1.0;
    }
    deviate(chi, freedom)
}

/// Of two counts against each other: whether one distribution can have given both.
fn against_each_other(a: &Counts, b: &Counts) -> f64 {
    let (mut chi, mut freedom) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let totals: (f64, f64) = (a.iter().sum(), b.iter().sum());
        if totals.0 + totals.1 == 0.0 {
            continue;
        }
        let (more, less) = ((totals.1 / totals.0).sqrt(), (totals.0 / totals.1).sqrt());
        for (a, b) in a.iter().zip(b).filter(|(a, b)| *a + *b > 0.0) {
            chi += (more * a - less * b).powi(2) / (a + b);
            freedom += 1.0;
        }
        freedom -= 1.0;
    }
    deviate(chi, freedom)
}

/// 200,000 tokens of rejection sampling against as many without drafts, and against what they are
/// drawn from.
fn rejection_is_lossless(setting: Setting) {
    let engine = engine(Verification::Rejection);
    let drafted = said(&engine, setting, 0, true);
    let stats = engine.stats();
    let share = stats.spec_accepted_tokens as f64 / stats.spec_draft_tokens as f64;
    assert!((0.2..0.95).contains(&share), "{setting:?}: {share}");
    let plain = said(&engine, setting, 1 << 32, false);
    assert_eq!(engine.stats().spec_drafts, stats.spec_drafts);
    drained(&engine);
    let (drafted, plain) = (counts(&drafted), counts(&plain));
    for counts in [&drafted, &plain] {
        let tokens: f64 = counts.iter().flatten().sum();
        assert_eq!(tokens, 200_000.0);
    }
    let deviates = [
        against_each_other(&drafted, &plain),
        against_exact(&drafted, setting),
        against_exact(&plain, setting),
    ];
    assert!(
        deviates.iter().all(|z| *z < P_001),
        "{setting:?}: {deviates:?}"
    );
    // The same test tells a temperature that is 5 % off.
    let off = Setting {
        temperature: setting.temperature * 1.05,
        ..setting
    };
    assert!(against_exact(&drafted, off) > 2.0 * P_001, "{setting:?}");
}

#[test]
fn rejection_keeps_the_distribution() {
    rejection_is_lossless(PLAIN);
}

#[test]
fn rejection_keeps_the_distribution_of_a_top_p() {
    rejection_is_lossless(Setting {
        temperature: 0.7,
        top_p: 0.9,
        ..PLAIN
    });
}

#[test]
fn rejection_keeps_the_distribution_of_a_min_p() {
    rejection_is_lossless(Setting {
        temperature: 1.3,
        min_p: 0.05,
        ..PLAIN
    });
}

#[test]
fn rejection_keeps_the_distribution_of_all_filters_together() {
    rejection_is_lossless(Setting {
        temperature: 1.1,
        top_p: 0.95,
        min_p: 0.02,
        top_k: Some(6),
        ..PLAIN
    });
}

/// The drafts know nothing of the grammar: one that may not follow was drawn all the same.
#[test]
fn rejection_keeps_the_distribution_under_a_grammar() {
    rejection_is_lossless(Setting {
        grammar: true,
        ..PLAIN
    });
}

/// Coupled, the 200,000 tokens are the same ones.
#[test]
fn coupled_verification_gives_the_very_tokens() {
    let engine = engine(Verification::Coupled);
    for setting in [
        Setting {
            temperature: 0.8,
            top_p: 0.9,
            min_p: 0.02,
            ..PLAIN
        },
        Setting {
            grammar: true,
            ..PLAIN
        },
    ] {
        let drafted = said(&engine, setting, 5, true);
        assert!(engine.stats().spec_accepted_tokens > 100_000);
        assert_eq!(drafted, said(&engine, setting, 5, false), "{setting:?}");
        let z = against_exact(&counts(&drafted), setting);
        assert!(z < P_001, "{setting:?}: {z}");
    }
    drained(&engine);
}
