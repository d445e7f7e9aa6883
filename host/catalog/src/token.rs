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

/// What a token allows, as it is granted. What is not said goes by the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Whether payloads may be seen: those of messages and dead letters, captures, and the state of
    /// plugins. By default operators and admins may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payloads: Option<bool>,
    /// Whether values may be seen that topics and queues mask. By default admins may, if they may see
    /// payloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmasked: Option<bool>,
}

impl Grant {
    /// What a role has by default.
    #[must_use]
    pub fn of(role: Role) -> Self {
        Self { role, payloads: None, unmasked: None }
    }

    /// What it comes to.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] for masked values without payloads.
    pub fn check(self) -> Result<Rights, Refusal> {
        if self.unmasked == Some(true) && !self.rights().payloads {
            let detail =
                "the right unmasked needs the right payloads, which this role has only if it is said";
            return Err(Refusal::new(Code::InvalidDefinition, detail));
        }
        Ok(self.rights())
    }

    fn rights(self) -> Rights {
        let payloads = self.payloads.unwrap_or(self.role >= Role::Operator);
        let unmasked = payloads && self.unmasked.unwrap_or(self.role >= Role::Admin);
        Rights { role: self.role, payloads, unmasked }
    }
}

/// What somebody may do and see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The role.
    pub role: Role,
    /// Payloads may be seen.
    pub payloads: bool,
    /// Masked values may be seen.
    pub unmasked: bool,
}

/// A token as it is kept. The token itself has 256 random bits, so its plain SHA-256 cannot be
/// searched; a slow password hash would only slow every request down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it allows.
    #[serde(flatten)]
    pub grant: Grant,
    /// SHA-256 of the token, hex.
    pub sha256: String,
}

impl Token {
    /// What its owner may do and see.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.grant.rights()
    }

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
    /// [`Code::Changed`] when the name is taken; what [`Grant::check`] says.
    pub async fn create_token(&self, name: &Name, grant: Grant, by: Option<&Name>) -> Result<String, Error> {
        let secret = Token::new_secret()?;
        self.adopt_token(name, grant, &secret, by).await?;
        Ok(secret)
    }

    /// Takes a secret from [`Token::new_secret`] that its owner has already as a new token.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when it has not the form of one, or as [`Grant::check`] says;
    /// [`Code::Changed`] when the name is taken.
    pub async fn adopt_token(
        &self,
        name: &Name,
        grant: Grant,
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
        grant.check()?;
        self.put(name, Token { grant, sha256: sha256(secret) }, Precondition::Absent, by).await?;
        Ok(())
    }

    /// Who a token belongs to; none if it is not known.
    #[must_use]
    pub fn authenticate(&self, secret: &str) -> Option<(Name, Rights)> {
        let presented = sha256(secret);
        let snapshot = self.snapshot();
        let matching = |token: &Token| bool::from(token.sha256.as_bytes().ct_eq(presented.as_bytes()));
        let found = snapshot.tokens.iter().find(|(_, entry)| matching(&entry.value));
        found.map(|(name, entry)| (name.clone(), entry.value.rights()))
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
