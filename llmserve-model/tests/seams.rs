//! Where texts may be cut, for tokenizers of every kind: wherever `seam` says so, both sides have the
//! tokens of the whole.

use std::path::Path;

use llmserve_core::Tokenizer;
use llmserve_model::{HfTokenizer, LoadError};
use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

fn level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
           "use_regex": use_regex})
}

fn sequence(parts: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn split_then_level(pattern: &str) -> Value {
    sequence(&[split(pattern), level(false, false)])
}

fn digits(individual: bool) -> Value {
    json!({"type": "Digits", "individual_digits": individual})
}

/// Normaliser and pre-tokeniser of those with seams between words.
fn with_words() -> Vec<(Value, Value)> {
    let nfc = || json!({"type": "NFC"});
    let none = || Value::Null;
    vec![
        (none(), level(false, true)),
        (none(), level(true, true)),
        (nfc(), level(false, true)),
        (nfc(), level(true, true)),
        (none(), sequence(&[digits(true), level(false, true)])),
        (none(), sequence(&[digits(false), level(true, true)])),
        (none(), split_then_level(GPT2)),
        (none(), split_then_level(CL100K)),
        (none(), split_then_level(LLAMA3)),
        (
            json!({"type": "Sequence", "normalizers": [nfc()]}),
            split_then_level(LLAMA3),
        ),
        (nfc(), split_then_level(QWEN2)),
        (none(), split_then_level(O200K)),
        (none(), split_then_level(TEKKEN)),
        (
            none(),
            sequence(&[
                split(r"\p{N}{1,3}"),
                split("[一-龥぀-ゟ゠-ヿ]+"),
                split(DEEPSEEK),
                level(true, false),
            ]),
        ),
        (
            none(),
            sequence(&[split(QWEN2), digits(true), level(false, true)]),
        ),
    ]
}

/// Of those without.
fn without_words() -> Vec<(Value, Value)> {
    let none = || Value::Null;
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let kind = |kind: &str| json!({"type": kind});
    let llama2 = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    ]});
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                      "strip_accents": null, "lowercase": true});
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    vec![
        (none(), none()),
        (none(), level(false, false)),
        (llama2, none()),
        (bert.clone(), kind("BertPreTokenizer")),
        (bert, level(false, true)),
        (strip, level(false, true)),
        (kind("NFKC"), level(false, true)),
        (kind("NFD"), split_then_level(QWEN2)),
        (kind("Lowercase"), split_then_level(LLAMA3)),
        (none(), metaspace("first", true)),
        (none(), metaspace("always", true)),
        (none(), metaspace("never", false)),
        (none(), kind("Whitespace")),
        (none(), kind("WhitespaceSplit")),
        (none(), kind("UnicodeScripts")),
        (none(), json!({"type": "FixedLength", "length": 3})),
        (
            none(),
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
        ),
        (
            none(),
            json!({"type": "CharDelimiterSplit", "delimiter": "e"}),
        ),
        (none(), split_then_level(r"\w+|\W+")),
        (none(), split_then_level(r"\b")),
        (
            none(),
            sequence(&[metaspace("first", true), level(false, true)]),
        ),
        (none(), sequence(&[level(false, false), split(GPT2)])),
    ]
}

/// What texts are put together from.
const ATOMS: &[&str] = &[
    "the",
    "The",
    "cat",
    "I'll",
    "'re",
    "'ll",
    "'",
    "s",
    "t",
    "A",
    "e",
    "x",
    "Zs",
    " ",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "1",
    "234",
    "5678",
    "½",
    "٣",
    "é",
    "e\u{301}",
    "\u{301}",
    "\u{338}",
    "\u{327}\u{301}",
    "ſ",
    "İ",
    "ﬁ",
    "ß",
    "\u{212a}",
    "中文",
    "日本",
    "ー",
    "مر",
    "🙂",
    "👩\u{200d}💻",
    "\u{200b}",
    "\u{0}",
    "\u{fffd}",
    "!",
    "...",
    "<",
    "<|",
    "|>",
    "<<",
    "_",
    "/",
    "-",
    "a b",
    "word word",
    " a b ",
    "▁",
    "Ġ",
    "<|user|>",
    "<|us",
    "er|>",
    "user|>",
    "<s>",
    "</s>",
    "<s",
    "s>",
    "<|user|>s",
    "[INST]",
    "[",
    "<mask>",
    "<r>",
    "at ",
    " a",
    "a ",
    "e c",
    "at",
    "##",
    "<user",
];

