//! The matcher against its contract, with the tokenizer of the embedded model.

mod fallback;

use std::path::Path;
use std::sync::Arc;

use llmserve_core::{
    Constraint, GrammarCompiler, GrammarError, GrammarMatcher, TokenId, TokenMask, Tokenizer,
};

use super::LlguidanceCompiler;
use crate::tokenizer::HfTokenizer;

const EOS: TokenId = 1;

fn tokenizer() -> Arc<HfTokenizer> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/bard-2m");
    Arc::new(HfTokenizer::from_dir(Path::new(path)).unwrap().unwrap())
}

struct Rig {
    tokenizer: Arc<HfTokenizer>,
    compiler: LlguidanceCompiler,
    vocab_size: usize,
}

impl Rig {
    fn new() -> Self {
        Self::of(tokenizer())
    }

    fn of(tokenizer: Arc<HfTokenizer>) -> Self {
        let vocab_size = tokenizer.vocab_size();
        let compiler = LlguidanceCompiler::new(tokenizer.clone(), vocab_size, &[EOS]);
        Self {
            tokenizer,
            compiler,
            vocab_size,
        }
    }

    fn matcher(&self, constraint: &Constraint) -> Box<dyn GrammarMatcher> {
        self.compiler
            .compile(constraint)
            .unwrap()
            .matcher()
            .unwrap()
    }

    fn mask(&self, matcher: &mut dyn GrammarMatcher) -> TokenMask {
        let mut mask = TokenMask::none(self.vocab_size);
        matcher.mask(&mut mask).unwrap();
        mask
    }

    /// Walks at random until the end or `most` tokens; each step sees the matcher and the mask.
    fn walk(
        &self,
        matcher: &mut dyn GrammarMatcher,
        random: &mut Random,
        most: usize,
        mut each: impl FnMut(&[TokenId], &TokenMask),
    ) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        while tokens.len() < most && !matcher.is_complete() {
            let mask = self.mask(matcher);
            each(&tokens, &mask);
            let allowed: Vec<_> = mask.iter().collect();
            let token = allowed[random.below(allowed.len())];
            if token == EOS {
                break;
            }
            matcher.accept(token).unwrap();
            tokens.push(token);
        }
        tokens
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

fn schema(text: &str) -> Constraint {
    Constraint::JsonSchema(text.to_owned())
}

fn constraints() -> Vec<Constraint> {
    vec![
        schema(
            r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},
            "ages":{"type":"array","items":{"type":"integer","minimum":0,"maximum":150},
            "maxItems":3},"alive":{"type":"boolean"},"house":{"enum":["Montague","Capulet"]}},
            "required":["name","ages","alive","house"],"additionalProperties":false}"#,
        ),
        schema(
            r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{
            "left":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/tree"}]},"value":{"const":"the king"}},
            "required":["left","value"],"additionalProperties":false}}}"##,
        ),
        Constraint::Regex(r"(to be|not to be)(, or (to be|not to be)){0,3}[.!?]".to_owned()),
        Constraint::Regex(r"[\w\s]{3,20}é+☃".to_owned()),
        Constraint::Choice(
            ["HAMLET", "HAM", "ham.*let", "a\\b[c]^$|\"/\n", "☃"]
                .map(String::from)
                .into(),
        ),
        Constraint::Lark(
            "start: \"<\" start \">\" | /[a-c]{1,3}/ | \"=\" /[0-9]/ \"=\"".to_owned(),
        ),
    ]
}

/// All that a matcher says depends on the tokens alone: not on what was asked, tried and taken
/// back before.
#[test]
fn a_matcher_is_a_function_of_its_tokens() {
    [Rig::new(), fallback::rig()].iter().for_each(is_a_function);
}

fn is_a_function(rig: &Rig) {
    for (seed, constraint) in constraints().iter().enumerate() {
        let grammar = rig.compiler.compile(constraint).unwrap();
        for round in 0..6 {
            let mut random = Random(1 + seed as u64 * 100 + round);
            let mut plain = grammar.matcher().unwrap();
            let mut seen = Vec::new();
            let tokens = rig.walk(&mut *plain, &mut random, 60, |_, mask| {
                seen.push(mask.clone())
            });
            let ended = plain.is_complete();
            // The same again, with detours: of any length, onto the path or off it.
            let mut busy = grammar.matcher().unwrap();
            for (at, mask) in seen.iter().enumerate() {
                for _ in 0..random.below(3) {
                    let side = rig.walk(&mut *busy, &mut random, 1 + at % 7, |_, _| ());
                    if random.below(2) == 0 {
                        busy.forced(&mut Vec::new()).unwrap();
                    }
                    busy.rollback(side.len()).unwrap();
                    let ahead = &tokens[at..tokens.len().min(at + 5)];
                    assert_eq!(busy.valid_prefix(ahead).unwrap(), ahead.len());
                    for token in ahead {
                        busy.accept(*token).unwrap();
                    }
                    if random.below(2) == 0 && !busy.is_complete() {
                        rig.mask(&mut *busy);
                    }
                    busy.rollback(ahead.len()).unwrap();
                }
                assert_eq!(rig.mask(&mut *busy), *mask, "{constraint:?} after {at}");
                let mut forced = Vec::new();
                busy.forced(&mut forced).unwrap();
                match forced.first() {
                    Some(first) => assert_eq!(mask.iter().collect::<Vec<_>>(), [*first]),
                    None => assert!(mask.count() > 0),
                }
                if let Some(token) = tokens.get(at) {
                    busy.accept(*token).unwrap();
                }
            }
            assert_eq!(busy.is_complete(), ended, "{constraint:?}");
        }
    }
}

