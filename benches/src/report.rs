//! Rows as aligned text or as JSON.

use serde_json::{Map, Value};

/// Prints rows of named figures.
pub struct Report {
    json: bool,
    headed: bool,
}

impl Report {
    /// A report; `title` and the first row's names head it unless it is JSON.
    pub fn new(title: &str, json: bool) -> Self {
        if !json {
            println!("{title}");
        }
        Self {
            json,
            headed: false,
        }
    }

    /// Prints a row.
    pub fn row(&mut self, name: &str, figures: &[(&str, Value)]) {
        if self.json {
            let mut object = Map::new();
            object.insert("name".to_owned(), Value::from(name));
            for (key, value) in figures {
                object.insert((*key).to_owned(), value.clone());
            }
            println!("{}", Value::from(object));
            return;
        }
        if !self.headed {
            self.headed = true;
            print!("{:<34}", "");
            for (key, _) in figures {
                print!("{key:>width$}", width = width(key));
            }
            println!();
        }
        print!("{name:<34}");
        for (key, value) in figures {
            let width = width(key);
            match value {
                Value::Number(number) if number.is_f64() => {
                    print!("{:>width$.3}", number.as_f64().unwrap_or(f64::NAN));
                }
                Value::String(text) => print!("{text:>width$}"),
                _ => print!("{:>width$}", value.to_string()),
            }
        }
        println!();
    }

    /// Prints a line for people only.
    pub fn note(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }
}

/// Columns that a figure takes.
fn width(key: &str) -> usize {
    18.max(key.len() + 2)
}
