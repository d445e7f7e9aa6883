//! The definition of a channel: a way to tell people something, and how its secrets are kept out of what is
//! shown. How each is used is known in `host/alerts`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    Address, Code, Owner, Refusal,
    definition::Mistakes,
    endpoint::{HIDDEN, Shown},
};

/// A way to tell people something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Channel {
    /// E-mail.
    Smtp(Smtp),
    /// Text messages to phones, by a provider's HTTP interface.
    Sms(Sms),
    /// A request to a program, or to a chat group.
    Webhook(Webhook),
}

/// E-mail by a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// The server: `smtps://user:password@host` (TLS), `smtp://user:password@host:587?tls=required`
    /// (STARTTLS), `…?tls=opportunistic` (STARTTLS where the server has it) or `smtp://host:25` (no TLS).
    pub url: Address,
    /// The sender's address.
    pub from: String,
    /// Who is told beside the owners of the queue: up to 16 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

/// Text messages, by the provider that is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "preset", rename_all = "lowercase")]
pub enum Sms {
    /// Any provider: one request for each phone.
    Http(SmsHttp),
    /// Alibaba Cloud Short Message Service.
    Alibaba(SmsAlibaba),
    /// Twilio.
    Twilio(SmsTwilio),
}

/// A request with the phone and the text in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SmsHttp {
    /// Where it is posted to.
    pub url: Address,
    /// Its body, a template: `{{ phone }}` and `{{ text }}` are put in, each escaped as the content type
    /// asks. Up to 4,096 bytes.
    pub body: String,
    /// Its content type.
    #[serde(default = "json")]
    pub content_type: String,
    /// Its further headers: up to 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Who is told beside the owners of the queue: up to 16 phone numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

fn json() -> String {
    "application/json".to_owned()
}

/// Alibaba Cloud Short Message Service, `SendSms` of its interface of 2017-05-25.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SmsAlibaba {
    /// The AccessKey's id
    pub access_key_id: String,
    /// and its secret.
    pub access_key_secret: Secret,
    /// The approved signature.
    pub sign_name: String,
    /// The approved template's code.
    pub template_code: String,
    /// The template's variables as a template of JSON, in which `{{ text }}`, `{{ queue }}` and `{{ value }}`
    /// are put in.
    #[serde(default = "alibaba_params")]
    pub template_params: String,
    /// Where its interface is.
    #[serde(default = "alibaba_url")]
    pub url: Address,
    /// Who is told beside the owners of the queue: up to 16 phone numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

fn alibaba_params() -> String {
    r#"{"text":"{{ text }}"}"#.to_owned()
}

fn alibaba_url() -> Address {
    Address::Url("https://dysmsapi.aliyuncs.com".to_owned())
}

/// Twilio, `Messages` of its interface of 2010-04-01.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SmsTwilio {
    /// The account's SID
    pub account_sid: String,
    /// and its token.
    pub auth_token: Secret,
    /// The sender's number.
    pub from: String,
    /// Where its interface is.
    #[serde(default = "twilio_url")]
    pub url: Address,
    /// Who is told beside the owners of the queue: up to 16 phone numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

fn twilio_url() -> Address {
    Address::Url("https://api.twilio.com".to_owned())
}

/// A request to a program, or to a chat group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it is posted to.
    pub url: Address,
    /// With what it is signed: the header `X-Hub-Signature-256` is `sha256=` and the hex digits of the
    /// HMAC-SHA256 of the body, as in W3C WebSub; with `dingtalk` and `feishu` the secret of the robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The chat that understands it; without one, the body is the whole notice as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Chat>,
}

/// A chat with robots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "names of products")]
pub enum Chat {
    DingTalk,
    WeCom,
    Feishu,
    Slack,
}

/// Something that nobody is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself. It is stored as it is; shown as `***`.
    Plain(String),
    /// The environment variable of the host that holds it, so that it is stored nowhere.
    Variable {
        /// Its name.
        env: String,
    },
}