/// A run taken at once is the run taken token by token.
#[test]
fn forced_runs_are_what_masks_would_force() {
    [Rig::new(), fallback::rig()].iter().for_each(forces_alike);
}

fn forces_alike(rig: &Rig) {
    let mut longest = 0;
    for (seed, constraint) in constraints().iter().enumerate() {
        let grammar = rig.compiler.compile(constraint).unwrap();
        let mut random = Random(77 + seed as u64);
        let mut jumping = grammar.matcher().unwrap();
        let mut stepping = grammar.matcher().unwrap();
        for _ in 0..40 {
            let mut run = Vec::new();
            jumping.forced(&mut run).unwrap();
            longest = longest.max(run.len());
            for token in &run {
                let mask = rig.mask(&mut *stepping);
                assert_eq!(mask.iter().collect::<Vec<_>>(), [*token], "{constraint:?}");
                jumping.accept(*token).unwrap();
                stepping.accept(*token).unwrap();
                assert_ne!(*token, EOS);
            }
            assert_eq!(jumping.is_complete(), stepping.is_complete());
            let mask = rig.mask(&mut *jumping);
            assert_eq!(mask, rig.mask(&mut *stepping));
            let allowed: Vec<_> = mask.iter().collect();
            let token = allowed[random.below(allowed.len())];
            if token == EOS {
                break;
            }
            jumping.accept(token).unwrap();
            stepping.accept(token).unwrap();
            if jumping.is_complete() {
                break;
            }
        }
    }
    assert!(longest >= 5, "no run worth a jump: {longest}");
}

/// Where the whole text is forced, the tokens are those its tokenizer writes it with; where a part
/// is, none that might merge with what follows is forced.
#[test]
fn forced_text_is_written_as_the_tokenizer_writes_it() {
    let rig = Rig::new();
    for text in [
        "HAMLET",
        "to be, or not to be",
        "{\"the king\": 1}",
        "é☃ \n the",
    ] {
        let mut matcher = rig.matcher(&Constraint::Choice(vec![text.to_owned()]));
        let mut tokens = Vec::new();
        matcher.forced(&mut tokens).unwrap();
        let written = rig.tokenizer.encode(text, false).unwrap();
        // The last token may be left to the mask, which has it alone.
        assert!(
            written.starts_with(&tokens),
            "{text}: {tokens:?}, {written:?}"
        );
        for token in &written {
            assert!(rig.mask(&mut *matcher).allows(*token), "{text}");
            matcher.accept(*token).unwrap();
        }
        assert!(matcher.is_complete(), "{text}");
        assert_eq!(rig.mask(&mut *matcher).iter().collect::<Vec<_>>(), [EOS]);
    }
    // "the" must come, and may be the beginning of a longer word with a token of its own.
    let written = |text: &str| rig.tokenizer.encode(text, false).unwrap();
    let (short, long) = (written(" the"), written(" they"));
    assert_eq!(
        (short.len(), long.len()),
        (1, 1),
        "this test needs tokens that merge"
    );
    let mut matcher = rig.matcher(&Constraint::Regex(" the[a-z]".to_owned()));
    let mut forced = Vec::new();
    matcher.forced(&mut forced).unwrap();
    assert!(forced.is_empty());
    assert!(rig.mask(&mut *matcher).allows(long[0]));
    matcher.accept(long[0]).unwrap();
    assert!(matcher.is_complete());
}

#[test]
fn drafts_are_cut_where_the_grammar_ends() {
    let rig = Rig::new();
    let mut matcher = rig.matcher(&Constraint::Regex("[0-9]{4}-[0-9]{2}".to_owned()));
    let written = |text: &str| rig.tokenizer.encode(text, false).unwrap();
    let cut = |matcher: &mut dyn GrammarMatcher, text: &str| {
        let tokens = written(text);
        let valid = matcher.valid_prefix(&tokens).unwrap();
        rig.tokenizer.decode(&tokens[..valid], false).unwrap()
    };
    assert_eq!(cut(&mut *matcher, "1603-04"), "1603-04");
    assert_eq!(cut(&mut *matcher, "a"), "");
    assert!("1603".starts_with(&cut(&mut *matcher, "1603 04")));
    assert!("1603-04".starts_with(&cut(&mut *matcher, "1603-045")));
    assert_eq!(matcher.valid_prefix(&[EOS]).unwrap(), 0);
    assert_eq!(matcher.valid_prefix(&[]).unwrap(), 0);
    // It changed nothing.
    for token in written("1603-04") {
        matcher.accept(token).unwrap();
    }
    assert!(matcher.is_complete());
    assert_eq!(matcher.valid_prefix(&written("1")).unwrap(), 0);
}

