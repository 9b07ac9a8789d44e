//! Small words that say how much of a claim is made: of how many, how surely, and of when.

use super::Veto;
use super::lexicon::Sense;
use super::text::{Text, Word};

/// Words of which another in its stead makes another question, by what they say. The sides of a line
/// are no matter of degree: "all" is none of "some".
pub(super) const SCOPES: &[(&str, u8)] = &[
    ("all", ALL),
    ("every", ALL),
    ("each", ALL),
    ("everyone", ALL),
    ("everybody", ALL),
    ("everything", ALL),
    ("always", ALL),
    ("entire", ALL),
    ("some", SOME),
    ("few", SOME),
    ("several", SOME),
    ("sometimes", SOME),
    ("occasionally", SOME),
    ("part", SOME),
    ("most", MOST),
    ("mostly", MOST),
    ("usually", MOST),
    ("majority", MOST),
    ("least", AT_LEAST),
    ("minimum", AT_LEAST),
    ("minimal", AT_LEAST),
    ("maximum", AT_MOST),
    ("maximal", AT_MOST),
    ("only", ONLY),
    ("solely", ONLY),
    ("exclusively", ONLY),
    ("alone", ONLY),
    ("one", ONE),
    ("single", ONE),
    ("both", BOTH),
    ("either", EITHER),
    ("none", NONE),
    ("no", NONE),
    ("never", NONE),
    ("nobody", NONE),
    ("nothing", NONE),
    ("must", MUST),
    ("required", MUST),
    ("obliged", MUST),
    ("mandatory", MUST),
    ("obligatory", MUST),
    ("have", MUST),
    ("has", MUST),
    ("can", MAY),
    ("could", MAY),
    ("may", MAY),
    ("allowed", MAY),
    ("permitted", MAY),
    ("should", SHOULD),
    ("ought", SHOULD),
    ("will", WILL),
    ("shall", WILL),
    ("did", DID),
    ("was", DID),
    ("were", DID),
    ("had", DID),
    ("best", MOST_OF_ALL),
    ("worst", MOST_OF_ALL),
    ("better", MORE),
    ("worse", MORE),
    ("than", MORE),
    ("is", NOW),
    ("are", NOW),
    ("am", NOW),
    ("do", NOW),
    ("does", NOW),
    ("my", MINE),
    ("mine", MINE),
    ("our", MINE),
    ("your", YOURS),
    ("yours", YOURS),
    ("his", HIS),
    ("hers", HERS),
    ("give", GIVE),
    ("gives", GIVE),
    ("gave", GIVE),
    ("given", GIVE),
    ("giving", GIVE),
    ("take", TAKE),
    ("takes", TAKE),
    ("took", TAKE),
    ("taken", TAKE),
    ("taking", TAKE),
    ("come", COME),
    ("comes", COME),
    ("came", COME),
    ("coming", COME),
    ("go", GO),
    ("goes", GO),
    ("went", GO),
    ("gone", GO),
    ("use", USE),
    ("uses", USE),
    ("say", SAY),
    ("says", SAY),
    ("said", SAY),
    ("from", FROM),
    ("to", TO),
    ("into", TO),
    ("towards", TO),
];

const ALL: u8 = 1;
const SOME: u8 = 2;
const MOST: u8 = 3;
const ONLY: u8 = 4;
const ONE: u8 = 5;
const BOTH: u8 = 6;
const EITHER: u8 = 7;
const NONE: u8 = 8;
const MUST: u8 = 9;
const MAY: u8 = 10;
const SHOULD: u8 = 11;
const WILL: u8 = 12;
const DID: u8 = 13;
const FROM: u8 = 14;
const TO: u8 = 15;
const MOST_OF_ALL: u8 = 16;
const MORE: u8 = 17;
const NOW: u8 = 18;
const MINE: u8 = 19;
const YOURS: u8 = 20;
const HIS: u8 = 21;
const HERS: u8 = 22;
const GIVE: u8 = 23;
const TAKE: u8 = 24;
const COME: u8 = 25;
const GO: u8 = 26;
const USE: u8 = 27;
const SAY: u8 = 28;
const AT_LEAST: u8 = 29;
const AT_MOST: u8 = 30;

/// Of how many: two of these against each other.
const HOW_MANY: u32 =
    1 << ALL | 1 << SOME | 1 << MOST | 1 << ONLY | 1 << ONE | 1 << BOTH | 1 << EITHER | 1 << NONE;