/// Texts that added tokens are drawn from, many of which overlap.
const ADDED: &[&str] = &[
    "<|user|>",
    "<s>",
    "</s>",
    "[INST]",
    "<mask>",
    "<r>",
    "<|user|>s",
    "er|>",
    "<|us",
    "<user",
    "|>",
    "s",
    "at",
    "a ",
    " a",
    "a b",
    "e c",
    "  ",
    "   ",
    " ",
    "\n\n",
    "é",
    "e\u{301}",
    "\u{212a} ",
    "\u{212a}",
    "<",
    "<<",
    "word",
    "the",
    "_",
    ">",
    "s>",
    "ß",
    "▁",
    "<|user|><s>",
    "><",
    "ſ",
];

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn text(&mut self, atoms: usize) -> String {
        (0..atoms).map(|_| ATOMS[self.below(ATOMS.len())]).collect()
    }

    /// Some added tokens behind the first one, which is plain; with any flags, or plain too.
    fn added(&mut self, any_flags: bool) -> Vec<Value> {
        let mut texts: Vec<&str> = ADDED[1..].to_vec();
        let count = 1 + self.below(6);
        let others = (1..=count).map(|at| {
            let text = texts.swap_remove(self.below(texts.len()));
            let mut flag = |times| any_flags && self.one_in(times);
            json!({"id": 100_000 + at, "content": text, "single_word": flag(4),
                       "lstrip": flag(4), "rstrip": flag(4), "normalized": flag(3),
                       "special": flag(2)})
        });
        std::iter::once(plain(ADDED[0])).chain(others).collect()
    }
}

/// A model whose tokens tell where pieces begin: every character is a token, another one at the
/// beginning of a piece than further on. So equal tokens are equal pieces.
fn telling() -> Value {
    // Bytes as `ByteLevel` writes them, and all that the texts have and may be normalised to.
    let texts = ATOMS.iter().chain(ADDED).flat_map(|text| text.chars());
    let chars = (0..0x180u32).chain(0x300..0x340).chain(0x1e00..0x1f00);
    let chars = chars.filter_map(char::from_u32).chain(texts);
    let mut vocab = serde_json::Map::new();
    vocab.insert("[UNK]".into(), 0.into());
    for c in chars {
        for token in [format!("{c}"), format!("##{c}")] {
            let next = vocab.len();
            vocab.entry(token).or_insert(next.into());
        }
    }
    json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
           "max_input_chars_per_word": 1_000_000, "vocab": vocab})
}

/// The byte-level model that comes with the project.
fn bard() -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/bard-2m");
    let file = std::fs::read(folder.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&file).unwrap();
    file["model"].take()
}

fn tokenizer(
    model: &Value,
    (normalizer, pre_tokenizer): &(Value, Value),
    added: &[Value],
) -> Result<HfTokenizer, LoadError> {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": null, "model": model,
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    Ok(HfTokenizer::from_dir(folder.path())?.unwrap())
}

fn seams(tokenizer: &HfTokenizer, text: &str) -> Vec<usize> {
    let mut seams = Vec::new();
    let mut from = 1;
    while let Some(at) = tokenizer.seam(text, from) {
        assert!(at >= from && at < text.len(), "{at} of {text:?}");
        seams.push(at);
        from = at + 1;
    }
    seams
}

