//! The definitions that an operator writes of what keeps messages: topics, queues and routes, with every
//! limit that a field has. They carry the shapes of the HTTP API and of `brolly apply` files.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{AlertRule, Code, Feed, Filter, Name, Pattern, Refusal};

/// Values of fields that are left out.
pub mod defaults {
    use crate::Name;

    /// The broker that needs nothing else.
    #[must_use]
    #[allow(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "the name is a constant that keeps the rule"
    )]
    pub fn broker() -> Name {
        Name::new("embedded").expect("a constant that keeps the rule for names")
    }

    #[allow(clippy::unnecessary_wraps, reason = "the field that it fills may be null")]
    pub(crate) fn guard() -> Option<crate::Guard> {
        Some(crate::Guard::default())
    }

    pub(super) fn key_pattern() -> String {
        "#".to_owned()
    }

    pub(crate) fn workers() -> u32 {
        1
    }

    pub(crate) fn max_in_flight() -> u32 {
        256
    }
}

/// A person or team responsible for something; a bare string is a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Owner {
    /// Only a name.
    Name(String),
    /// A name and ways to reach them.
    Contact(Contact),
}

/// How to reach an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The person or team.
    pub name: String,
    /// E-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Phone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

/// A name that producers publish to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// The broker that it lives on.
    #[serde(default = "defaults::broker")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub broker: Name,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Who is responsible: up to 32.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Its name on the broker, where it differs: 1 to 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// It belongs to somebody else: it must exist on the broker, and is never made, altered or deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Where it gets messages that others publish and nobody keeps; for topics of the embedded broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<Feed>,
    /// Values of JSON payloads that only tokens with the right `unmasked` see, as JSON pointers such as
    /// `/customer/name`; `*` stands for every item of a list. At most 64, of up to 256 bytes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<String>,
}

/// A durable buffer that holds messages until they are handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// The broker that it lives on.
    #[serde(default = "defaults::broker")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub broker: Name,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Who is responsible: up to 32.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// How much it may hold, and for how long.
    #[serde(default)]
    pub retention: Retention,
    /// Which kind of queue, where the broker has several: `quorum` (default) or `classic` on
    /// RabbitMQ, `list` or `stream` on Redis.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name on the broker, where it differs: 1 to 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// It belongs to somebody else: it must exist on the broker, and is never made, altered or deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Values of JSON payloads that only tokens with the right `unmasked` see, as JSON pointers such as
    /// `/customer/name`; `*` stands for every item of a list. At most 64, of up to 256 bytes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<String>,
    /// When its owners are warned: up to 16 rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertRule>,
}

/// How much a queue may hold, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Messages that wait (ready, delayed and in flight): 1 to 100,000,000. A publish that would
    /// exceed it is refused; nothing is dropped.
    pub max_messages: u64,
    /// Bytes of their payloads: 1 to 2^50. A publish that would exceed it is refused.
    pub max_bytes: u64,
    /// A message older than this many milliseconds becomes a dead letter instead of being handled:
    /// 1 or more; none means never.
    pub max_age_ms: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_messages: 10_000_000, max_bytes: 64 << 30, max_age_ms: None }
    }
}

/// A rule from a topic to a queue on the same broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Messages of this topic
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub topic: Name,
    /// go to this queue
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub queue: Name,
    /// if their key matches this pattern ([`Pattern`]; `#`, the default, matches all)
    #[serde(default = "defaults::key_pattern")]
    pub key_pattern: String,
    /// and this CEL expression ([`Filter`]), if there is one, is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl Route {
    /// Checks the pattern and compiles the filter.
    ///
    /// # Errors
    /// [`Code::InvalidPattern`] or [`Code::InvalidFilter`].
    pub fn check(&self) -> Result<(), Refusal> {
        Pattern::new(&self.key_pattern)?;
        self.filter.as_deref().map(Filter::new).transpose()?;
        Ok(())
    }
}

/// Checks who is responsible: up to 32, each field up to 254 bytes.
fn check_owners(mistakes: &mut Mistakes, owners: &[Owner]) {
    mistakes.range("owners (how many)", owners.len() as u64, 0..=32);
    for (number, owner) in owners.iter().enumerate() {
        let fields = match owner {
            Owner::Name(name) => [Some(name), None, None],
            Owner::Contact(Contact { name, email, phone }) => [Some(name), email.as_ref(), phone.as_ref()],
        };
        for (field, text) in ["name", "email", "phone"].into_iter().zip(fields) {
            let length = text.map_or(1, |text| text.len() as u64);
            mistakes.range(&format!("owners[{number}].{field} (bytes)"), length, 1..=254);
        }
    }
}

/// Checks a name on a broker that is not Brolly's own.
fn check_address(mistakes: &mut Mistakes, field: &str, address: Option<&str>) {
    let Some(address) = address else { return };
    mistakes.range(&format!("{field} (bytes)"), address.len() as u64, 1..=255);
    if address.chars().any(char::is_control) {
        mistakes.0.push(format!("{field} contains a control character"));
    }
}

/// The most pointers of a mask, and bytes of each.
const MASK_POINTERS: u64 = 64;
const POINTER_BYTES: u64 = 256;

fn check_mask(mistakes: &mut Mistakes, mask: &[String]) {
    mistakes.range("mask (pointers)", mask.len() as u64, 0..=MASK_POINTERS);
    for pointer in mask {
        mistakes.range("mask (bytes of a pointer)", pointer.len() as u64, 1..=POINTER_BYTES);
        if !pointer.is_empty() && !pointer.starts_with('/') {
            mistakes.0.push(format!(
                "mask: {pointer:?} is no JSON pointer; one begins with /, as in /customer/name"
            ));
        }
    }
}

