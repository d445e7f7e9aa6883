//! What people are told of an alert: to whom, and in which words. Pure.

use brolly_core::{Name, Owner, Timestamp, Watched};
use serde::{Deserialize, Serialize};

use crate::{Alert, error::Failure};

/// Why people are told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// It fires.
    Firing,
    /// It still does.
    Repeat,
    /// It is over.
    Recovery,
    /// Somebody tries the channel.
    Test,
}

impl Occasion {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Occasion::Firing => "firing",
            Occasion::Repeat => "repeat",
            Occasion::Recovery => "recovery",
            Occasion::Test => "test",
        }
    }
}

/// Something that one person or program is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its number among those of its alert.
    pub number: u32,
    /// Why.
    pub occasion: Occasion,
    /// By which channel.
    pub channel: Name,
    /// To which address or phone; empty for a webhook.
    pub to: String,
    /// The value then.
    pub value: Option<u64>,
    /// When it was decided.
    pub at: Timestamp,
    /// When it got through.
    pub sent_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, if it failed.
    pub retry_at: Option<Timestamp>,
    /// Whether it is not tried any more.
    pub given_up: bool,
    /// Why it did not get through the last time.
    pub error: Option<String>,
}

impl Notice {
    pub(crate) fn new(
        number: u32,
        occasion: Occasion,
        channel: Name,
        to: String,
        value: Option<u64>,
        at: Timestamp,
    ) -> Self {
        Self {
            number,
            occasion,
            channel,
            to,
            value,
            at,
            sent_at: None,
            attempts: 0,
            retry_at: None,
            given_up: false,
            error: None,
        }
    }

    /// Whether nothing is left to do for it.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.sent_at.is_some() || self.given_up
    }

    pub(crate) fn is_to(&self, channel: &Name, to: &str) -> bool {
        self.channel == *channel && self.to == to
    }

    pub(crate) fn failed(&mut self, failure: &Failure, retry_at: Option<Timestamp>) {
        self.error = Some(failure.to_string());
        self.given_up = retry_at.is_none();
        self.retry_at = retry_at;
    }
}

/// A notice in words, as a channel carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Letter {
    /// The same each time that this notice is tried, so that who gets it twice can tell.
    pub id: String,
    pub kind: Occasion,
    /// The alert's number; none for a test.
    pub alert: Option<String>,
    pub queue: Option<Name>,
    pub rule: Option<String>,
    pub when: Option<Watched>,
    pub above: Option<u64>,
    pub value: Option<u64>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// When this was decided, in milliseconds since 1970.
    pub at_ms: u64,
    pub owners: Vec<String>,
    /// One line.
    pub subject: String,
    /// A few sentences.
    pub text: String,
}

impl Letter {
    /// What is told of an alert. `host` tells the letters of several hosts apart.
    pub(crate) fn new(host: &str, alert: &Alert, notice: &Notice) -> Self {
        let owners: Vec<String> = alert.owners.iter().map(owner).collect();
        let (queue, state) = (&alert.queue, state(alert.when, notice.value, alert.above));
        let (subject, text) = match notice.occasion {
            Occasion::Recovery => (
                format!("Recovered: queue {queue}"),
                format!("The queue {queue} is well again: {state}. It was not from {}.", moment(alert.since)),
            ),
            Occasion::Repeat => (
                format!("Still: queue {queue}, {state}"),
                format!("The queue {queue} still has trouble: {state}, since {}.", moment(alert.since)),
            ),
            Occasion::Firing | Occasion::Test => (
                format!("Queue {queue}: {state}"),
                format!("The queue {queue} has trouble: {state}, since {}.", moment(alert.since)),
            ),
        };
        let whose = if owners.is_empty() { "nobody".to_owned() } else { owners.join(", ") };
        Self {
            id: format!("alert-{}-{}-{host}", alert.number, notice.number),
            kind: notice.occasion,
            alert: Some(alert.number.to_string()),
            queue: Some(queue.clone()),
            rule: Some(alert.rule.clone()),
            when: Some(alert.when),
            above: Some(alert.above),
            value: notice.value,
            since_ms: Some(alert.since.0),
            at_ms: notice.at.0,
            owners,
            text: format!("{text} Owner: {whose}. Rule: {}.", alert.rule),
            subject: format!("[Brolly] {subject}"),
        }
    }

    /// What is told when a channel is tried.
    pub(crate) fn test(host: &str, channel: &Name, now: Timestamp) -> Self {
        Self {
            id: format!("test-{}-{host}", uuid::Uuid::now_v7().simple()),
            kind: Occasion::Test,
            alert: None,
            queue: None,
            rule: None,
            when: None,
            above: None,
            value: None,
            since_ms: None,
            at_ms: now.0,
            owners: Vec::new(),
            subject: format!("[Brolly] Test of the channel {channel}"),
            text: format!("The channel {channel} works. Somebody tried it at {}.", moment(now)),
        }
    }
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Name(name) => name.clone(),
        Owner::Contact(contact) => contact.name.clone(),
    }
}

fn state(when: Watched, value: Option<u64>, above: u64) -> String {
    let value = value.map_or_else(|| "an unknown number of".to_owned(), |value| value.to_string());
    match when {
        Watched::Ready => format!("{value} messages are ready, the limit is {above}"),
        Watched::Dead => format!("{value} dead letters, the limit is {above}"),
        Watched::OldestAge => format!("the oldest message waits for {value} ms, the limit is {above}"),
        Watched::FailureRate => {
            format!("{value} % of the attempts of the last minute failed, the limit is {above} %")
        }
        Watched::NoConsumer if value == "0" => "a subscription takes from it".to_owned(),
        Watched::NoConsumer => "no subscription takes from it".to_owned(),
    }
}

fn moment(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).unwrap_or(i64::MAX));
    at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use brolly_core::{AlertRule, Contact};
    use serde_json::json;

    use super::*;
    use crate::alert::Look;

    #[test]
    fn a_letter_says_what_whose_since_when() {
        let rule: AlertRule =
            serde_json::from_value(json!({"when": "ready", "above": 100, "channels": ["mail"]})).unwrap();
        let look = Look { value: Some(120), quiet: false, now: Timestamp(1_700_000_000_000) };
        let owners = [
            Owner::Contact(Contact { name: "Ann".into(), email: Some("ann@b.c".into()), phone: None }),
            Owner::Name("ops".into()),
        ];
        let queue = Name::new("settlement").unwrap();
        let alert = Alert::begin(7, &queue, &rule, &owners, look);
        let said = |occasion, value| {
            let mail = Name::new("mail").unwrap();
            let notice = Notice::new(3, occasion, mail, "ann@b.c".into(), value, look.now);
            let letter = Letter::new("h", &alert, &notice);
            assert_eq!(letter.id, "alert-7-3-h");
            (letter.subject, letter.text)
        };
        let firing = said(Occasion::Firing, Some(120));
        assert_eq!(firing.0, "[Brolly] Queue settlement: 120 messages are ready, the limit is 100");
        assert_eq!(
            firing.1,
            "The queue settlement has trouble: 120 messages are ready, the limit is 100, since 2023-11-14 22:13:20 UTC. \
             Owner: Ann, ops. Rule: ready."
        );
        assert!(said(Occasion::Repeat, Some(130)).0.contains("Still: queue settlement, 130 messages"));
        assert!(said(Occasion::Recovery, Some(3)).0.ends_with("Recovered: queue settlement"));
        assert!(said(Occasion::Repeat, None).1.contains("an unknown number of messages"));
    }
}