/// Cuts at every single seam, and at all of them together: how many there were.
fn check(tokenizer: &HfTokenizer, text: &str, about: &dyn Fn() -> String) -> usize {
    // The library fails where added tokens with `lstrip` and `rstrip` take the same space.
    let Ok(whole) = tokenizer.encode(text, false) else {
        return 0;
    };
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    let seams = seams(tokenizer, text);
    for &at in &seams {
        let (left, right) = text.split_at(at);
        let both = [encode(left), encode(right)].concat();
        assert_eq!(both, whole, "{left:?} | {right:?}: {}", about());
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = tokenizer.seam(rest, 1) {
        pieces.extend(encode(&rest[..at]));
        rest = &rest[at..];
    }
    pieces.extend(encode(rest));
    assert_eq!(pieces, whole, "{text:?} in pieces: {}", about());
    seams.len()
}

/// Random added tokens and texts for a tokeniser of this kind: how many seams were seen, and how
/// many of them are between words.
fn random(model: &Value, kind: &(Value, Value), seed: u64) -> (usize, usize) {
    let mut numbers = Numbers(seed);
    let (mut all, mut words) = (0, 0);
    for round in 0..10 {
        let added = numbers.added(round % 3 > 0);
        // Two that normalise to one text are refused.
        let Ok(tokenizer) = tokenizer(model, kind, &added) else {
            continue;
        };
        for _ in 0..24 {
            let atoms = 2 + numbers.below(24);
            let text = numbers.text(atoms);
            all += check(&tokenizer, &text, &|| format!("{kind:?} {added:?}"));
            let spaces = seams(&tokenizer, &text);
            words += spaces
                .iter()
                .filter(|&&at| text[at..].starts_with(' '))
                .count();
        }
    }
    (all, words)
}

#[test]
fn both_sides_of_a_seam_have_the_tokens_of_the_whole() {
    let (telling, bard) = (telling(), bard());
    for (at, kind) in with_words().iter().enumerate() {
        for model in [&telling, &bard] {
            let (all, words) = random(model, kind, at as u64);
            assert!(words > 50 && all > words + 20, "{all}, {words}: {kind:?}");
        }
    }
}

#[test]
fn of_other_kinds_only_tokens_are_seams() {
    let telling = telling();
    for (at, kind) in without_words().iter().enumerate() {
        let (all, words) = random(&telling, kind, 1_000 + at as u64);
        assert!(words == 0 && all > 20, "{all}, {words}: {kind:?}");
    }
}

fn plain(text: &str) -> Value {
    json!({"id": 100_000, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

fn flagged(text: &str, flag: &str) -> Value {
    let mut token = plain(text);
    token["id"] = 100_001.into();
    token[flag] = true.into();
    token
}

#[test]
fn inside_of_words_between_spaces_and_around_digits_is_no_seam() {
    let telling = telling();
    for kind in with_words() {
        let tokenizer = tokenizer(&telling, &kind, &[plain("<|user|>")]).unwrap();
        for (text, expected) in [
            ("unbelievable", &[][..]),
            ("we're they'll don't", &[5, 13]),
            ("a  b", &[]),
            ("a \n b", &[]),
            ("12 345 6", &[]),
            ("a 1", &[]),
            ("1 a", &[]),
            ("a é", &[]),
            ("é a", &[]),
            ("a. B", &[]),
            ("a b", &[1]),
            ("a b c", &[1, 3]),
            (" a", &[]),
            ("a ", &[]),
            ("", &[]),
            ("<|user|>Hi<|user|>", &[10]),
            ("x\n<|user|>Hi you", &[2, 12]),
            ("<|user|", &[]),
        ] {
            assert_eq!(seams(&tokenizer, text), expected, "{text:?}: {kind:?}");
        }
        assert_eq!(tokenizer.seam("a b c", 2), Some(3));
        assert_eq!(tokenizer.seam("a b c", 0), Some(1));
        assert_eq!(tokenizer.seam("a b c", 4), None);
        assert_eq!(tokenizer.seam("a b c", usize::MAX), None);
        assert_eq!(tokenizer.seam("é b c", 1), Some(4));
    }
}

#[test]
fn tokens_that_reach_across_words_leave_no_seams_there() {
    let telling = telling();
    let kind = (json!({"type": "NFC"}), level(false, true));
    let seam = |added: &[Value]| tokenizer(&telling, &kind, added).unwrap().seam("a b", 1);
    assert_eq!(seam(&[plain("New-York")]), Some(1));
    assert_eq!(seam(&[plain("New York")]), None);
    assert_eq!(seam(&[flagged("New York", "normalized")]), None);
    assert_eq!(seam(&[flagged("x ", "normalized")]), None);
    // The Kelvin sign is normalised to a letter.
    assert_eq!(seam(&[plain("\u{212a} x")]), None);
    assert_eq!(seam(&[flagged("end", "rstrip")]), None);
    assert_eq!(seam(&[flagged("end>", "rstrip")]), Some(1));
    assert_eq!(seam(&[flagged(" x", "single_word")]), None);
    assert_eq!(seam(&[flagged("x", "single_word")]), Some(1));
    assert_eq!(seam(&[flagged("<x>", "lstrip")]), Some(1));
    assert_eq!(seam(&[plain("\u{e9}".repeat(200).as_str())]), None);
}

#[test]
fn a_token_that_another_may_hide_is_no_seam() {
    let telling = telling();
    let kind = (Value::Null, Value::Null);
    let seam = |added: &[Value]| tokenizer(&telling, &kind, added).unwrap().seam("1<s>", 1);
    let token = plain("<s>");
    assert_eq!(seam(std::slice::from_ref(&token)), Some(1));
    for other in ["x<s>", "x<s>y", "x<", "1<s"] {
        assert_eq!(seam(&[token.clone(), plain_too(other)]), None, "{other}");
    }
    for (other, flag) in [("<s>x", "lstrip"), ("<s>x", "single_word")] {
        assert_eq!(
            seam(&[token.clone(), flagged(other, flag)]),
            None,
            "{other}"
        );
    }
    for other in ["<s>x", "<s", "s>", "x", "y<s><s>"] {
        let expected = if other.starts_with('y') {
            None
        } else {
            Some(1)
        };
        assert_eq!(
            seam(&[token.clone(), plain_too(other)]),
            expected,
            "{other}"
        );
    }
    // Its search comes second.
    assert_eq!(seam(&[token.clone(), flagged("x<", "normalized")]), Some(1));
    for flag in ["lstrip", "single_word", "normalized"] {
        assert_eq!(seam(&[flagged("<s>", flag)]), None, "{flag}");
    }
    assert_eq!(seam(&[flagged("<s>", "rstrip")]), Some(1));
    let begins = |text: &str| {
        let tokenizer = tokenizer(&telling, &kind, &[plain(text)]).unwrap();
        tokenizer.seam(&format!("1{text}"), 1)
    };
    for text in [" s", "s", "_s", "\u{3000}", "é", "1"] {
        assert_eq!(begins(text), None, "{text:?}");
    }
    // It may begin within itself.
    assert_eq!(begins("<<"), None);
    assert_eq!(begins("<s<"), None);
    assert_eq!(begins("<s"), Some(1));
}

fn plain_too(text: &str) -> Value {
    let mut token = plain(text);
    token["id"] = 100_001.into();
    token
}

#[test]
fn many_tokens_that_begin_alike_are_told_apart() {
    let telling = telling();
    let kind = (Value::Null, Value::Null);
    let added: Vec<_> = (0..2_000)
        .map(|id| {
            let mut token = plain(&format!("<unused{id}>"));
            token["id"] = (100_000 + id).into();
            token
        })
        .collect();
    let tokenizer = tokenizer(&telling, &kind, &added).unwrap();
    let text = "x<unused7>y<unused19999>z<unused1999><unused>< <unused0>";
    assert_eq!(seams(&tokenizer, text), [1, 25, 47]);
    check(&tokenizer, text, &String::new);
}

#[test]
fn unknown_patterns_have_no_seams_between_words() {
    let telling = telling();
    for pattern in [
        r"\p{L}+ \p{L}+|\s+",
        r"(?<=a) ?\p{L}+|\s+",
        r" ?\p{N}+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\s+",
        r" ?\p{L}+|",
        r" ?\p{L}+|\s+$",
    ] {
        let kind = (Value::Null, split_then_level(pattern));
        let tokenizer = tokenizer(&telling, &kind, &[]).unwrap();
        assert_eq!(tokenizer.seam("a b", 1), None, "{pattern}");
    }
    let mut inverted = split(GPT2);
    inverted["invert"] = true.into();
    let mut removed = split(GPT2);
    removed["behavior"] = "Removed".into();
    for part in [inverted, removed] {
        let kind = (Value::Null, part);
        let tokenizer = tokenizer(&telling, &kind, &[]).unwrap();
        assert_eq!(tokenizer.seam("a b", 1), None);
    }
}

#[test]
fn the_projects_tokenizers_have_both_kinds_of_seams() {
    for name in ["bard-2m", "bard-draft"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
        let tokenizer = HfTokenizer::from_dir(&folder.join(name)).unwrap().unwrap();
        let text = "<|bos|><|user|>Speak, I charge thee!<|eot|>\n<|assistant|>";
        let count = check(&tokenizer, text, &String::new);
        assert_eq!(count, 5);
        let mut numbers = Numbers(7);
        for _ in 0..300 {
            let text = numbers.text(20).replace("<s>", "<|eot|>");
            check(&tokenizer, &text, &String::new);
        }
    }
}