impl Topic {
    /// A topic with a description and nothing else said.
    #[must_use]
    pub fn on(broker: Name, description: impl Into<String>) -> Self {
        Self {
            broker,
            description: description.into(),
            owners: Vec::new(),
            address: None,
            adopt: false,
            feed: None,
            mask: Vec::new(),
        }
    }

    /// Its name on the broker, given its name here.
    #[must_use]
    pub fn address<'a>(&'a self, name: &'a Name) -> &'a str {
        self.address.as_deref().unwrap_or(name.as_str())
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with all mistakes.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut mistakes = Mistakes::default();
        check_owners(&mut mistakes, &self.owners);
        check_address(&mut mistakes, "address", self.address.as_deref());
        check_mask(&mut mistakes, &self.mask);
        if let Some(feed) = &self.feed {
            check_address(&mut mistakes, "feed.channel", Some(&feed.channel));
            check_address(&mut mistakes, "feed.group", feed.group.as_deref());
        }
        mistakes.into_result()
    }
}

impl Queue {
    /// A queue with nothing else said.
    #[must_use]
    pub fn on(broker: Name) -> Self {
        Self {
            broker,
            description: String::new(),
            owners: Vec::new(),
            retention: Retention::default(),
            kind: None,
            address: None,
            adopt: false,
            mask: Vec::new(),
            alerts: Vec::new(),
        }
    }

    /// Its name on the broker, given its name here.
    #[must_use]
    pub fn address<'a>(&'a self, name: &'a Name) -> &'a str {
        self.address.as_deref().unwrap_or(name.as_str())
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with all mistakes.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut mistakes = Mistakes::default();
        check_mask(&mut mistakes, &self.mask);
        check_owners(&mut mistakes, &self.owners);
        AlertRule::check_all(&self.alerts, &mut mistakes);
        mistakes.range("retention.max_messages", self.retention.max_messages, 1..=100_000_000);
        mistakes.range("retention.max_bytes", self.retention.max_bytes, 1..=1 << 50);
        mistakes.range("retention.max_age_ms", self.retention.max_age_ms.unwrap_or(1), 1..=u64::MAX);
        check_address(&mut mistakes, "address", self.address.as_deref());
        mistakes.into_result()
    }
}

/// Everything that is wrong with a definition, so that it is mended in one go.
#[derive(Default)]
pub(crate) struct Mistakes(pub Vec<String>);

impl Mistakes {
    pub(crate) fn range(&mut self, field: &str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            self.0.push(format!("{field} is {value}, allowed are {} to {}", range.start(), range.end()));
        }
    }

    pub(crate) fn into_result(self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Refusal::new(Code::InvalidDefinition, self.0.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_lists_of_pointers_within_their_limits() {
        let check = |mask: Vec<String>, wrong: Option<&str>| {
            let queue = Queue { mask: mask.clone(), ..Queue::on(defaults::broker()) };
            let topic = Topic { mask, ..Topic::on(defaults::broker(), "") };
            for checked in [queue.check(), topic.check()] {
                match (checked, wrong) {
                    (checked, None) => assert_eq!(checked, Ok(())),
                    (checked, Some(word)) => assert!(checked.unwrap_err().detail.contains(word), "{word}"),
                }
            }
        };
        let pointer = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        check(vec!["/customer/name".into(), "/items/*/to".into(), "/".into()], None);
        check(vec![pointer(256); 64], None);
        check(vec![pointer(2); 65], Some("mask (pointers)"));
        check(vec![pointer(257)], Some("mask (bytes of a pointer)"));
        check(vec![String::new()], Some("mask (bytes of a pointer)"));
        check(vec!["customer".into()], Some("no JSON pointer"));
    }
    #[test]
    fn what_a_queue_holds_is_limited() {
        let check = |field: &str, value: u64| {
            let mut queue = serde_json::json!({"retention": {}});
            queue["retention"][field] = value.into();
            serde_json::from_value::<Queue>(queue).unwrap().check()
        };
        for (field, most) in [("max_messages", 100_000_000), ("max_bytes", 1 << 50), ("max_age_ms", u64::MAX)]
        {
            assert_eq!((check(field, 1), check(field, most)), (Ok(()), Ok(())), "{field}");
            for beyond in [Some(0), most.checked_add(1)].into_iter().flatten() {
                let mistake = check(field, beyond).unwrap_err();
                assert!(mistake.detail.contains(&format!("retention.{field}")), "{mistake}");
            }
        }
    }

    #[test]
    fn owners_and_addresses_are_limited() {
        let owners = |count: usize, bytes: usize| {
            let name = "n".repeat(bytes);
            let owner = serde_json::json!({"name": name, "email": "a@b.example"});
            let topic = serde_json::json!({"owners": vec![owner; count]});
            serde_json::from_value::<Topic>(topic)
                .map_err(|error| error.to_string())?
                .check()
                .map_err(|r| r.detail)
        };
        assert_eq!(owners(32, 254), Ok(()));
        assert!(owners(33, 1).unwrap_err().contains("owners"));
        assert!(owners(1, 255).unwrap_err().contains("owners"));
        let address = |bytes: usize| {
            Topic { address: Some("a".repeat(bytes)), ..Topic::on(defaults::broker(), "") }.check()
        };
        assert_eq!((address(1), address(255)), (Ok(()), Ok(())));
        for bytes in [0, 256] {
            assert!(address(bytes).unwrap_err().detail.contains("address"), "{bytes}");
        }
    }
}
