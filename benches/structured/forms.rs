//! Schemas of many kinds, and a validator for each that knows nothing of grammars.

use jsonschema::Validator;
use serde_json::Value;

/// A schema, and who says whether a text is of it.
pub struct Form {
    pub schema: &'static str,
    validator: Validator,
}

impl Form {
    /// All of them.
    pub fn all() -> Result<Vec<Self>, Box<dyn std::error::Error>> {
        let form = |schema: &'static str| {
            let parsed: Value = serde_json::from_str(schema)?;
            let options = jsonschema::options().should_validate_formats(true);
            Ok(Self {
                schema,
                validator: options.build(&parsed)?,
            })
        };
        SCHEMAS.into_iter().map(form).collect()
    }

    /// Whether a text is JSON of the schema.
    pub fn accepts(&self, text: &str) -> bool {
        let value = serde_json::from_str(text);
        value.is_ok_and(|value: Value| self.validator.is_valid(&value))
    }
}

const SCHEMAS: [&str; 20] = [
    // Fields of every simple kind.
    r#"{"type":"object","properties":{"name":{"type":"string","maxLength":16},
    "age":{"type":"integer","minimum":0,"maximum":120},"house":{"enum":["Montague","Capulet"]},
    "alive":{"type":"boolean"}},"required":["name","age","house","alive"],
    "additionalProperties":false}"#,
    // Objects in an array with bounds.
    r#"{"type":"array","items":{"type":"object","properties":{"speaker":
    {"enum":["HAMLET","HORATIO","OPHELIA"]},"line":{"type":"string","maxLength":20}},
    "required":["speaker","line"],"additionalProperties":false},"minItems":1,"maxItems":3}"#,
    // It contains itself.
    r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{
    "left":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/tree"}]},"leaf":{"type":"integer",
    "minimum":-5,"maximum":5}},"required":["left","leaf"],"additionalProperties":false}}}"##,
    // One of several kinds.
    r#"{"anyOf":[{"type":"string","pattern":"^[a-z]{2,5}@[a-z]{2,8}\\.(com|org)$"},
    {"type":"number","minimum":0,"maximum":1},{"const":{"the king":"is dead"}}]}"#,
    // Nested, with optional fields.
    r#"{"type":"object","properties":{"title":{"type":"string","maxLength":12},
    "author":{"type":"object","properties":{"first":{"type":"string","maxLength":8},
    "last":{"type":"string","minLength":1,"maxLength":8},"born":{"type":["integer","null"],
    "minimum":1500,"maximum":1650}},"required":["last"],"additionalProperties":false},
    "acts":{"type":"integer","minimum":1,"maximum":5},"tags":{"type":"array",
    "items":{"enum":["tragedy","comedy","history"]},"maxItems":3}},"required":["author"],
    "additionalProperties":false}"#,
    // Numbers with limits of each kind.
    r#"{"type":"object","properties":{"open":{"type":"number","exclusiveMinimum":0,
    "exclusiveMaximum":1},"closed":{"type":"number","minimum":-1.5,"maximum":2.25},
    "fives":{"type":"integer","multipleOf":5,"minimum":-20,"maximum":20},
    "large":{"type":"integer","minimum":1000000,"exclusiveMaximum":1000100}},
    "required":["open","closed","fives","large"],"additionalProperties":false}"#,
    // Any of a few values, in every script.
    r#"{"enum":["é","☃","日本語","\"quoted\"","line\nbreak","\\",null,3.5,["a",{"b":1}],{"ключ":[]}]}"#,
    // A pattern of letters with several bytes.
    r#"{"type":"object","properties":{"name":{"type":"string","pattern":"^[α-ω]{2,6}( [а-я]{1,4})?$"},
    "mark":{"type":"string","pattern":"^(☃|é+|\"|\\\\){1,3}$"}},"required":["name","mark"],
    "additionalProperties":false}"#,
    // A tuple.
    r#"{"type":"array","prefixItems":[{"type":"integer","minimum":0,"maximum":99},
    {"type":"string","maxLength":5},{"type":"boolean"}],"items":false,"minItems":2}"#,
    // All of several.
    r#"{"allOf":[{"type":"object","properties":{"a":{"type":"integer","minimum":0}},
    "required":["a"]},{"type":"object","properties":{"a":{"type":"integer","maximum":40},
    "b":{"type":"boolean"}},"required":["b"]}]}"#,
    // One of several that say which they are.
    r#"{"oneOf":[{"type":"object","properties":{"kind":{"const":"enter"},
    "who":{"type":"string","maxLength":10}},"required":["kind","who"],"additionalProperties":false},
    {"type":"object","properties":{"kind":{"const":"exeunt"},"all":{"type":"boolean"}},
    "required":["kind","all"],"additionalProperties":false}]}"#,
    // Fields of any name.
    r#"{"type":"object","additionalProperties":{"type":"integer","minimum":0,"maximum":9}}"#,
    // Fields by the form of their names.
    r#"{"type":"object","patternProperties":{"^n_[a-z]{1,4}$":{"type":"integer","minimum":1,
    "maximum":3},"^s_[a-z]{1,4}$":{"type":"string","maxLength":4}},"additionalProperties":false}"#,
    // A string's length counts characters.
    r#"{"type":"string","minLength":3,"maxLength":8}"#,
    // Two that contain one another.
    r##"{"$ref":"#/$defs/king","$defs":{"king":{"type":"object","properties":{
    "queen":{"$ref":"#/$defs/queen"}},"additionalProperties":false},"queen":{"type":"object",
    "properties":{"heir":{"anyOf":[{"$ref":"#/$defs/king"},{"const":"none"}]}},
    "required":["heir"],"additionalProperties":false}}}"##,
    // Arrays of arrays.
    r#"{"type":"array","items":{"type":"array","items":{"type":"integer","minimum":0,"maximum":1},
    "minItems":2,"maxItems":2},"minItems":2,"maxItems":3}"#,
    // Any JSON.
    r#"{}"#,
    // Formats.
    r#"{"type":"object","properties":{"id":{"type":"string","format":"uuid"},
    "host":{"type":"string","format":"ipv4"}},"required":["id","host"],
    "additionalProperties":false}"#,
    // Names that have to be written as escapes.
    r#"{"type":"object","properties":{"a\"b":{"type":"integer","minimum":0,"maximum":9},
    "\n":{"type":"null"},"é☃":{"enum":[true,"\u0000","\t"]}},"required":["a\"b","\n","é☃"],
    "additionalProperties":false}"#,
    // A list of one kind of several, each with bounds of its own.
    r#"{"type":"object","properties":{"items":{"type":"array","minItems":1,"maxItems":4,"items":
    {"anyOf":[{"type":"integer","minimum":-9,"maximum":-1},{"type":"string","minLength":1,
    "maxLength":3},{"type":"array","items":{"type":"null"},"maxItems":2}]}}},"required":["items"],
    "additionalProperties":false}"#,
];
