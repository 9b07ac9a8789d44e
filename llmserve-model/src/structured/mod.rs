//! Answers of a given form, through the `llguidance` library.
//!
//! ```text
//!  Constraint ─► TopLevelGrammar ─► Matcher, pristine ── deep_clone ──► Matcher of one choice
//!               bounded thread     shared by requests                   mask, accept, forced
//! ```
//!
//! The library knows texts as bytes; `tokens` tells it what bytes each token of the vocabulary
//! stands for, and how the model's own tokenizer would write a text that is forced.

mod form;
mod matcher;
#[cfg(test)]
mod tests;
mod tokens;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use llmserve_core::error::panic_message;
use llmserve_core::{Constraint, Grammar, GrammarCompiler, GrammarError, GrammarMatcher, TokenId};
use parking_lot::Mutex;

use crate::tokenizer::HfTokenizer;
use matcher::Following;

/// Stack of a thread that compiles: nesting is bounded by the library, a level's frames are large.
const STACK: usize = 64 << 20;

/// Compiles constraints for a model and its tokenizer.
///
/// What the library needs of the tokenizer is worked out for the first constraint, a few tenths of
/// a second for a large vocabulary. Each constraint is compiled on a thread of its own, within
/// limits on the size of its grammar and on the work for it; those that a matcher meets later end
/// its request.
///
/// ```
/// use llmserve_core::{Constraint, GrammarCompiler, TokenMask};
/// use llmserve_model::{LlguidanceCompiler, ModelFolder};
/// # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/bard-2m"));
/// let folder = ModelFolder::open(path)?;
/// let (vocab_size, eos) = (folder.config.vocab_size, folder.config.eos.clone());
/// let tokenizer = std::sync::Arc::new(folder.tokenizer.ok_or("no tokenizer")?);
///
/// let compiler = LlguidanceCompiler::new(tokenizer.clone(), vocab_size, &eos);
/// let choice = Constraint::Choice(vec!["yes".into(), "no".into()]);
/// let mut matcher = compiler.compile(&choice)?.matcher()?;
/// let mut mask = TokenMask::none(vocab_size);
/// matcher.mask(&mut mask)?;
/// assert!(mask.allows(tokenizer.token_id("n").ok_or("no n")?));
/// assert!(!mask.allows(tokenizer.token_id("o").ok_or("no o")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LlguidanceCompiler {
    tokenizer: Arc<HfTokenizer>,
    vocab_size: usize,
    eos: Arc<[TokenId]>,
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
}

impl LlguidanceCompiler {
    /// A compiler for a model with rows of `vocab_size` logits whose answers `eos` end.
    pub fn new(tokenizer: Arc<HfTokenizer>, vocab_size: usize, eos: &[TokenId]) -> Self {
        Self {
            tokenizer,
            vocab_size,
            eos: eos.into(),
            factory: OnceLock::new(),
        }
    }

    fn factory(&self) -> Result<&ParserFactory, GrammarError> {
        let made = self.factory.get_or_init(|| {
            let made = catch_unwind(AssertUnwindSafe(|| self.make_factory()));
            made.unwrap_or_else(|panic| Err(unsupported(panic_message(&*panic))))
        });
        made.as_ref().map_err(Clone::clone)
    }

    fn make_factory(&self) -> Result<ParserFactory, GrammarError> {
        let env = tokens::environment(&self.tokenizer, self.vocab_size, &self.eos)
            .map_err(unsupported)?;
        let slices = SlicedBiasComputer::general_slices();
        // Forced tokens are taken from masks and asked for; nothing is taken back by the library.
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|error| unsupported(error.to_string()))?;
        factory.quiet();
        // Errors go to whoever asked, and hold no text of the answer.
        factory.limits_mut().verbose_errors = false;
        let ParserLimits {
            initial_lexer_fuel,
            max_lexer_states,
            max_grammar_size,
            ..
        } = factory.limits_mut();
        *initial_lexer_fuel = form::LEXER_FUEL;
        *max_lexer_states = form::LEXER_STATES;
        *max_grammar_size = form::GRAMMAR_SIZE;
        Ok(factory)
    }

    fn build(&self, constraint: &Constraint) -> Result<Compiled, GrammarError> {
        let factory = self.factory()?;
        let grammar = form::grammar(constraint)?;
        let failed = |error: String| GrammarError::Compile(error);
        let parser = factory.create_parser(grammar);
        let mut matcher = Matcher::new(Ok(parser.map_err(|error| failed(error.to_string()))?));
        // What compiles may still be a dead end, and what fails at once shall not be kept.
        let mask = matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| failed(error.to_string()))?;
        let ends = |token: u32| self.eos.contains(&token);
        if mask.is_zero() || mask.iter().all(ends) {
            return Err(failed(
                "nothing but the empty text has this form".to_owned(),
            ));
        }
        // Its own word for it comes only when it is asked to.
        let mut probe = matcher.deep_clone();
        let first = mask.iter().find(|token| !ends(*token));
        let reversible = first
            .is_some_and(|token| probe.consume_token(token).is_ok() && probe.rollback(1).is_ok());
        Ok(Compiled {
            pristine: Mutex::new(matcher),
            eos: self.eos.clone(),
            reversible,
        })
    }
}

impl GrammarCompiler for LlguidanceCompiler {
    fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
        let built = thread::scope(|scope| {
            let builder = thread::Builder::new().name("llmserve-grammar".into());
            let thread = builder
                .stack_size(STACK)
                .spawn_scoped(scope, || self.build(constraint));
            let thread = thread.map_err(|error| GrammarError::Broken(error.to_string()))?;
            thread.join().unwrap_or_else(|panic| {
                Err(GrammarError::Compile(format!(
                    "the library panicked: {}",
                    panic_message(&*panic)
                )))
            })
        })?;
        Ok(Arc::new(built))
    }
}

impl std::fmt::Debug for LlguidanceCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlguidanceCompiler")
            .field("vocab_size", &self.vocab_size)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// A matcher at the beginning, from which those of requests are copied.
struct Compiled {
    pristine: Mutex<Matcher>,
    eos: Arc<[TokenId]>,
    reversible: bool,
}

impl Grammar for Compiled {
    fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError> {
        let matcher = self.pristine.lock().deep_clone();
        Ok(Box::new(Following::new(
            matcher,
            self.eos.clone(),
            self.reversible,
        )))
    }
}

fn unsupported(reason: String) -> GrammarError {
    GrammarError::Unsupported(reason)
}
