//! Key patterns, with the meaning that AMQP gave to topic exchanges.

use std::fmt;

use crate::{Code, Refusal};

/// A pattern over a message key. Key and pattern are split into words at `.`; in the pattern `*`
/// stands for exactly one word and `#` for any number of words, none included.
///
/// Source of the rule: AMQP 0-9-1, section 3.1.3.3 (the topic exchange type). The empty key is one
/// empty word; `#` alone matches every key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// One word of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Word<'a> {
    Literal(&'a str),
    One,
    Any,
}

impl Pattern {
    /// The longest pattern, in bytes (AMQP's own limit for a binding key).
    pub const MAX_LEN: usize = 255;
    /// The most `#` in one pattern; matching cost grows with each.
    pub const MAX_HASHES: usize = 4;

    /// Checks a pattern.
    ///
    /// # Errors
    /// [`Code::InvalidPattern`]: too long, too many `#`, a control character, or a wildcard that is
    /// only part of a word (`ab*`), which would silently match nothing.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| {
            Err(Refusal::new(
                Code::InvalidPattern,
                format!(
                    "the key pattern {text:?} {why}; words are separated by '.', '*' stands for one word, '#' for any \
                     number of words"
                ),
            ))
        };
        if text.is_empty() {
            return refuse("is empty; use \"#\" to match every key".into());
        }
        if text.len() > Self::MAX_LEN {
            return refuse(format!("has {} bytes, the limit is {}", text.len(), Self::MAX_LEN));
        }
        if text.chars().any(char::is_control) {
            return refuse("contains a control character".into());
        }
        for word in text.split('.') {
            if word.len() > 1 && word.contains(['*', '#']) {
                return refuse(format!("has the word {word:?}, where a wildcard is only a part of a word"));
            }
        }
        if text.split('.').filter(|&word| word == "#").count() > Self::MAX_HASHES {
            return refuse(format!("has more than {} '#'", Self::MAX_HASHES));
        }
        Ok(Self(text.to_owned()))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        self.0.split('.').map(|word| match word {
            "*" => Word::One,
            "#" => Word::Any,
            literal => Word::Literal(literal),
        })
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_keep_their_rule() {
        for good in ["#", "*", "a.b", "a.*.c", "#.x.#", "eu.*", "a..b", "#.#.#.#", &"x".repeat(255)] {
            assert!(Pattern::new(good).is_ok(), "{good}");
        }
        for bad in ["", "ab*", "#a", "a.b#.c", "a\n", "#.#.#.#.#", &"x".repeat(256)] {
            assert_eq!(Pattern::new(bad).unwrap_err().code, Code::InvalidPattern, "{bad}");
        }
    }
}
