use super::*;
use crate::contract::tokenizer::{Message, RenderOptions};
use proptest::prelude::*;

/// How a tokenizer puts the bytes of its tokens together.
#[derive(Clone, Copy)]
enum Style {
    /// Byte-level BPE: all bytes together, invalid ones replaced.
    ByteLevel,
    /// SentencePiece with byte fallback: single bytes form characters among themselves, a run
    /// with any invalid byte is replaced byte for byte, and a leading space is dropped.
    Fallback,
}

/// Token `i` is the bytes `vocab[i]`; an empty one is special.
struct Toy {
    style: Style,
    vocab: Vec<Vec<u8>>,
}

impl Tokenizer for Toy {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<TokenId>, TokenizerError> {
        Err(TokenizerError::Codec("one way only".into()))
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        let mut text = String::new();
        let flush = |bytes: &mut Vec<u8>, text: &mut String| {
            match std::str::from_utf8(bytes) {
                Ok(run) => text.push_str(run),
                Err(_) => bytes.iter().for_each(|_| text.push(REPLACEMENT)),
            }
            bytes.clear();
        };
        for &id in ids {
            let Some(piece) = self.vocab.get(id as usize) else {
                return Err(TokenizerError::Codec(format!("no token {id}")));
            };
            match (self.style, std::str::from_utf8(piece)) {
                _ if piece.is_empty() => {
                    if !skip_special {
                        bytes.extend_from_slice(b"<s>");
                    }
                }
                (Style::Fallback, Ok(piece)) => {
                    flush(&mut bytes, &mut text);
                    text.push_str(piece);
                }
                _ => bytes.extend_from_slice(piece),
            }
        }
        match self.style {
            Style::ByteLevel => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Style::Fallback => {
                flush(&mut bytes, &mut text);
                Ok(text.strip_prefix(' ').unwrap_or(&text).to_owned())
            }
        }
    }

    fn render(&self, _: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
        Err(TokenizerError::NoTemplate)
    }
}

fn toy(style: Style, pieces: &[&[u8]]) -> Arc<Toy> {
    let vocab = pieces.iter().map(|piece| piece.to_vec()).collect();
    Arc::new(Toy { style, vocab })
}

/// Tokens `from..` of a toy after its first `from`, and what came of each.
fn pieces(toy: &Arc<Toy>, from: usize) -> Vec<String> {
    let prompt: Vec<TokenId> = (0..from as TokenId).collect();
    let mut decoder = IncrementalDecoder::new(toy.clone(), true, &prompt);
    let mut out: Vec<String> = (from..toy.vocab.len())
        .map(|id| {
            let text = decoder.push(id as TokenId).unwrap();
            assert!(decoder.window.len() <= 3 * PATIENCE);
            text
        })
        .collect();
    out.push(decoder.finish());
    out
}

#[test]
fn a_character_waits_for_its_bytes() {
    for style in [Style::ByteLevel, Style::Fallback] {
        let parts: [&[u8]; 7] = [b"a", &[0xf0], &[0x9f], &[0x98], &[0x80], b"b", &[0xe4]];
        assert_eq!(
            pieces(&toy(style, &parts), 0),
            ["a", "", "", "", "😀", "b", "", ""]
        );
    }
}

#[test]
fn text_before_half_a_character_does_not_wait() {
    let toy = toy(Style::ByteLevel, &[b"caf\xc3", b"\xa9 \xe4", b"\xbd\xa0"]);
    assert_eq!(pieces(&toy, 0), ["caf", "é ", "你", ""]);
}

#[test]
fn spaces_survive_after_a_prompt_and_between_words() {
    let parts: [&[u8]; 5] = [b" Hello", b" world", b" ", b" again", b"st"];
    let toy = toy(Style::Fallback, &parts);
    assert_eq!(
        pieces(&toy, 0),
        ["Hello", " world", " ", " again", "st", ""]
    );
    assert_eq!(pieces(&toy, 1), [" world", " ", " again", "st", ""]);
}