impl Secret {
    /// The secret.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when the variable is not set.
    pub fn reveal(&self) -> Result<String, Refusal> {
        match self {
            Secret::Plain(secret) => Ok(secret.clone()),
            Secret::Variable { env } => std::env::var(env).map_err(|_| {
                Refusal::new(
                    Code::InvalidDefinition,
                    format!("the environment variable {env} is not set for this host; set it and start the host anew"),
                )
            }),
        }
    }

    fn hidden(&self) -> Self {
        match self {
            Secret::Plain(_) => Secret::Plain(HIDDEN.to_owned()),
            variable @ Secret::Variable { .. } => variable.clone(),
        }
    }

    /// What is shown for a secret means the secret.
    fn restore(&mut self, before: Option<&Self>) {
        if let Some(before) = before.filter(|before| before.hidden() == *self) {
            *self = before.clone();
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Plain(_) => f.write_str(HIDDEN),
            Secret::Variable { env } => write!(f, "${env}"),
        }
    }
}

impl Channel {
    /// The most people that it tells beside a queue's owners.
    pub const MAX_TO: usize = 16;

    /// Who is told beside the owners of the queue.
    #[must_use]
    pub fn to(&self) -> &[String] {
        match self {
            Channel::Smtp(smtp) => &smtp.to,
            Channel::Sms(Sms::Http(sms)) => &sms.to,
            Channel::Sms(Sms::Alibaba(sms)) => &sms.to,
            Channel::Sms(Sms::Twilio(sms)) => &sms.to,
            Channel::Webhook(_) => &[],
        }
    }

