//! Bulk inputs, turned into lines for the API one by one: newline-delimited JSON, and tables (CSV)
//! whose columns become the fields of a JSON object. Every line leaves with an id, so that sending
//! it a second time is safe.
//!
//! Called by [`super::publish`]; knows nothing of the network.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Error;

/// The longest line: a message of the greatest size, with its envelope.
const LINE_BYTES: u64 = 18 * 1024 * 1024;

/// One message, as a line for the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The JSON object, without a line end.
    pub line: String,
    /// The number of its line in the input, from 1.
    pub number: u64,
    /// Bytes of the input that it took.
    pub read: u64,
}

/// Where messages come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// Newline-delimited JSON; `-` is standard input.
    Lines(PathBuf),
    /// A table.
    Table {
        /// The file.
        file: PathBuf,
        /// The column that has the ids.
        id: Option<String>,
        /// The column that has the keys.
        key: Option<String>,
    },
}

/// The messages of an input, in its order.
pub type Records = Box<dyn Iterator<Item = Result<Record, Error>> + Send>;

impl Input {
    /// What to call it in messages for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Input::Lines(file) if file == Path::new("-") => "standard input".to_owned(),
            Input::Lines(file) | Input::Table { file, .. } => file.display().to_string(),
        }
    }

    /// How many bytes it has; none for standard input.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Input::Lines(file) if file == Path::new("-") => None,
            Input::Lines(file) | Input::Table { file, .. } => file.metadata().ok().map(|data| data.len()),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be read, or a table has not the columns that were named.
    pub fn open(&self) -> Result<Records, Error> {
        match self {
            Input::Lines(file) if file == Path::new("-") => {
                Ok(Box::new(Lines::new(io::stdin(), self.shown())))
            }
            Input::Lines(file) => Ok(Box::new(Lines::new(open(file)?, self.shown()))),
            Input::Table { file, id, key } => {
                let table =
                    Table::open(open(file)?, open(file)?, self.shown(), id.as_deref(), key.as_deref());
                Ok(Box::new(table?))
            }
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// An id that nobody else makes, ordered by time.
#[must_use]
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

struct Lines<R> {
    reader: BufReader<R>,
    name: String,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(reader: R, name: String) -> Self {
        Self { reader: BufReader::with_capacity(1 << 18, reader), name, number: 0 }
    }

    fn read(&mut self) -> Result<Option<Record>, String> {
        loop {
            let mut line = Vec::new();
            let limited = &mut (&mut self.reader).take(LINE_BYTES);
            let read = limited.read_until(b'\n', &mut line).map_err(|error| error.to_string())? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read == LINE_BYTES && line.last() != Some(&b'\n') {
                return Err(format!("the line is longer than {LINE_BYTES} bytes"));
            }
            let line = String::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
            if !line.trim().is_empty() {
                return Ok(Some(Record { line: with_id(line.trim())?, number: self.number, read }));
            }
        }
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.read().transpose()?;
        Some(record.map_err(|why| Error::Usage(format!("{}, line {}: {why}", self.name, self.number))))
    }
}

/// What decides whether a line needs an id; everything else is the server's to check.
#[derive(Deserialize)]
struct Line {
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
}

/// Tells an id that is null from one that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The line with an id. Not a byte of the payload is changed on the way: numbers stay as exact as
/// they were written.
fn with_id(line: &str) -> Result<String, String> {
    let shape = || r#"the line is no JSON object such as {"key":"K","payload":{}}"#.to_owned();
    // Serde would take an array for an object.
    let rest = line.strip_prefix('{').ok_or_else(shape)?.trim_start();
    let parsed: Line = serde_json::from_str(line).map_err(|error| format!("{}: {error}", shape()))?;
    match parsed.id {
        Some(Value::String(_)) => Ok(line.to_owned()),
        Some(other) => Err(format!("the id is {other}; it is a string, or left out to have one made")),
        None => {
            let comma = if rest.starts_with('}') { "" } else { "," };
            Ok(format!("{{\"id\":\"{}\"{comma}{rest}", new_id()))
        }
    }
}

struct Table {
    reader: csv::Reader<File>,
    name: String,
    columns: Vec<Column>,
    id: Option<usize>,
    key: Option<usize>,
    position: u64,
}

/// A column, and what its values are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    /// Whether every value is an integer in its shortest form. A column with `0017` in it has text,
    /// in all rows.
    integers: bool,
}

impl Table {
    /// Reads the table once to learn its columns, and gets ready to read it again.
    fn open(
        first: File,
        again: File,
        name: String,
        id: Option<&str>,
        key: Option<&str>,
    ) -> Result<Self, Error> {
        let columns = columns(first).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
        let find = |wanted: Option<&str>| {
            let Some(wanted) = wanted else { return Ok(None) };
            let found = columns.iter().position(|column| column.name == wanted).map(Some);
            found.ok_or_else(|| {
                let all: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                Error::Usage(format!("{name} has no column {wanted:?}; it has {}", all.join(", ")))
            })
        };
        let (id, key) = (find(id)?, find(key)?);
        Ok(Self { reader: csv::Reader::from_reader(again), name, columns, id, key, position: 0 })
    }

    fn record(&mut self, row: &csv::StringRecord) -> Record {
        let payload: Map<String, Value> = self
            .columns
            .iter()
            .zip(row)
            .map(|(column, text)| (column.name.clone(), column.value(text)))
            .collect();
        let cell =
            |column: Option<usize>| column.and_then(|column| row.get(column)).filter(|text| !text.is_empty());
        let mut message = json!({ "id": cell(self.id).map_or_else(new_id, str::to_owned) });
        if let Some(message) = message.as_object_mut() {
            message.extend(cell(self.key).map(|key| ("key".to_owned(), key.into())));
            message.insert("payload".to_owned(), payload.into());
        }
        let position = self.reader.position().byte();
        let read = position - self.position;
        self.position = position;
        let number = row.position().map_or(0, csv::Position::line);
        Record { line: message.to_string(), number, read }
    }
}

impl Iterator for Table {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut row = csv::StringRecord::new();
        match self.reader.read_record(&mut row) {
            Ok(true) => Some(Ok(self.record(&row))),
            Ok(false) => None,
            Err(error) => Some(Err(Error::Usage(format!("{}: {error}", self.name)))),
        }
    }
}

