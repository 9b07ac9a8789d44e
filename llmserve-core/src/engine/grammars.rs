//! Compiled grammars, kept for the next request that has the same constraint.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::contract::grammar::{Constraint, Grammar, GrammarCompiler, GrammarError};
use crate::error::{Error, panic_message};

/// Constraints remembered, unless said otherwise; as many refused ones.
pub(super) const DEFAULT_KEPT: usize = 64;

/// A compiler, and what it made of constraints: a refusal, too, is not worked out twice.
pub(super) struct Grammars {
    compiler: Arc<dyn GrammarCompiler>,
    kept: Mutex<Both>,
    most: usize,
}

/// Grammars, and why there are none.
#[derive(Default)]
struct Both {
    made: Kept<Arc<dyn Grammar>>,
    refused: Kept<GrammarError>,
}

/// The least recently used of whoever has the most here is forgotten first: where everybody is one
/// tenant, the least recently used; and no tenant drives out another's.
struct Kept<T> {
    entries: HashMap<Constraint, Entry<T>>,
    /// Counts uses.
    now: u64,
}

struct Entry<T> {
    value: T,
    /// Who had it worked out first.
    tenant: Option<String>,
    used: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            now: 0,
        }
    }
}

impl<T: Clone> Kept<T> {
    fn get(&mut self, constraint: &Constraint) -> Option<T> {
        let entry = self.entries.get_mut(constraint)?;
        self.now += 1;
        entry.used = self.now;
        Some(entry.value.clone())
    }

    fn insert(&mut self, constraint: &Constraint, tenant: Option<&str>, value: T, most: usize) {
        if most == 0 {
            return;
        }
        self.now += 1;
        let entry = Entry {
            value,
            tenant: tenant.map(str::to_owned),
            used: self.now,
        };
        self.entries.insert(constraint.clone(), entry);
        if self.entries.len() > most {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        let mut counts: HashMap<&Option<String>, usize> = HashMap::new();
        for entry in self.entries.values() {
            *counts.entry(&entry.tenant).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let of_most = self
            .entries
            .iter()
            .filter(|(_, entry)| counts.get(&entry.tenant) == Some(&most));
        let oldest = of_most.min_by_key(|(_, entry)| entry.used);
        if let Some(oldest) = oldest.map(|(constraint, _)| constraint.clone()) {
            self.entries.remove(&oldest);
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

    /// What is known of a constraint: takes no time.
    pub(super) fn known(&self, constraint: &Constraint) -> Option<Result<Arc<dyn Grammar>, Error>> {
        let Both { made, refused } = &mut *self.kept.lock();
        let made = made.get(constraint).map(Ok);
        made.or_else(|| Some(Err(refused.get(constraint)?.into())))
    }

    /// The grammar of a tenant's constraint. Takes as long as the compiler does, unless it is known.
    pub(super) fn compile(
        &self,
        constraint: &Constraint,
        tenant: Option<&str>,
    ) -> Result<Arc<dyn Grammar>, Error> {
        if let Some(known) = self.known(constraint) {
            return known;
        }
        let compiled = guarded(|| self.compiler.compile(constraint))?;
        let Both { made, refused } = &mut *self.kept.lock();
        match &compiled {
            Ok(grammar) => made.insert(constraint, tenant, grammar.clone(), self.most),
            Err(error) => refused.insert(constraint, tenant, error.clone(), self.most),
        }
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
        fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
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

    struct Rig {
        compiler: Arc<Counting>,
        grammars: Grammars,
    }

    impl Rig {
        fn new(most: usize) -> Self {
            let compiler = Arc::new(Counting::default());
            let grammars = Grammars::new(compiler.clone(), most);
            Self { compiler, grammars }
        }

        fn compile_for(&self, tenant: &str, text: &str) -> Result<(), Error> {
            let constraint = Constraint::Regex(text.into());
            let compiled = self.grammars.compile(&constraint, Some(tenant));
            compiled.map(|_| ())
        }

        fn compile(&self, text: &str) -> Result<(), Error> {
            self.compile_for("", text)
        }

        fn compiled(&self) -> usize {
            self.compiler.0.load(Ordering::Relaxed)
        }

        fn knows(&self, text: &str) -> bool {
            let constraint = Constraint::Regex(text.into());
            self.grammars.known(&constraint).is_some()
        }
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let rig = Rig::new(2);
        for text in ["a", "b", "a", "a", "b"] {
            assert_eq!(rig.compile(text), Ok(()));
        }
        assert_eq!(rig.compiled(), 2);
        // "a" is the older one.
        assert_eq!(rig.compile("c"), Ok(()));
        assert_eq!((rig.compile("b"), rig.compiled()), (Ok(()), 3));
        assert_eq!((rig.compile("a"), rig.compiled()), (Ok(()), 4));
        assert!(!rig.knows("c"));
        // The same text in another role is another constraint.
        let other = rig.grammars.known(&Constraint::Lark("a".into()));
        assert!(other.is_none() && rig.knows("a"));
    }

    /// A tenant that has many forms, or many that are wrong, drives out its own.
    #[test]
    fn a_flood_of_one_tenant_leaves_the_others_theirs() {
        let rig = Rig::new(4);
        for text in ["a", "b"] {
            assert_eq!(rig.compile_for("quiet", text), Ok(()));
        }
        assert!(rig.compile_for("quiet", "(a").is_err());
        for number in 0..100 {
            assert_eq!(rig.compile_for("loud", &format!("x{number}")), Ok(()));
            assert!(rig.compile_for("loud", &format!("(x{number}")).is_err());
        }
        for text in ["a", "b", "(a", "x99", "x98", "(x99", "(x98", "(x97"] {
            assert!(rig.knows(text), "{text}");
        }
        assert!(!rig.knows("x97") && !rig.knows("(x96"));
        // One that comes new has its place as well.
        for text in ["c", "d"] {
            assert_eq!(rig.compile_for("third", text), Ok(()));
        }
        // "a" was the older one of those with two, then "x99" was.
        let known = ["a", "b", "c", "d", "x98", "x99"].map(|text| rig.knows(text));
        assert_eq!(known, [false, true, true, true, true, false]);
    }

    #[test]
    fn refusals_are_kept_apart_and_panics_are_not_kept() {
        let rig = Rig::new(2);
        let refused = Err(Error::Grammar(GrammarError::Compile("(".into())));
        assert_eq!(rig.compile("a"), Ok(()));
        assert_eq!(
            [rig.compile("("), rig.compile("(")],
            [refused.clone(), refused]
        );
        assert_eq!(rig.compiled(), 2);
        for text in ["(1", "(2", "(3", "panic", "panic"] {
            assert!(rig.compile(text).is_err());
        }
        assert!(matches!(
            rig.compile("panic"),
            Err(Error::Panicked {
                part: "grammar",
                ..
            })
        ));
        assert_eq!(rig.compiled(), 8);
        assert_eq!((rig.compile("a"), rig.compiled()), (Ok(()), 8));
        let none = Rig::new(0);
        for _ in 0..2 {
            assert_eq!(none.compile("a"), Ok(()));
            assert!(none.compile("(").is_err());
        }
        assert_eq!(none.compiled(), 4);
    }
}
