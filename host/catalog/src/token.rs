//! Access tokens: who may do what.

use std::fmt::Write as _;

use brolly_core::{Code, Name, Refusal};
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

impl Token {
    /// What every secret begins with, so that people and scanners know one when they see it.
    const PREFIX: &str = "brolly_";
    /// Random bytes of a secret, which has two hexadecimal digits for each.
    const RANDOM_BYTES: usize = 32;

    /// Makes a secret that nobody can guess. It is a token once a catalog has adopted it.
    ///
    /// # Errors
    /// [`Error::Random`] when the system has no randomness.
    pub fn new_secret() -> Result<String, Error> {
        Ok(format!("{}{}", Self::PREFIX, Self::random()?))
    }

    /// 256 random bits, as hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Random`] when the system has no randomness.
    pub fn random() -> Result<String, Error> {
        let mut random = [0_u8; Self::RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(|error| Error::Random(error.to_string()))?;
        Ok(hex(&random))
    }

    /// Whether a text has the form of a secret, whole.
    #[must_use]
    pub fn is_secret(text: &str) -> bool {
        text.strip_prefix(Self::PREFIX).is_some_and(|random| {
            random.len() == 2 * Self::RANDOM_BYTES && random.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

impl Catalog {
    /// Makes a token and answers with it, for the only time.
    ///
    /// # Errors
    /// [`Code::Changed`] when the name is taken.
    pub async fn create_token(&self, name: &Name, role: Role, by: Option<&Name>) -> Result<String, Error> {
        let secret = Token::new_secret()?;
        self.adopt_token(name, role, &secret, by).await?;
        Ok(secret)
    }

    /// Takes a secret from [`Token::new_secret`] that its owner has already as a new token.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when it has not the form of one; [`Code::Changed`] when the name is
    /// taken.
    pub async fn adopt_token(
        &self,
        name: &Name,
        role: Role,
        secret: &str,
        by: Option<&Name>,
    ) -> Result<(), Error> {
        if !Token::is_secret(secret) {
            // Whatever it is, it may be somebody's secret: it is not repeated.
            let detail = format!(
                "the secret of the token {name} is not of the form {} and {} hexadecimal digits",
                Token::PREFIX,
                2 * Token::RANDOM_BYTES
            );
            return Err(Refusal::new(Code::InvalidDefinition, detail).into());
        }
        self.put(name, Token { role, sha256: sha256(secret) }, Precondition::Absent, by).await?;
        Ok(())
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
