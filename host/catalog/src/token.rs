//! Access tokens: who may do what.

use std::fmt::Write as _;

use brolly_core::Name;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{Catalog, Error, Precondition};

/// What a token allows; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read everything.
    Viewer,
    /// Also change definitions, publish, upload, pause, resume, replay and delete dead letters.
    Operator,
    /// Also make and remove tokens.
    Admin,
}

/// A token as it is kept. The token itself has 256 random bits, so its plain SHA-256 cannot be
/// searched; a slow password hash would only slow every request down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token, hex.
    pub sha256: String,
}

impl Catalog {
    /// Makes a token and answers with it, for the only time.
    ///
    /// # Errors
    /// [`brolly_core::Code::Changed`] when the name is taken.
    pub async fn create_token(&self, name: &Name, role: Role) -> Result<String, Error> {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(|error| Error::Random(error.to_string()))?;
        let secret = format!("brolly_{}", hex(&random));
        let token = Token { role, sha256: sha256(&secret) };
        self.put(name, token, Precondition::Absent).await?;
        Ok(secret)
    }

    /// Who a token belongs to; none if it is not known.
    #[must_use]
    pub fn authenticate(&self, secret: &str) -> Option<(Name, Role)> {
        let presented = sha256(secret);
        let snapshot = self.snapshot();
        let matching = |token: &Token| bool::from(token.sha256.as_bytes().ct_eq(presented.as_bytes()));
        let found = snapshot.tokens.iter().find(|(_, entry)| matching(&entry.value));
        found.map(|(name, entry)| (name.clone(), entry.value.role))
    }
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
