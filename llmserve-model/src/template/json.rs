//! `tojson` as `transformers` defines it for templates: Python's
//! `json.dumps(value, ensure_ascii=False, indent=…, separators=…, sort_keys=…)`.
//!
//! Jinja2's own filter, and minijinja's, escape `<`, `>`, `&` and `'` for HTML. A model would read
//! the escapes.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::number;

/// Nesting that is printed. A namespace may contain itself, so there must be an end.
const MAX_DEPTH: usize = 100;

/// The filter.
pub(super) fn tojson(
    value: &Value,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    // `transformers` takes (ensure_ascii, indent, separators, sort_keys); templates name them.
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let separators = kwargs.get::<Option<Value>>("separators")?;
    let mut style = Style {
        indent: indent_text(indent)?,
        item: ", ".to_owned(),
        key: ": ".to_owned(),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    if style.indent.is_some() {
        style.item = ",".to_owned();
    }
    if let Some(pair) = separators.filter(|pair| !pair.is_none()) {
        let text = |index| -> Result<String, Error> {
            let part = pair.get_item_by_index(index)?;
            part.as_str().map(str::to_owned).ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    "tojson: separators must be two strings",
                )
            })
        };
        style.item = text(0)?;
        style.key = text(1)?;
    }
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

fn indent_text(indent: Option<Value>) -> Result<Option<String>, Error> {
    const WIDEST: usize = 64;
    let Some(indent) = indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) else {
        return Ok(None);
    };
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    match indent.as_usize() {
        Some(width) if width <= WIDEST => Ok(Some(" ".repeat(width))),
        _ => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: indent must be at most {WIDEST}"),
        )),
    }
}

impl Style {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: the value is nested deeper than {MAX_DEPTH}"),
            ));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(out, value),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.list(out, "[]", depth, items, |out, item| {
                    self.write(out, &item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(out, "{}", depth, keys.into_iter(), |out, key| {
                    match key.as_str() {
                        Some(text) => self.string(out, text),
                        None => self.string(out, &key.to_string()),
                    }
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} cannot be written as JSON"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        brackets: &str,
        depth: usize,
        items: impl Iterator<Item = Value>,
        mut write: impl FnMut(&mut String, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                for _ in 0..depth {
                    out.push_str(indent);
                }
            }
        };
        let (open, close) = brackets.split_at(1);
        out.push_str(open);
        let mut empty = true;
        for item in items {
            if !empty {
                out.push_str(&self.item);
            }
            empty = false;
            line(out, depth + 1);
            write(out, item)?;
        }
        if !empty {
            line(out, depth);
        }
        out.push_str(close);
        Ok(())
    }

    fn number(&self, out: &mut String, value: &Value) {
        // Python names what JSON has no word for, and so does minijinja, in other letters.
        let text = match f64::try_from(value.clone()) {
            Ok(x) if !value.is_integer() && x.is_nan() => "NaN".to_owned(),
            Ok(x) if !value.is_integer() && x.is_infinite() && x > 0.0 => "Infinity".to_owned(),
            Ok(x) if !value.is_integer() && x.is_infinite() => "-Infinity".to_owned(),
            Ok(x) if !value.is_integer() => number::python(x),
            _ => value.to_string(),
        };
        out.push_str(&text);
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
