//! The rules by which a queue's owners are warned, with every limit that a field has. They carry the shapes
//! of the HTTP API and of `brolly apply` files; when one is broken is decided in `host/alerts`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Name, definition::Mistakes};

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// Messages that wait to be taken.
    Ready,
    /// Age of the oldest message that waits, in milliseconds; only where the broker can tell it.
    OldestAge,
    /// Dead letters.
    Dead,
    /// Of the attempts of the last minute, how many in a hundred failed: tried again or dead.
    FailureRate,
    /// No subscription takes from the queue: there is none, or it is paused or cannot run.
    NoConsumer,
}

impl Watched {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Watched::Ready => "ready",
            Watched::OldestAge => "oldest_age",
            Watched::Dead => "dead",
            Watched::FailureRate => "failure_rate",
            Watched::NoConsumer => "no_consumer",
        }
    }

    /// The range of a threshold; none where there is nothing to compare.
    fn thresholds(self) -> Option<RangeInclusive<u64>> {
        match self {
            Watched::Ready | Watched::Dead => Some(0..=100_000_000),
            Watched::OldestAge => Some(0..=YEAR_MS),
            Watched::FailureRate => Some(0..=99),
            Watched::NoConsumer => None,
        }
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const YEAR_MS: u64 = 366 * DAY_MS;

/// When the owners of a queue are warned, and by which channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AlertRule {
    /// What it looks at.
    pub when: Watched,
    /// Tells it from other rules of its queue; the word of `when` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub name: Option<Name>,
    /// A value above this is too much: up to 100,000,000 messages, 366 days in milliseconds, 99 percent.
    /// To be left out with `no_consumer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<u64>,
    /// It is over when the value is this or less: up to `above`, which it is if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<u64>,
    /// How long it must have been too much, and then well again, before that counts: 0 to 86,400,000
    /// milliseconds.
    #[serde(default = "defaults::for_ms")]
    pub for_ms: u64,
    /// After how long the owners are told again while it lasts: 1,000 to 2,592,000,000 milliseconds; null
    /// means never.
    #[serde(default = "defaults::repeat_ms")]
    pub repeat_ms: Option<u64>,
    /// When nobody is told; what is still so at the end of it is told then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// The channels by which the owners are told: 1 to 16.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub channels: Vec<Name>,
}

mod defaults {
    pub(super) fn for_ms() -> u64 {
        60_000
    }

    #[allow(clippy::unnecessary_wraps, reason = "the type of the field")]
    pub(super) fn repeat_ms() -> Option<u64> {
        Some(3_600_000)
    }
}

/// Hours of a day in which nobody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Quiet {
    /// From this time of day, `HH:MM`,
    pub from: String,
    /// to this one, which may lie on the next day.
    pub to: String,
    /// Where it is that time: a name of the IANA time zone database, such as `Asia/Shanghai`.
    pub zone: String,
}

impl AlertRule {
    /// The most rules of one queue.
    pub const MAX_RULES: usize = 16;
    /// The most channels of one rule.
    pub const MAX_CHANNELS: usize = 16;
    /// The most people and programs that one rule tells.
    pub const MAX_RECIPIENTS: usize = 32;

    /// What it is called among the rules of its queue.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_ref().map_or(self.when.as_str(), Name::as_str)
    }

    /// The threshold; whatever is not there at all is above zero.
    #[must_use]
    pub fn threshold(&self) -> u64 {
        self.above.unwrap_or(0)
    }

    /// The value at which it is over.
    #[must_use]
    pub fn calm(&self) -> u64 {
        self.clear.unwrap_or(self.threshold())
    }

    pub(crate) fn check_all(rules: &[Self], mistakes: &mut Mistakes) {
        mistakes.range("alerts (rules)", rules.len() as u64, 0..=Self::MAX_RULES as u64);
        for (number, rule) in rules.iter().enumerate() {
            let earlier = rules.iter().take(number);
            if earlier.clone().any(|earlier| earlier.title() == rule.title()) {
                let title = rule.title();
                mistakes
                    .0
                    .push(format!("alerts[{number}] is the second rule named {title}; give it another name"));
            }
            rule.check(&format!("alerts[{number}]"), mistakes);
        }
    }

    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        let word = self.when.as_str();
        match (self.when.thresholds(), self.above) {
            (Some(range), Some(above)) => mistakes.range(&format!("{at}.above"), above, range),
            (Some(_), None) => {
                mistakes.0.push(format!("{at}.above is missing: say how much of {word} is too much"))
            }
            (None, None) => {}
            (None, Some(_)) => {
                mistakes.0.push(format!("{at}.above has no meaning with {word}; leave it out"))
            }
        }
        if let (Some(clear), Some(above)) = (self.clear, self.above) {
            mistakes.range(&format!("{at}.clear"), clear, 0..=above);
        }
        if self.clear.is_some() && self.above.is_none() {
            mistakes.0.push(format!("{at}.clear has no meaning without above; leave it out"));
        }
        mistakes.range(&format!("{at}.for_ms"), self.for_ms, 0..=DAY_MS);
        mistakes.range(&format!("{at}.repeat_ms"), self.repeat_ms.unwrap_or(1000), 1000..=30 * DAY_MS);
        mistakes.range(
            &format!("{at}.channels (how many)"),
            self.channels.len() as u64,
            1..=Self::MAX_CHANNELS as u64,
        );
    }
}
