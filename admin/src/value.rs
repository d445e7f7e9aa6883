//! Bytes that handlers and producers wrote, shown as what they most likely are.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

/// How bytes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// They are JSON, and shown as it, digit by digit.
    Json,
    /// They are UTF-8 and no JSON: shown as a string.
    Text,
    /// Anything else: shown as `{"base64": "…"}`.
    Base64,
    /// Not shown, since the token lacks the right: null.
    Hidden,
}

#[derive(Serialize)]
struct Wrapped {
    base64: String,
}

/// Shows bytes: as JSON if they are JSON, else as text if they are UTF-8, else in base 64.
pub(crate) fn shown(bytes: &[u8]) -> Result<(Box<RawValue>, Encoding), serde_json::Error> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let wrapped = Wrapped { base64: BASE64_STANDARD.encode(bytes) };
        return Ok((to_raw_value(&wrapped)?, Encoding::Base64));
    };
    match serde_json::from_str(text) {
        Ok(json) => Ok((json, Encoding::Json)),
        Err(_) => Ok((to_raw_value(text)?, Encoding::Text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        let cases: [(&[u8], &str, Encoding); 6] = [
            (br#"{"a":12345678901234567890123}"#, r#"{"a":12345678901234567890123}"#, Encoding::Json),
            (b" 1.50 ", "1.50", Encoding::Json),
            (b"plain", "\"plain\"", Encoding::Text),
            (b"", "\"\"", Encoding::Text),
            (b"{\"a\":1} x", r#""{\"a\":1} x""#, Encoding::Text),
            (&[0xff, 0x00], r#"{"base64":"/wA="}"#, Encoding::Base64),
        ];
        for (bytes, expect, encoding) in cases {
            let (value, as_what) = shown(bytes).unwrap();
            assert_eq!((value.get(), as_what), (expect, encoding));
        }
    }
}
