//! Compiled grammars, kept for the next request that has the same constraint.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::contract::grammar::{Constraint, Grammar, GrammarCompiler, GrammarError};
use crate::error::{Error, panic_message};

/// Constraints remembered, unless said otherwise.
pub(super) const DEFAULT_KEPT: usize = 64;

/// What became of a constraint: a refusal, too, is not worked out twice.
type Compiled = Result<Arc<dyn Grammar>, GrammarError>;

/// A compiler, and the least recently used of what it made forgotten first.
pub(super) struct Grammars {
    compiler: Arc<dyn GrammarCompiler>,
    kept: Mutex<Kept>,
    most: usize,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<Constraint, (u64, Compiled)>,
    /// Counts uses.
    now: u64,
}

impl Kept {
    fn get(&mut self, constraint: &Constraint) -> Option<Compiled> {
        let (used, compiled) = self.entries.get_mut(constraint)?;
        self.now += 1;
        *used = self.now;
        Some(compiled.clone())
    }

    fn insert(&mut self, constraint: Constraint, compiled: Compiled, most: usize) {
        if most == 0 {
            return;
        }
        self.now += 1;
        self.entries.insert(constraint, (self.now, compiled));
        if self.entries.len() > most {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(constraint, _)| constraint.clone()) {
                self.entries.remove(&oldest);
            }
        }
    }
}

impl Grammars {
    pub(super) fn new(compiler: Arc<dyn GrammarCompiler>, most: usize) -> Self {
        Self {
            compiler,
            kept: Mutex::default(),
            most,
        }
    }

    /// Whether [`compile`](Self::compile) would only look it up.
    pub(super) fn knows(&self, constraint: &Constraint) -> bool {
        self.kept.lock().entries.contains_key(constraint)
    }

    /// The grammar of a constraint. Takes as long as the compiler does, unless it is known.
    pub(super) fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, Error> {
        if let Some(compiled) = self.kept.lock().get(constraint) {
            return Ok(compiled?);
        }
        let compiled = guarded(|| self.compiler.compile(constraint))?;
        let mut kept = self.kept.lock();
        kept.insert(constraint.clone(), compiled.clone(), self.most);
        Ok(compiled?)
    }
}

/// Runs a grammar's code; its panic is the request's alone.
pub(super) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Error::Panicked {
        part: "grammar",
        message: panic_message(&*panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::grammar::GrammarMatcher;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct None;

    impl Grammar for None {
        fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError> {
            Err(GrammarError::Broken("none".into()))
        }
    }

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl GrammarCompiler for Counting {
        fn compile(&self, constraint: &Constraint) -> Compiled {
            self.0.fetch_add(1, Ordering::Relaxed);
            match constraint {
                Constraint::Regex(text) if text == "panic" => panic!("as asked"),
                Constraint::Regex(text) if text.starts_with('(') => {
                    Err(GrammarError::Compile(text.clone()))
                }
                _ => Ok(Arc::new(None)),
            }
        }
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let compiler = Arc::new(Counting::default());
        let grammars = Grammars::new(compiler.clone(), 2);
        let compile = |text: &str| {
            grammars
                .compile(&Constraint::Regex(text.into()))
                .map(|_| ())
        };
        let compiled = || compiler.0.load(Ordering::Relaxed);
        for text in ["a", "b", "a", "a", "b"] {
            assert_eq!(compile(text), Ok(()));
        }
        assert_eq!(compiled(), 2);
        // "a" is the older one.
        assert_eq!(compile("c"), Ok(()));
        assert_eq!((compile("b"), compiled()), (Ok(()), 3));
        assert_eq!((compile("a"), compiled()), (Ok(()), 4));
        assert!(!grammars.knows(&Constraint::Regex("c".into())));
        // The same text in another role is another constraint.
        assert!(!grammars.knows(&Constraint::Lark("a".into())));
        assert!(grammars.knows(&Constraint::Regex("a".into())));
    }

    #[test]
    fn refusals_are_kept_and_panics_are_not() {
        let compiler = Arc::new(Counting::default());
        let grammars = Grammars::new(compiler.clone(), 2);
        let compile = |text: &str| {
            grammars
                .compile(&Constraint::Regex(text.into()))
                .map(|_| ())
        };
        let refused = Err(Error::Grammar(GrammarError::Compile("(".into())));
        assert_eq!([compile("("), compile("(")], [refused.clone(), refused]);
        assert_eq!(compiler.0.load(Ordering::Relaxed), 1);
        for _ in 0..2 {
            assert!(matches!(
                compile("panic"),
                Err(Error::Panicked {
                    part: "grammar",
                    ..
                })
            ));
        }
        assert_eq!(compiler.0.load(Ordering::Relaxed), 3);
        let none = Grammars::new(compiler.clone(), 0);
        for _ in 0..2 {
            none.compile(&Constraint::Regex("a".into()))
                .map(|_| ())
                .unwrap();
        }
        assert_eq!(compiler.0.load(Ordering::Relaxed), 5);
    }
}
