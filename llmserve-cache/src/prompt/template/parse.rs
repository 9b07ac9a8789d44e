//! From a text with slots to its parts.

use super::error::TemplateError;

/// What a template's text is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// By its number among the template's slots.
    Slot(usize),
}

/// The parts of `text`. Names that are not in `slots` yet are added to it. `place` says where the
/// text stands, for errors.
pub(super) fn parse(
    text: &str,
    place: &str,
    slots: &mut Vec<String>,
) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("{{") {
        let mut open = at + found;
        if text[at..open].ends_with('\\') {
            plain.push_str(&text[at..open - 1]);
            plain.push_str("{{");
            at = open + 2;
            continue;
        }
        // Of three braces the last two open a slot.
        while text[open + 2..].starts_with('{') {
            open += 1;
        }
        plain.push_str(&text[at..open]);
        let rest = &text[open + 2..];
        let Some(close) = rest.find("}}") else {
            return Err(TemplateError::Unclosed {
                at: open,
                place: place.to_owned(),
            });
        };
        let name = rest[..close].trim();
        if !is_name(name) {
            return Err(TemplateError::SlotName {
                name: name.to_owned(),
                at: open,
                place: place.to_owned(),
            });
        }
        let slot = match slots.iter().position(|known| known == name) {
            Some(slot) => slot,
            None => {
                slots.push(name.to_owned());
                slots.len() - 1
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Slot(slot));
        at = open + 2 + close + 2;
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
