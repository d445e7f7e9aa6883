//! Where in a TOML document something stands, and everything that is wrong with it. Used by
//! `document`; knows nothing of samples.

use std::{fmt::Display, ops::Range};

use serde_json::{Map, Number, Value};
use toml_edit::{Item, TableLike, Value as Toml};

/// A document that is being read. Every mistake is kept, so that all are mended in one go.
pub struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    mistakes: Vec<String>,
}

/// A table of a list, and where it stands.
type Found<'a> = (&'a dyn TableLike, Option<Range<usize>>);

/// A table of the document.
pub struct Table<'a> {
    /// Its path, with a point at the end; empty for the document itself.
    path: String,
    entries: &'a dyn TableLike,
    /// Where it begins.
    span: Range<usize>,
}

impl<'a> Reader<'a> {
    /// Begins to read the text of a file.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, mistakes: Vec::new() }
    }

    /// The line of a place, counting from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    /// Keeps a mistake.
    pub fn mistake(&mut self, span: &Range<usize>, what: impl Display) {
        self.mistakes.push(format!("{}:{}: {what}", self.file, self.line(span.start)));
    }

    /// All mistakes, in the order of the document.
    pub fn finish(mut self) -> Vec<String> {
        let line = |mistake: &String| {
            let place = mistake.get(self.file.len() + 1..).unwrap_or_default();
            place.split(':').next().and_then(|line| line.parse::<usize>().ok())
        };
        self.mistakes.sort_by_key(line);
        self.mistakes
    }

    /// The document itself, which has these keys and no others.
    pub fn root(&mut self, entries: &'a dyn TableLike, known: &[&str]) -> Table<'a> {
        let table = Table { path: String::new(), entries, span: 0..0 };
        self.check(&table, known);
        table
    }

    /// A table under a key, which has these keys and no others.
    pub fn table(&mut self, of: &Table<'a>, key: &str, known: &[&str]) -> Option<Table<'a>> {
        let table = self.open_table(of, key)?;
        self.check(&table, known);
        Some(table)
    }

    /// A table under a key, which may have any keys.
    pub fn open_table(&mut self, of: &Table<'a>, key: &str) -> Option<Table<'a>> {
        let item = of.entries.get(key)?;
        let span = of.span(key);
        let Some(entries) = item.as_table_like() else {
            self.mistake(&span, format_args!("{}{key} is no table but {}", of.path, kind(item)));
            return None;
        };
        Some(Table { path: format!("{}{key}.", of.path), entries, span })
    }

    /// The tables of a list under a key.
    pub fn tables(&mut self, of: &Table<'a>, key: &str, known: &[&str]) -> Vec<Table<'a>> {
        let Some(item) = of.entries.get(key) else { return Vec::new() };
        let span = of.span(key);
        let found: Option<Vec<Found<'a>>> = match item {
            Item::ArrayOfTables(tables) => {
                Some(tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect())
            }
            Item::Value(Toml::Array(values)) => {
                let table =
                    |value: &'a Toml| Some((value.as_inline_table()? as &dyn TableLike, value.span()));
                values.iter().map(table).collect()
            }
            Item::Value(_) | Item::Table(_) | Item::None => None,
        };
        let Some(found) = found else {
            self.mistake(&span, format_args!("{}{key} is no list of tables but {}", of.path, kind(item)));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (number, (entries, place)) in found.into_iter().enumerate() {
            let path = format!("{}{key}[{number}].", of.path);
            let table = Table { path, entries, span: place.unwrap_or_else(|| span.clone()) };
            self.check(&table, known);
            tables.push(table);
        }
        tables
    }

    fn check(&mut self, table: &Table<'_>, known: &[&str]) {
        for (key, _) in table.entries.iter() {
            if !known.contains(&key) {
                let what = format!("{}{key} is not known; there is {}", table.path, known.join(", "));
                self.mistake(&table.span(key), what);
            }
        }
    }

    /// A text under a key.
    pub fn text(&mut self, of: &Table<'_>, key: &str) -> Option<String> {
        let item = of.entries.get(key)?;
        if item.as_str().is_none() {
            self.mistake(&of.span(key), format_args!("{}{key} is no text but {}", of.path, kind(item)));
        }
        item.as_str().map(str::to_owned)
    }

    /// A number under a key that is not negative.
    pub fn number(&mut self, of: &Table<'_>, key: &str) -> Option<u64> {
        let item = of.entries.get(key)?;
        let number = item.as_integer().and_then(|number| u64::try_from(number).ok());
        if number.is_none() {
            let what = format!("{}{key} is no integer of 0 or more but {}", of.path, kind(item));
            self.mistake(&of.span(key), what);
        }
        number
    }

    /// True or false under a key.
    pub fn boolean(&mut self, of: &Table<'_>, key: &str) -> Option<bool> {
        let item = of.entries.get(key)?;
        if item.as_bool().is_none() {
            let what = format!("{}{key} is not true or false but {}", of.path, kind(item));
            self.mistake(&of.span(key), what);
        }
        item.as_bool()
    }

    /// The texts of a list under a key.
    pub fn texts(&mut self, of: &Table<'_>, key: &str) -> Vec<String> {
        let Some(item) = of.entries.get(key) else { return Vec::new() };
        let texts: Option<Vec<String>> = item
            .as_array()
            .and_then(|values| values.iter().map(|value| value.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            self.mistake(&of.span(key), format_args!("{}{key} is no list of texts", of.path));
        }
        texts.unwrap_or_default()
    }
}

impl<'a> Table<'a> {
    /// Where a key stands, or else the table.
    pub fn span(&self, key: &str) -> Range<usize> {
        let entry = self.entries.get_key_value(key);
        let of_key = entry.and_then(|(key, _)| key.span());
        let of_value = || entry.and_then(|(_, item)| item.span());
        of_key.or_else(of_value).unwrap_or_else(|| self.start())
    }

    /// Where it begins.
    pub fn start(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Its path, as it is written in the document, for mistakes.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// What stands under a key, as JSON. A date is its text: JSON knows none.
    pub fn json(&self, key: &str) -> Option<Value> {
        self.entries.get(key).map(of_item)
    }
}

fn of_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => of_value(value),
        Item::Table(table) => of_table(table),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| of_table(table)).collect(),
    }
}

fn of_table(table: &dyn TableLike) -> Value {
    table.iter().map(|(key, item)| (key.to_owned(), of_item(item))).collect::<Map<_, _>>().into()
}

fn of_value(value: &Toml) -> Value {
    match value {
        Toml::String(text) => text.value().as_str().into(),
        Toml::Integer(number) => (*number.value()).into(),
        // JSON has no infinities.
        Toml::Float(number) => Number::from_f64(*number.value()).map_or(Value::Null, Value::Number),
        Toml::Boolean(is) => (*is.value()).into(),
        Toml::Datetime(moment) => moment.value().to_string().into(),
        Toml::Array(values) => values.iter().map(of_value).collect(),
        Toml::InlineTable(table) => of_table(table),
    }
}

fn kind(item: &Item) -> &'static str {
    match item.type_name() {
        "string" => "a text",
        "integer" => "an integer",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" | "array of tables" => "a list",
        "table" | "inline table" => "a table",
        _ => "something else",
    }
}