    /// Whom it tells something about a queue with these owners, each once: e-mail addresses or phone numbers;
    /// for a webhook the one empty name of whoever it leads to.
    #[must_use]
    pub fn recipients(&self, owners: &[Owner]) -> Vec<String> {
        let contacts = owners.iter().filter_map(|owner| match owner {
            Owner::Name(_) => None,
            Owner::Contact(contact) => Some(contact),
        });
        let owners: Vec<String> = match self {
            Channel::Smtp(_) => contacts.filter_map(|contact| contact.email.clone()).collect(),
            Channel::Sms(_) => contacts.filter_map(|contact| contact.phone.clone()).collect(),
            Channel::Webhook(_) => vec![String::new()],
        };
        let mut all = Vec::new();
        for one in owners.into_iter().chain(self.to().iter().cloned()) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// Where it is, and how much of that is no secret.
    fn address(&mut self) -> (&mut Address, Shown) {
        match self {
            Channel::Smtp(smtp) => (&mut smtp.url, Shown::ButPassword),
            Channel::Sms(Sms::Http(sms)) => (&mut sms.url, Shown::ButQuery),
            Channel::Sms(Sms::Alibaba(sms)) => (&mut sms.url, Shown::ButQuery),
            Channel::Sms(Sms::Twilio(sms)) => (&mut sms.url, Shown::ButQuery),
            // Whoever knows the address of a robot may write to its group.
            Channel::Webhook(Webhook { url, preset: Some(_), .. }) => (url, Shown::Host),
            Channel::Webhook(Webhook { url, preset: None, .. }) => (url, Shown::ButQuery),
        }
    }

    /// Its secrets, each by the place that it has.
    fn secrets(&mut self) -> BTreeMap<String, &mut Secret> {
        let one = |name: &str, secret| BTreeMap::from([(name.to_owned(), secret)]);
        match self {
            Channel::Smtp(_) => BTreeMap::new(),
            Channel::Sms(Sms::Http(sms)) => {
                sms.headers.iter_mut().map(|(name, secret)| (name.clone(), secret)).collect()
            }
            Channel::Sms(Sms::Alibaba(sms)) => one("access_key_secret", &mut sms.access_key_secret),
            Channel::Sms(Sms::Twilio(sms)) => one("auth_token", &mut sms.auth_token),
            Channel::Webhook(hook) => {
                hook.secret.as_mut().map(|secret| one("secret", secret)).unwrap_or_default()
            }
        }
    }

    /// The definition as it may be shown: without its secrets.
    #[must_use]
    pub fn hidden(&self) -> Self {
        let mut hidden = self.clone();
        for secret in hidden.secrets().into_values() {
            *secret = secret.hidden();
        }
        let (address, shown) = hidden.address();
        *address = address.hidden(shown);
        hidden
    }

    /// Takes secrets from the definition that is replaced, where this one only has what is shown for them.
    #[must_use]
    pub fn with_secrets_of(mut self, before: &Self) -> Self {
        let mut before = before.clone();
        let old: BTreeMap<String, Secret> =
            before.secrets().into_iter().map(|(name, secret)| (name, secret.clone())).collect();
        for (name, secret) in self.secrets() {
            secret.restore(old.get(&name));
        }
        let (was, shown) = before.address();
        let (address, _) = self.address();
        if *address == was.hidden(shown) {
            *address = was.clone();
        }
        self
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with all mistakes.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut mistakes = Mistakes::default();
        mistakes.range("to (how many)", self.to().len() as u64, 0..=Self::MAX_TO as u64);
        if let Channel::Sms(Sms::Http(sms)) = self {
            mistakes.range("body (bytes)", sms.body.len() as u64, 1..=4096);
            mistakes.range("headers (how many)", sms.headers.len() as u64, 0..=16);
        }
        for (place, secret) in self.clone().secrets() {
            if *secret == Secret::Plain(HIDDEN.to_owned()) {
                mistakes
                    .0
                    .push(format!("{place} is {HIDDEN}, which stands for a secret that is not known here"));
            }
        }
        mistakes.into_result()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn channel(json: serde_json::Value) -> Channel {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn secrets_are_not_shown_and_stay_when_what_is_shown_comes_back() {
        let cases = [
            (
                json!({"kind": "smtp", "url": "smtps://me:SECRET@host", "from": "a@b.c"}),
                "smtps://me:***@host",
            ),
            (
                json!({"kind": "sms", "preset": "http", "url": "https://h/p?key=SECRET", "body": "x",
                    "headers": {"authorization": "SECRET"}}),
                "https://h/p?***",
            ),
            (
                json!({"kind": "sms", "preset": "twilio", "account_sid": "s", "auth_token": "SECRET", "from": "1"}),
                "https://api.twilio.com",
            ),
            (
                json!({"kind": "sms", "preset": "alibaba", "access_key_id": "i", "access_key_secret": "SECRET",
                    "sign_name": "n", "template_code": "c"}),
                "https://dysmsapi.aliyuncs.com",
            ),
            (json!({"kind": "webhook", "url": "https://h/p", "secret": "SECRET"}), "https://h/p"),
            (json!({"kind": "webhook", "preset": "slack", "url": "https://h/a/SECRET"}), "https://h/***"),
        ];
        for (given, url) in cases {
            let kept = channel(given);
            let shown = serde_json::to_value(kept.hidden()).unwrap();
            assert!(!shown.to_string().contains("SECRET"), "{shown}");
            assert!(!format!("{kept:?}").contains("SECRET"), "{kept:?}");
            assert_eq!(shown["url"], url);
            assert_eq!(channel(shown).with_secrets_of(&kept), kept);
        }
    }

    #[test]
    fn a_mistake_names_its_field() {
        let cases = [
            (json!({"kind": "fax"}), "fax"),
            (json!({"kind": "smtp", "url": "smtp://h", "from": "a", "cc": 1}), "cc"),
            (json!({"kind": "sms", "preset": "pigeon"}), "pigeon"),
            (json!({"kind": "sms", "preset": "http", "url": "http://h"}), "body"),
            (json!({"kind": "webhook", "url": "http://h", "preset": "irc"}), "irc"),
        ];
        for (given, names) in cases {
            let error = serde_json::from_value::<Channel>(given).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
        let known = channel(json!({"kind": "webhook", "url": "http://h", "secret": "***"}));
        assert!(known.check().unwrap_err().detail.contains("secret"), "shown before, and not known here");
        for (people, right) in [(16, true), (17, false)] {
            let to = vec!["a@b.c"; people];
            let mail = channel(json!({"kind": "smtp", "url": "smtp://h", "from": "a@b.c", "to": to}));
            assert_eq!(mail.check().is_ok(), right, "{people}");
        }
    }
}
