//! The definition of a broker: of which kind it is, where it is, and how its secrets are kept out of
//! what people see.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::{Code, Owner, Refusal};

/// What stands for a password wherever a definition is shown. Put back, it means the password that
/// is there already.
pub(crate) const HIDDEN: &str = "***";

/// How much of a URL may be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown {
    /// All but its password.
    ButPassword,
    /// All but its password and what is asked in it.
    ButQuery,
    /// Only where it is.
    Host,
}

/// A named connection to a system that keeps messages.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BrokerDefinition {
    /// What kind of system it is: `amqp` (RabbitMQ) or `redis`.
    pub kind: String,
    /// Where it is, with user and password.
    pub url: Address,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Who is responsible.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Further settings, as its kind has them.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<String, serde_json::Value>))]
    pub settings: Map<String, Value>,
}

/// Where a broker is: a URL, or where to find it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Address {
    /// The URL itself. It is stored as it is; shown without its password.
    Url(String),
    /// The environment variable of the host that holds the URL, so that it is stored nowhere.
    Variable {
        /// Its name.
        env: String,
    },
}

impl Address {
    /// The URL.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when it is none, or the variable is not set. The sentence has no
    /// password in it.
    pub fn url(&self) -> Result<Url, Refusal> {
        let refuse = |detail: String| Err(Refusal::new(Code::InvalidDefinition, detail));
        match self {
            Address::Url(text) => match Url::parse(text) {
                Ok(url) => Ok(url),
                Err(error) => refuse(format!("url is no URL: {error}")),
            },
            Address::Variable { env } => match std::env::var(env) {
                Ok(text) => match Url::parse(&text) {
                    Ok(url) => Ok(url),
                    Err(error) => refuse(format!("the environment variable {env} holds no URL: {error}")),
                },
                Err(_) => refuse(format!(
                    "the environment variable {env} is not set for this host; set it and start the host anew"
                )),
            },
        }
    }

    fn parsed(&self) -> Option<Url> {
        match self {
            Address::Url(text) => Url::parse(text).ok(),
            Address::Variable { .. } => None,
        }
    }

    pub(crate) fn hidden(&self, shown: Shown) -> Self {
        let Some(mut url) = self.parsed() else { return self.clone() };
        let mut hides = false;
        if matches!(shown, Shown::Host) && url.path().len() > 1 {
            url.set_path(HIDDEN);
            hides = true;
        }
        if !matches!(shown, Shown::ButPassword) && url.query().is_some() {
            url.set_query(matches!(shown, Shown::ButQuery).then_some(HIDDEN));
            hides = true;
        }
        match without_password(url.clone()) {
            Some(shown) => Address::Url(shown),
            None if hides => Address::Url(url.into()),
            None => self.clone(),
        }
    }
}

/// The URL as it may be shown, if there is something to hide.
fn without_password(mut url: Url) -> Option<String> {
    url.password()?;
    // A URL that cannot have a password has none to hide.
    url.set_password(Some(HIDDEN)).ok()?;
    Some(url.into())
}

/// The URL with the password of another one, if it has what is shown in its place.
fn with_password_of(mut url: Url, before: Option<Url>) -> Option<String> {
    let before = before.filter(|_| url.password() == Some(HIDDEN))?;
    url.set_password(before.password()).ok()?;
    Some(url.into())
}

/// A setting that is a URL.
fn url_in(value: &Value) -> Option<Url> {
    Url::parse(value.as_str()?).ok()
}

impl BrokerDefinition {
    /// The definition as it may be shown: without the passwords of its URL and of those among its settings.
    #[must_use]
    pub fn hidden(&self) -> Self {
        let mut hidden = Self { url: self.url.hidden(Shown::ButPassword), ..self.clone() };
        for value in hidden.settings.values_mut() {
            if let Some(shown) = url_in(value).and_then(without_password) {
                *value = Value::String(shown);
            }
        }
        hidden
    }

    /// Takes the passwords from the definition that is replaced, where this one only has what is
    /// shown for them.
    #[must_use]
    pub fn with_password_of(mut self, before: &Self) -> Self {
        if let Some(whole) = self.url.parsed().and_then(|url| with_password_of(url, before.url.parsed())) {
            self.url = Address::Url(whole);
        }
        for (name, value) in &mut self.settings {
            let old = before.settings.get(name).and_then(url_in);
            if let Some(whole) = url_in(value).and_then(|url| with_password_of(url, old)) {
                *value = Value::String(whole);
            }
        }
        self
    }
}

impl fmt::Debug for BrokerDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerDefinition")
            .field("kind", &self.kind)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hidden(Shown::Host) {
            // What cannot be parsed may have a password anywhere.
            Address::Url(text) if self.parsed().is_some() => write!(f, "{text:?}"),
            Address::Url(_) => f.write_str("(no URL)"),
            Address::Variable { env } => write!(f, "${env}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(json: Value) -> BrokerDefinition {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_password_is_never_shown_and_kept_when_what_is_shown_comes_back() {
        let kept = definition(
            serde_json::json!({"kind": "amqp", "url": "amqp://me:se%20cret@host:5672/%2f", "heartbeat_s": 5,
                "management": "http://you:other@host:15672/", "ca_file": "/a/b"}),
        );
        let shown = kept.hidden();
        assert_eq!(shown.settings["management"], "http://you:***@host:15672/");
        assert_eq!(shown.settings["ca_file"], "/a/b");
        assert_eq!(shown.url, Address::Url("amqp://me:***@host:5672/%2f".into()));
        assert_eq!(shown.settings["heartbeat_s"], 5);
        assert!(!format!("{kept:?}").contains("cret"), "{kept:?}");
        assert_eq!(shown.with_password_of(&kept), kept);
        let other = definition(serde_json::json!({"kind": "amqp", "url": "amqp://me:new@host/"}));
        assert_eq!(other.clone().with_password_of(&kept), other);
    }

    #[test]
    fn an_address_that_cannot_be_used_says_where_it_stands() {
        let none = Address::Variable { env: "BROLLY_NO_SUCH_VARIABLE".into() };
        assert!(none.url().unwrap_err().detail.contains("BROLLY_NO_SUCH_VARIABLE"));
        let wrong = Address::Url("secret".into());
        assert!(!wrong.url().unwrap_err().detail.contains("secret"));
        assert!(!format!("{wrong:?}").contains("secret"));
    }
}