impl Column {
    fn value(&self, text: &str) -> Value {
        if !self.integers {
            return text.into();
        }
        // Null where an integer column has nothing.
        text.parse::<i64>().map_or(Value::Null, Value::from)
    }
}

fn columns(table: impl Read) -> Result<Vec<Column>, String> {
    let mut reader = csv::Reader::from_reader(table);
    let names = reader.headers().map_err(|error| error.to_string())?;
    let column = |name: &str| Column { name: name.to_owned(), integers: true };
    let mut columns: Vec<Column> = names.iter().map(column).collect();
    let mut filled = vec![false; columns.len()];
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        for ((column, filled), text) in columns.iter_mut().zip(&mut filled).zip(&row) {
            *filled |= !text.is_empty();
            column.integers &= text.is_empty() || is_integer(text);
        }
    }
    for (column, filled) in columns.iter_mut().zip(filled) {
        column.integers &= filled;
    }
    Ok(columns)
}

/// Whether writing the number again gives the same text.
fn is_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Result<Record, String>> {
        let lines = Lines::new(text.as_bytes(), "f".into());
        lines.map(|record| record.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn lines_keep_their_bytes_and_get_an_id_if_they_have_none() {
        let text = "{\"id\":\"a\",\"payload\":1.50}\n\n {\"payload\": 12345678901234567890123 }\r\n{}";
        let records: Vec<Record> = lines(text).into_iter().map(Result::unwrap).collect();
        assert_eq!(records[0].line, "{\"id\":\"a\",\"payload\":1.50}");
        assert_eq!((records[0].number, records[0].read), (1, 26));
        assert!(records[1].line.ends_with(",\"payload\": 12345678901234567890123 }"), "{}", records[1].line);
        assert_eq!(records[1].number, 3);
        for record in &records[1..] {
            let value: Value = serde_json::from_str(&record.line).unwrap();
            assert!(Uuid::parse_str(value["id"].as_str().unwrap()).is_ok(), "{value}");
        }
    }

    #[test]
    fn bad_lines_are_named_by_their_number() {
        for (bad, why) in [
            ("[1]", "no JSON object"),
            ("[\"a\"]", "no JSON object"),
            ("{", "no JSON object"),
            ("nothing", "no JSON object"),
            (r#"{"id":null}"#, "the id is null"),
            (r#"{"id":7}"#, "the id is 7"),
        ] {
            let found = lines(&format!("{{}}\n{bad}")).pop().unwrap().unwrap_err();
            assert!(found.starts_with("f, line 2: ") && found.contains(why), "{found}");
        }
    }

    fn table(text: &str, id: Option<&str>, key: Option<&str>) -> Result<Vec<Value>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let input = Input::Table {
            file: file.path().to_owned(),
            id: id.map(str::to_owned),
            key: key.map(str::to_owned),
        };
        let records = input.open().map_err(|error| error.to_string())?;
        let read = records.map(|record| record.map_err(|error| error.to_string()));
        let read: Vec<Record> = read.collect::<Result<_, _>>()?;
        assert_eq!(read.first().map(|record| record.number), Some(2));
        Ok(read.iter().map(|record| serde_json::from_str(&record.line).unwrap()).collect())
    }

    #[test]
    fn a_column_is_of_one_kind_in_all_rows() {
        let text = "order,customer,amount,note,none\no1,0007,12,5,\no2,1234,,\"a,\nb\",\n";
        let rows = table(text, Some("order"), Some("customer")).unwrap();
        let expect = [
            json!({"id": "o1", "key": "0007",
                "payload": {"order": "o1", "customer": "0007", "amount": 12, "note": "5", "none": ""}}),
            json!({"id": "o2", "key": "1234",
                "payload": {"order": "o2", "customer": "1234", "amount": null, "note": "a,\nb", "none": ""}}),
        ];
        assert_eq!(rows, expect);
    }

    #[test]
    fn tables_name_what_is_wrong() {
        let unknown = table("a,b\n1,2\n", Some("c"), None).unwrap_err();
        assert!(unknown.contains("no column \"c\"; it has a, b"), "{unknown}");
        let uneven = table("a,b\n1\n", None, None).unwrap_err();
        assert!(uneven.contains("line: 2"), "{uneven}");
    }

    #[test]
    fn only_integers_that_survive_the_way_are_integers() {
        for (text, expect) in [
            ("0", true),
            ("-7", true),
            ("9223372036854775807", true),
            ("9223372036854775808", false),
            ("007", false),
            ("+1", false),
            ("-0", false),
            ("1.0", false),
            (" 1", false),
        ] {
            assert_eq!(is_integer(text), expect, "{text:?}");
        }
    }
}