#[test]
fn special_tokens_give_no_text_and_take_none() {
    let mut parts: Vec<&[u8]> = vec![b" Hello", b""];
    parts.push(b" world");
    parts.extend([b"".as_slice(); 100]);
    parts.push(b" again");
    let out = pieces(&toy(Style::Fallback, &parts), 0);
    assert_eq!(out.concat(), "Hello world again");
    assert_eq!(out[2], " world");
    assert_eq!(out[103], " again");

    let mut decoder = IncrementalDecoder::new(toy(Style::ByteLevel, &[b"x", b""]), false, &[]);
    assert_eq!(decoder.push(1).unwrap(), "<s>");
}

#[test]
fn byte_fallback_that_goes_wrong_does_not_repeat_what_is_out() {
    // 你 is out when a stray byte makes the tokenizer give up the whole run.
    let parts: [&[u8]; 5] = [&[0xe4], &[0xbd], &[0xa0], &[0xe5], b"abc"];
    assert_eq!(
        pieces(&toy(Style::Fallback, &parts), 0).concat(),
        "你\u{FFFD}abc"
    );
    let parts: [&[u8]; 6] = [&[0xe4], &[0xbd], &[0xa0], &[0xe5], &[0xa5], &[0xbd]];
    assert_eq!(
        pieces(&toy(Style::Fallback, &parts), 0),
        ["", "", "你", "", "", "好", ""]
    );
}

#[test]
fn a_prompt_that_ends_in_half_a_character_is_completed() {
    let parts: [&[u8]; 3] = [b"x\xc3", b"\xa9", b"y"];
    assert_eq!(pieces(&toy(Style::ByteLevel, &parts), 1), ["é", "y", ""]);

    // The tail that is looked at begins in the middle of a character too.
    let mut parts: Vec<&[u8]> = vec![&[0xe4], &[0xbd], &[0xa0], &[0xe4], &[0xbd]];
    parts.splice(2..2, [b"".as_slice(); 5]);
    parts.push(&[0xa0]);
    assert_eq!(pieces(&toy(Style::ByteLevel, &parts), 10), ["你", ""]);

    let parts: [&[u8]; 4] = [b"x", &[0xe4], &[0xbd], &[0xa0]];
    assert_eq!(pieces(&toy(Style::Fallback, &parts), 3), ["你", ""]);
}

#[test]
fn endless_invalid_bytes_are_flushed() {
    for style in [Style::ByteLevel, Style::Fallback] {
        let mut parts: Vec<&[u8]> = vec![b"ok"];
        parts.extend([[0xffu8].as_slice(); 300]);
        parts.push(b"end");
        let out = pieces(&toy(style, &parts), 0);
        let expected = format!("ok{}end", "\u{FFFD}".repeat(300));
        assert_eq!(out.concat(), expected);
        // Late by a bounded number of tokens.
        let early: String = out[..100].concat();
        assert!(early.chars().count() > 100 - PATIENCE - CONTEXT);
    }
}

#[test]
fn a_stretch_without_a_whole_boundary_neither_waits_nor_grows() {
    // Every token ends in half a character.
    let text = "é".repeat(400);
    let bytes = text.as_bytes();
    let mut parts: Vec<&[u8]> = vec![&bytes[..1]];
    parts.extend(bytes[1..bytes.len() - 1].chunks(2));
    parts.push(&bytes[bytes.len() - 1..]);
    let out = pieces(&toy(Style::ByteLevel, &parts), 0);
    assert_eq!(out.concat(), text);
    assert!(out[1..400].iter().all(|piece| piece == "é"));
}

#[test]
fn half_a_character_survives_special_tokens_without_a_whole_boundary() {
    let text = "😀你".repeat(30);
    let mut parts: Vec<&[u8]> = vec![b"", b"a\xf0", b""];
    let bytes = text.as_bytes();
    for piece in bytes[1..].chunks(1) {
        parts.extend([piece, b"", b""]);
    }
    let out = pieces(&toy(Style::ByteLevel, &parts), 0);
    assert_eq!(out.concat(), format!("a{text}"));
}