/// The least or the most there may be.
const BOUNDS: u32 = 1 << AT_LEAST | 1 << AT_MOST;
/// What is done, of what grammar has words for.
const DONE: u32 = 1 << GIVE | 1 << TAKE | 1 << COME | 1 << GO | 1 << USE | 1 << SAY;
/// Whose it is.
const WHOSE: u32 = 1 << MINE | 1 << YOURS | 1 << HIS | 1 << HERS;
/// How it is with what is asked: may it, must it, ought it be done.
const HOW_SURE: u32 = 1 << MUST | 1 << MAY | 1 << SHOULD;

/// Whether the texts are about more or fewer of the same things, about what may be and what must, or
/// about what was and what will be.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let (in_a, in_b) = (scopes(a), scopes(b));
    let (of_a, of_b) = (in_a & !in_b, in_b & !in_a);
    let against = |set: u32| of_a & set != 0 && of_b & set != 0;
    let either = |scope: u8| (of_a | of_b) >> scope & 1 != 0;
    let degrees = [HOW_MANY, 1 << MOST_OF_ALL | 1 << MORE, BOUNDS];
    if degrees.into_iter().any(against) || either(ONLY) {
        return Some(Veto::Number);
    }
    // "Who was it" and "who is it", but not "I was wondering who it is".
    let in_time = 1 << DID | 1 << WILL | 1 << NOW;
    let (then, now) = (in_a & in_time, in_b & in_time);
    let past = |times: u32| times & (1 << DID) != 0;
    if then != 0 && now != 0 && past(then) != past(now) {
        return Some(Veto::Date);
    }
    if against(WHOSE) {
        return Some(Veto::Name);
    }
    if against(1 << FROM | 1 << TO) {
        return Some(Veto::Opposite);
    }
    if against(DONE) {
        return Some(Veto::Wording);
    }
    // "How do I" and "how can I" ask the same; "can I" and "must I" do not.
    let led = |text: &Text<'_>| text.words.first().is_some_and(is_auxiliary);
    (led(a) && led(b) && against(HOW_SURE)).then_some(Veto::Question)
}

/// Whether a word begins what one can go to: a name, or "my house".
fn is_place(word: &Word) -> bool {
    word.role.article
        || word.capital
        || word.digits
        || word
            .senses
            .iter()
            .any(|sense| matches!(sense, Sense::Kind { .. }))
}

/// Whether a word asks for yes or no where it stands first.
pub(super) fn is_auxiliary(word: &Word) -> bool {
    (MUST..=DID).contains(&word.role.scope)
}

/// A bit for each scope of a text.
fn scopes(text: &Text<'_>) -> u32 {
    let mut scopes = 0;
    for (at, word) in text.words.iter().enumerate() {
        if word.role.scope == 0 && !text.form(word).ends_with("est") {
            continue;
        }
        let form = |at: usize| text.words.get(at).map_or("", |word| text.form(word));
        let scope = match (text.form(word), form(at + 1)) {
            // "Not only", "the most expensive", "at most", "one has to", "I was wondering".
            ("only", _) if at > 0 && form(at - 1) == "not" => 0,
            ("most", _) if at > 0 && form(at - 1) == "the" => MOST_OF_ALL,
            ("most", _) if at > 0 && form(at - 1) == "at" => AT_MOST,
            ("least", _) if at == 0 || !matches!(form(at - 1), "at" | "the") => 0,
            ("least", _) if form(at - 1) == "the" => MOST_OF_ALL,
            (degree, _) if degree.ends_with("est") && at > 0 && form(at - 1) == "the" => {
                MOST_OF_ALL
            }
            ("one", next)
                if text.words.get(at + 1).is_none_or(|word| word.role.function) && next != "of" =>
            {
                0
            }
            ("had" | "was" | "were", "better" | "wondering" | "looking" | "hoping") => 0,
            ("have" | "has", next) => {
                // "Have you been there": asks for the past.
                match next {
                    "to" => MUST,
                    _ if at == 0 => DID,
                    _ => 0,
                }
            }
            // A direction, and no infinitive.
            ("to" | "from", _) if !text.words.get(at + 1).is_some_and(is_place) => 0,
            _ => word.role.scope,
        };
        scopes |= 1 << scope;
    }
    scopes & !1
}
