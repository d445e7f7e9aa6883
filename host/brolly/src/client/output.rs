//! How things are written for people: tables, moments, durations, and text that others wrote.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use serde_json::Value;

pub use brolly_samples::shown;

/// Writes to standard output. An error, such as a reader that went away, is the caller's to see.
///
/// # Errors
/// What the system says.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes JSON to standard output, over several lines.
///
/// # Errors
/// What the system says.
pub fn print_json(value: &Value) -> io::Result<()> {
    print(&format!("{value:#}\n"))
}

/// Text of others, cut to `limit` characters.
#[must_use]
pub fn cut(text: &str, limit: usize) -> String {
    let safe = shown(text);
    match safe.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", safe.get(..at).unwrap_or_default()),
        None => safe,
    }
}

/// A moment in UTC, such as `2026-11-22T10:15:30.250Z`.
#[must_use]
pub fn moment(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| format!("{ms} ms"), |moment| format!("{moment:.3}"))
}

/// A duration in the unit that suits it.
#[must_use]
pub fn duration(us: u64) -> String {
    let (ms, s) = (us / 1_000, us / 1_000_000);
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{ms}.{} ms", us % 1_000 / 100),
        100_000..1_000_000 => format!("{ms} ms"),
        1_000_000..60_000_000 => format!("{s}.{} s", us % 1_000_000 / 100_000),
        _ => match s {
            0..3_600 => format!("{} min {:02} s", s / 60, s % 60),
            3_600..172_800 => format!("{} h {:02} min", s / 3_600, s / 60 % 60),
            _ => format!("{} days", s / 86_400),
        },
    }
}

/// The text under a key; empty if there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The number under a key, or a dash.
#[must_use]
pub fn number(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Rows under headings, each column as wide as its widest cell. A heading that begins with `>` is
/// that of a column of numbers, which stand on the right.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> =
        headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&titles).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, heading), width) in row.iter().zip(headings).zip(&widths) {
            // Writing to a String cannot fail.
            let _ = if heading.starts_with('>') {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["longer".into(), "7".into()]];
        assert_eq!(table(&["name", ">n"], &rows), "name     n\na       10\nlonger   7\n");
    }

    #[test]
    fn moments_and_durations() {
        assert_eq!(moment(1_700_000_000_250), "2023-11-14T22:13:20.250Z");
        let expected = [
            (999, "999 µs"),
            (1_500, "1.5 ms"),
            (250_000, "250 ms"),
            (59_900_000, "59.9 s"),
            (61_000_000, "1 min 01 s"),
            (3_660_000_000, "1 h 01 min"),
            (259_200_000_000, "3 days"),
        ];
        for (us, text) in expected {
            assert_eq!(duration(us), text);
        }
    }

    #[test]
    fn text_of_others_is_cut() {
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äö", 2), "äö");
    }
}