#[test]
fn a_stray_byte_before_many_special_tokens_is_not_lost() {
    let mut parts: Vec<&[u8]> = vec![b"a", &[0xff]];
    parts.extend([b"".as_slice(); 60]);
    parts.push(b"b");
    let out = pieces(&toy(Style::ByteLevel, &parts), 0);
    assert_eq!(out.concat(), "a\u{FFFD}b");
}

#[test]
fn an_undecodable_token_counts_for_nothing() {
    let mut decoder = IncrementalDecoder::new(toy(Style::ByteLevel, &[b"a", b"b"]), true, &[0]);
    assert!(decoder.push(9).is_err());
    assert_eq!(decoder.push(1).unwrap(), "b");
    let mut decoder = IncrementalDecoder::new(toy(Style::ByteLevel, &[b"a"]), true, &[7]);
    assert!(decoder.push(0).is_err());
}

fn valid_text() -> impl Strategy<Value = String> {
    let chars = prop::sample::select("ab .\n éß你好界語😀🎉👩‍🚀".chars().collect::<Vec<_>>());
    prop::collection::vec(chars, 0..120).prop_map(|chars| chars.into_iter().collect())
}

/// `text` cut into pieces of 1 to 3 bytes, with special tokens in between.
fn cut(text: &str, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = text.as_bytes();
    let mut parts = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at((*size).min(rest.len()));
        parts.push(piece.to_vec());
        rest = tail;
    }
    parts
}

proptest! {
    #[test]
    fn pieces_add_up_to_the_whole(
        text in valid_text(),
        sizes in prop::collection::vec(prop_oneof![9 => 1usize..=3, 1 => Just(0usize)], 1..40)
            .prop_filter("it must advance", |sizes| sizes.iter().any(|&s| s > 0)),
        prompt in 0usize..12,
    ) {
        let toy = Arc::new(Toy { style: Style::ByteLevel, vocab: cut(&text, &sizes) });
        let from = prompt.min(toy.vocab.len());
        let out = pieces(&toy, from);
        // Where the prompt ends in half a character, that character belongs to the answer.
        let before: Vec<u8> = toy.vocab[..from].concat();
        let start = (0..=before.len()).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
        prop_assert_eq!(out.concat(), &text[start..]);
        prop_assert!(out.iter().all(|piece| !piece.contains(REPLACEMENT)));
    }

    /// Single bytes and whole words, as SentencePiece would have them.
    #[test]
    fn fallback_pieces_add_up_to_the_whole(text in valid_text(), bytes: u64) {
        let vocab: Vec<Vec<u8>> = text.chars().enumerate().flat_map(|(i, c)| {
            let char = c.to_string().into_bytes();
            if bytes >> (i % 64) & 1 == 1 && char.len() > 1 {
                char.into_iter().map(|byte| vec![byte]).collect()
            } else {
                vec![char]
            }
        }).collect();
        let toy = Arc::new(Toy { style: Style::Fallback, vocab });
        let all: Vec<TokenId> = (0..toy.vocab.len() as TokenId).collect();
        prop_assert_eq!(pieces(&toy, 0).concat(), toy.decode(&all, true).unwrap());
    }

    /// Garbage never panics, never grows the window, and costs at most the last character.
    #[test]
    fn any_bytes_are_survived(
        vocab in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..120),
        fallback: bool,
        prompt in 0usize..10,
    ) {
        let style = if fallback { Style::Fallback } else { Style::ByteLevel };
        let toy = Arc::new(Toy { style, vocab });
        let all: Vec<TokenId> = (0..toy.vocab.len() as TokenId).collect();
        let out = pieces(&toy, prompt.min(all.len())).concat();
        if !fallback && prompt == 0 {
            let whole = toy.decode(&all, true).unwrap();
            prop_assert_eq!(
                out.trim_end_matches(REPLACEMENT),
                whole.trim_end_matches(REPLACEMENT)
            );
            prop_assert!(whole.starts_with(&out));
        }
    }
}
