//! A grammar of letters.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmserve::{
    Constraint, Grammar, GrammarCompiler, GrammarError, GrammarMatcher, TokenId, TokenMask,
};
use parking_lot::Mutex;

use super::support::EOS;

/// Texts of letters, one of which must come: the first letters of several may be the same. A
/// regular expression is a way to go wrong, or `weary`: eight letters `a` or `b`, and a matcher that
/// has had enough of 12 of them, whether they were taken back or not.
#[derive(Default)]
pub(crate) struct Texts {
    pub(crate) compiled: AtomicUsize,
    /// Threads that computed masks.
    pub(crate) threads: Arc<Mutex<Vec<String>>>,
    /// Matchers made.
    pub(crate) made: Arc<AtomicUsize>,
}

struct Tree {
    texts: Vec<Vec<TokenId>>,
    fault: String,
    threads: Arc<Mutex<Vec<String>>>,
    made: Arc<AtomicUsize>,
}

struct Walk {
    tree: Arc<Tree>,
    tokens: Vec<TokenId>,
    /// Letters it was told, for those that grow weary.
    work: usize,
}

pub(crate) fn letters(text: &str) -> Vec<TokenId> {
    let letter = |byte| TokenId::from(byte - b'a') + 2;
    text.bytes().map(letter).collect()
}

pub(crate) fn text(tokens: &[TokenId]) -> String {
    let letters = tokens.iter().filter(|token| **token != EOS);
    letters
        .map(|token| char::from(b'a' + *token as u8 - 2))
        .collect()
}

impl GrammarCompiler for Texts {
    fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, GrammarError> {
        self.compiled.fetch_add(1, Ordering::SeqCst);
        let (texts, fault) = match constraint {
            Constraint::Choice(texts) => (texts.clone(), String::new()),
            Constraint::Regex(fault) if fault == "weary" => {
                let letter = |number: u32, at: u32| if number >> at & 1 == 1 { 'b' } else { 'a' };
                let text = |number| (0..8).map(|at| letter(number, at)).collect();
                ((0..256).map(text).collect(), fault.clone())
            }
            Constraint::Regex(fault) => (vec!["abcdef".into(), "abdefg".into()], fault.clone()),
            other => return Err(GrammarError::Compile(format!("{other:?}"))),
        };
        match fault.as_str() {
            "compile" => return Err(GrammarError::Compile("as asked".into())),
            "compile panics" => panic!("as asked"),
            _ => {}
        }
        let texts = texts.iter().map(|text| letters(text)).collect();
        let (threads, made) = (self.threads.clone(), self.made.clone());
        Ok(Arc::new(
            Arc::new(Tree {
                texts,
                fault,
                threads,
                made,
            })
            .handle(),
        ))
    }
}

struct Handle(Arc<Tree>);

impl Tree {
    fn handle(self: Arc<Self>) -> Handle {
        Handle(self)
    }
}

impl Grammar for Handle {
    fn matcher(&self) -> Result<Box<dyn GrammarMatcher>, GrammarError> {
        if self.0.fault == "matcher" {
            return Err(GrammarError::TooComplex("as asked".into()));
        }
        self.0.made.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Walk {
            tree: self.0.clone(),
            tokens: Vec::new(),
            work: 0,
        }))
    }
}

impl Walk {
    fn labour(&mut self, letters: usize) -> Result<(), GrammarError> {
        self.work += letters;
        match self.tree.fault.as_str() {
            "weary" if self.work > 12 => Err(GrammarError::TooComplex("enough".into())),
            _ => Ok(()),
        }
    }

    fn next(&self) -> Vec<TokenId> {
        let at = self.tokens.len();
        let texts = self
            .tree
            .texts
            .iter()
            .filter(|text| text.starts_with(&self.tokens));
        let mut next: Vec<_> = texts.filter_map(|text| text.get(at).copied()).collect();
        next.sort_unstable();
        next.dedup();
        next
    }

    fn may_end(&self) -> bool {
        self.tree.texts.contains(&self.tokens)
    }
}

impl GrammarMatcher for Walk {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.tree.threads.lock().push(name);
        match (self.tree.fault.as_str(), self.tokens.len()) {
            ("mask", 3) => return Err(GrammarError::Broken("as asked".into())),
            ("mask panics", 3) => panic!("as asked"),
            ("nothing", 3) => return Ok(()),
            _ => {}
        }
        self.labour(0)?;
        mask.reset(mask.vocab_size());
        self.next().iter().for_each(|token| mask.allow(*token));
        if self.may_end() {
            mask.allow(EOS);
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if self.tree.fault == "accept panics" && self.tokens.len() == 3 {
            panic!("as asked");
        }
        self.labour(1)?;
        if !self.next().contains(&token) {
            return Err(GrammarError::Broken(format!(
                "{token} after {:?}",
                self.tokens
            )));
        }
        self.tokens.push(token);
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarError> {
        self.labour(0)?;
        self.tokens.truncate(self.tokens.len() - tokens);
        Ok(())
    }

    fn valid_prefix(&mut self, tokens: &[TokenId]) -> Result<usize, GrammarError> {
        self.labour(tokens.len())?;
        let mut ahead = Walk {
            tree: self.tree.clone(),
            tokens: self.tokens.clone(),
            work: 0,
        };
        let valid = tokens
            .iter()
            .take_while(|token| ahead.accept(**token).is_ok());
        Ok(valid.count())
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) -> Result<(), GrammarError> {
        if self.tree.fault == "forced panics" && self.tokens.len() == 3 {
            panic!("as asked");
        }
        self.labour(0)?;
        let mut ahead = Walk {
            tree: self.tree.clone(),
            tokens: self.tokens.clone(),
            work: 0,
        };
        while let ([only], false) = (ahead.next().as_slice(), ahead.may_end()) {
            let only = *only;
            out.push(only);
            ahead.tokens.push(only);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.may_end() && self.next().is_empty()
    }
}