#[test]
fn misuse_is_an_error() {
    let rig = Rig::new();
    let constraint = Constraint::Regex("a+".to_owned());
    let token = |text| rig.tokenizer.token_id(text).unwrap();
    for misuse in [
        |m: &mut dyn GrammarMatcher, _| m.rollback(1),
        |m: &mut dyn GrammarMatcher, b| m.accept(b),
        |m: &mut dyn GrammarMatcher, _| m.accept(EOS),
        |m: &mut dyn GrammarMatcher, _| m.accept(TokenId::MAX),
    ] {
        let mut matcher = rig.matcher(&constraint);
        let done = misuse(&mut *matcher, token("b"));
        assert!(matches!(done, Err(GrammarError::Broken(_))), "{done:?}");
    }
}

#[test]
fn what_cannot_be_compiled_is_refused_with_the_reason() {
    let rig = Rig::new();
    let many: Vec<String> = (0..10_001).map(|i| i.to_string()).collect();
    let deep =
        |open: &str, close: &str, n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
    for constraint in [
        schema("{"),
        schema("7"),
        schema("false"),
        schema(r#"{"type":"nonsense"}"#),
        schema(r##"{"$ref":"#/$defs/none"}"##),
        schema(r#"{"type":"object","properties":{"a":false},"required":["a"]}"#),
        schema(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))),
        schema(&format!(
            "{}{{}}{}",
            r#"{"items":"#.repeat(100_000),
            "}".repeat(100_000)
        )),
        Constraint::Regex("(".to_owned()),
        Constraint::Regex(String::new()),
        Constraint::Regex("^$".to_owned()),
        Constraint::Regex("(?=a)".to_owned()),
        Constraint::Regex(deep("(", ")", 5_000)),
        Constraint::Regex("a".repeat(40_000)),
        Constraint::Choice(many),
        Constraint::Choice(vec!["a".repeat(300 << 10)]),
        Constraint::Lark("no start".to_owned()),
        Constraint::Lark(format!("start: {}", deep("(", ")", 100_000))),
        Constraint::Lark(format!("start: /{}/", deep("(", ")", 100_000))),
        Constraint::Lark("start: start".to_owned()),
    ] {
        let text = format!("{constraint:?}");
        let compiled = rig.compiler.compile(&constraint).map(|_| ());
        let text = &text[..text.len().min(60)];
        assert!(
            matches!(
                compiled,
                Err(GrammarError::Compile(_) | GrammarError::TooComplex(_))
            ),
            "{text}: {compiled:?}"
        );
    }
}

/// Grammars made to take for ever: refused, or served within the limits.
#[test]
fn hostile_grammars_end() {
    let rig = Rig::new();
    let nested = (0..12).fold("a".to_owned(), |inner, _| format!("({inner}|{inner}b)*"));
    for constraint in [
        Constraint::Regex("((a{1,100}){1,100}){1,100}".to_owned()),
        Constraint::Regex("(a|aa|aaa)*(a|b)*[ab]{500}c".to_owned()),
        Constraint::Regex("[ab]*a[ab]{40}".to_owned()),
        Constraint::Regex(nested),
        Constraint::Lark("start: start start | \"a\" | \"\"".to_owned()),
        Constraint::Lark("start: x x x x x x x x\nx: y* y* y* y*\ny: \"a\"* \"a\"?".to_owned()),
        schema(r#"{"type":"array","minItems":1000000}"#),
        schema(r#"{"type":"string","maxLength":100000000,"minLength":99999999}"#),
    ] {
        let Ok(grammar) = rig.compiler.compile(&constraint) else {
            continue;
        };
        let mut matcher = grammar.matcher().unwrap();
        let mut mask = TokenMask::none(rig.vocab_size);
        let mut random = Random(5);
        for _ in 0..30 {
            // A limit met on the way is an error, once and for all.
            if matcher.mask(&mut mask).is_err() {
                assert!(matcher.mask(&mut mask).is_err());
                break;
            }
            let allowed: Vec<_> = mask.iter().filter(|token| *token != EOS).collect();
            if allowed.is_empty()
                || matcher
                    .accept(allowed[random.below(allowed.len())])
                    .is_err()
            {
                break;
            }
        }
    }
}
