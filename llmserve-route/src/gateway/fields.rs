//! A request's body, field by field: what is not taken is refused by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::refusal::Refusal;

/// The fields of a JSON object, each as it was written. A `null` is a field left out.
///
/// As text, because a JSON schema's order means something; one by one, so that an error names the
/// field; and taken away, so that what is left over is what nobody honours.
pub(super) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// The fields of `body`.
    ///
    /// # Errors
    /// A body that is no JSON object, or has a field twice.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields: Self = serde_json::from_slice(body)
            .map_err(|error| Refusal::body(format!("the body is no JSON object: {error}")))?;
        Ok(fields)
    }

    /// The field, unless it is left out or `null`.
    ///
    /// # Errors
    /// A value of another type.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(raw) => parse(name, &raw),
        }
    }

    /// The field: none if it is left out, `Some(None)` for `null`.
    ///
    /// # Errors
    /// A value of another type.
    pub(super) fn take_nullable<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<Option<Option<T>>, Refusal> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(raw) => parse(name, &raw).map(Some),
        }
    }

    /// The field as it was written, unless it is left out or `null`.
    pub(super) fn take_raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.0.remove(name).filter(|raw| raw.get() != "null")
    }

    /// Drops fields that change no answer.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Drops a field whose value is one of `harmless`, JSON as it is written without spaces.
    ///
    /// # Errors
    /// Any other value: it asks for what cannot be had.
    pub(super) fn only(&mut self, name: &str, harmless: &[&str]) -> Result<(), Refusal> {
        match self.take_raw(name) {
            Some(raw) if !harmless.contains(&raw.get()) => {
                Err(Refusal::field(name, "not supported here; leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing must be left.
    ///
    /// # Errors
    /// The first field that nobody took.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        // A field that says nothing asks for nothing.
        match self.0.into_iter().find(|(_, raw)| raw.get() != "null") {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::field(
                &name,
                "unknown, or not supported here; leave it out",
            )),
        }
    }
}

fn parse<T: DeserializeOwned>(name: &str, raw: &RawValue) -> Result<Option<T>, Refusal> {
    serde_json::from_str(raw.get()).map_err(|error| Refusal::field(name, error))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.contains_key(&name) {
                        let name = name.chars().take(64).collect::<String>();
                        return Err(serde::de::Error::custom(format!("{name:?} comes twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ignores_and_refuses_by_name() {
        let body = br#"{"a": 1, "b": null, "c": "x", "d": {"z": 1, "a": 2}, "e": 5, "f": false}"#;
        let mut fields = Fields::parse(body).expect("an object");
        assert_eq!(fields.take::<u8>("a").expect("a number"), Some(1));
        assert_eq!(fields.take_nullable::<u8>("b").expect("null"), Some(None));
        assert_eq!(fields.take_nullable::<u8>("none").expect("none"), None);
        assert!(fields.take::<u8>("c").is_err());
        let raw = fields.take_raw("d").expect("there");
        assert_eq!(raw.get(), r#"{"z": 1, "a": 2}"#);
        fields.only("f", &["false"]).expect("harmless");
        let refusal = fields.finish().expect_err("e is left").to_json();
        assert_eq!(refusal["error"]["param"], "e");
    }

    #[test]
    fn what_is_no_object_of_distinct_fields() {
        for body in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1} x",
            "\u{0}",
        ] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
