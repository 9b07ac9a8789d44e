//! The language a text is written in, as far as its commonest words tell.

use super::Veto;
use super::text::Text;

/// Words that are common in one language and in none of the others here.
pub(super) const COMMON: [&str; 7] = [
    "the is are what how who why where when does do did can i you my of and which to for with this that \
     please should",
    "der das und ist nicht wie wer warum wo wann ich du mein eine einen für mit auf bitte kann ein den \
     zum zur dir heute",
    "le les des est quelle quel comment pourquoi où quand je tu mon une du et pour avec dans \
     sur pas cette ce quels quelles",
    "el los las qué cómo quién dónde cuándo por cuál yo mi es una del para con este puedo un está cuáles \
     cuánto",
    "il gli che come perché dove quando qual è sono mio una della per con questo posso di il nel quanto",
    "o os as que onde como quando qual é meu uma não para com este posso um dos das são quanto",
    "de het een en is wat hoe wie waarom waar wanneer ik jij mijn niet voor met deze kan van zijn",
];

/// Whether the texts are in different languages or scripts.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let scripts = (script(a.source), script(b.source));
    if let (Some(a), Some(b)) = scripts
        && a != b
    {
        return Some(Veto::Language);
    }
    match (language(a), language(b)) {
        (Some(a), Some(b)) if a != b => Some(Veto::Language),
        _ => None,
    }
}

/// The language with most of its words in a text, if at least two are and no other has as many.
fn language(text: &Text<'_>) -> Option<usize> {
    let mut counts = [0usize; COMMON.len()];
    for word in text.words.iter().filter(|word| word.role.languages != 0) {
        for (language, count) in counts.iter_mut().enumerate() {
            *count += usize::from(word.role.languages >> language & 1);
        }
    }
    let most = counts.iter().max().copied().filter(|most| *most >= 2)?;
    let mut leading = (0..counts.len()).filter(|i| counts[*i] == most);
    leading.next().filter(|_| leading.next().is_none())
}

/// The script of most letters: by the block of 128 or 4096 code points they lie in, roughly.
fn script(text: &str) -> Option<u32> {
    if text.is_ascii() {
        let letters = text.bytes().filter(u8::is_ascii_alphabetic);
        return (letters.take(3).count() == 3).then_some(0);
    }
    let mut counts = [(0u32, 0usize); 4];
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        let block = match u32::from(c) {
            0..0x370 => 0,
            0x370..0x400 => 1,
            0x400..0x530 => 2,
            0x590..0x600 => 3,
            0x600..0x780 => 4,
            0x900..0x980 => 5,
            0x3040..0x3100 => 6,
            0x3400..0xA000 => 7,
            0xAC00..0xD7B0 => 8,
            other => 16 + other / 128,
        };
        // Kana among ideographs is Japanese whichever there is more of, so all of these are one.
        let block = if block == 6 { 7 } else { block };
        if let Some(slot) = counts
            .iter_mut()
            .find(|(of, count)| *of == block || *count == 0)
        {
            *slot = (block, slot.1 + 1);
        }
    }
    let (block, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count >= 3).then_some(block)
}
