//! Names and digests: the two ways anything in Brolly is referred to.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Code, Refusal};

/// The name of a topic, queue, route, plugin, subscription or broker.
///
/// 1 to 128 characters of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit. The rule is
/// narrower than any broker's own (AMQP allows 255 bytes of anything), so that a name can be used
/// unquoted in a URL path, a file name, a metric label and a storage key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 128;

    /// Checks `text` against the rule for names.
    ///
    /// # Errors
    /// [`Code::InvalidName`] with the rule that is broken.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fault = match text.chars().next() {
            None => "is empty".to_owned(),
            Some(first) if !first.is_ascii_alphanumeric() => {
                "does not begin with a letter or a digit".to_owned()
            }
            Some(_) if text.len() > Self::MAX_LEN => format!("has {} characters", text.len()),
            Some(_) => match text.chars().find(|&c| !legal(c)) {
                Some(c) => format!("contains {c:?}"),
                None => return Ok(Self(text.into())),
            },
        };
        let shown: String = text.chars().take(64).collect();
        Err(Refusal::new(
            Code::InvalidName,
            format!(
                "the name {shown:?} {fault}; a name has 1 to {} characters of A-Z a-z 0-9 . _ - and begins with a \
                 letter or a digit",
                Self::MAX_LEN
            ),
        ))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for Name {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|refusal| D::Error::custom(refusal.detail))
    }
}

/// A plugin version: the SHA-256 of its bytes, written `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps a SHA-256 that the caller computed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The SHA-256 itself.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The 64 hex digits without the `sha256:` in front, as used in file names.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let refuse = || {
            Refusal::new(
                Code::InvalidDefinition,
                format!("{text:?} is no plugin version; it is written sha256: and 64 lower-case hex digits"),
            )
        };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| D::Error::custom(refusal.detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rule() {
        for good in ["a", "orders.paid", "9", "A-b_c.d", &"x".repeat(128)] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "ä", "a\0", "a\n", &"x".repeat(129)] {
            assert_eq!(Name::new(bad).unwrap_err().code, Code::InvalidName, "{bad:?}");
        }
    }

    #[test]
    fn digests_round_trip_and_refuse_the_rest() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha256:xyz", &"F0".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
