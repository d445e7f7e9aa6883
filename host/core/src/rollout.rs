//! How a version of a plugin takes the place of another: the guard over a swap, and the rollout of a
//! candidate to a share of the deliveries before it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, definition::Mistakes};

/// Watches over a version that has just taken over. While it does, a delivery that the version faults at
/// is tried again without the attempt being counted; and when it has faulted too often, the host goes
/// back to the version before, with its configuration, limits and grants.
///
/// Only faults count (a trap, a limit), which are the version's own. Retries and rejections are what a
/// handler says of a delivery: a [`Rollout`] compares them with what the version before says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// The host goes back at this many faults: 1 to 1,000.
    pub faults: u32,
    /// How long it watches, in milliseconds from the swap: 1,000 to 86,400,000 (a day).
    pub for_ms: u64,
}

impl Default for Guard {
    fn default() -> Self {
        Self { faults: 10, for_ms: 600_000 }
    }
}

/// What becomes of the share of the deliveries that a candidate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The candidate handles them. The running version handles a copy, without effect, to compare.
    Canary,
    /// The running version handles them. The candidate handles a copy, without effect, to compare.
    Shadow,
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Canary => "canary",
            Mode::Shadow => "shadow",
        }
    }
}

/// A candidate that is held against the running version before it takes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// The candidate: another version of the subscription's plugin.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub version: Digest,
    /// Whose effects count.
    pub mode: Mode,
    /// Its share of the deliveries: 1 to 100. The same keys always fall into the same share; messages
    /// without a key are shared out by their ids.
    pub percent: u32,
    /// The candidate's configuration; none means the subscription's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    /// When the host itself ends it.
    #[serde(default)]
    pub rules: Rules,
}

/// When the host ends a rollout. A share is one of the deliveries that both versions handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Deliveries that both have handled before shares and durations are looked at: 1 to 1,000,000.
    /// As many failures and differences as would exceed a share of these end it before.
    pub after: u64,
    /// Abandons the candidate if it fails at more than this percentage of what the running version
    /// acknowledges: 0 to 100; null leaves it to people.
    pub worse_percent: Option<f64>,
    /// Abandons the candidate if its outcome, state or messages differ in more than this percentage: 0
    /// to 100; null leaves it to people.
    pub differing_percent: Option<f64>,
    /// Abandons the candidate if on average it takes more than this percentage longer: 0 to 100,000;
    /// null leaves it to people.
    pub slower_percent: Option<f64>,
    /// Promotes the candidate once both have handled this many deliveries and nothing above holds:
    /// `after` to 1,000,000,000; null leaves it to people.
    pub promote_after: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            after: 100,
            worse_percent: Some(1.0),
            differing_percent: None,
            slower_percent: None,
            promote_after: None,
        }
    }
}

/// What two versions have come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Deliveries that both have handled.
    pub compared: u64,
    /// Of these, where the candidate failed and the running version did not.
    pub worse: u64,
    /// Of these, where outcome, state or messages differ.
    pub differing: u64,
    /// What all attempts of the running version took, in microseconds.
    pub running_us: u64,
    /// What all attempts of the candidate took, in microseconds.
    pub candidate_us: u64,
}

/// What is to become of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nobody knows yet, or people are to say.
    Wait,
    /// It takes over.
    Promote,
    /// It goes, for this reason.
    Abandon(String),
}

impl Rules {
    /// What the rules say of a score.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "shares of counts far below 2^52")]
    pub fn judge(&self, score: &Score) -> Judgement {
        let base = score.compared.max(self.after) as f64;
        let over =
            |count: u64, limit: Option<f64>| limit.is_some_and(|limit| count as f64 > base * limit / 100.0);
        let of = |count: u64| format!("{count} of {} deliveries", score.compared);
        if over(score.worse, self.worse_percent) {
            let limit = self.worse_percent.unwrap_or_default();
            return Judgement::Abandon(format!(
                "it failed at {} that the running version acknowledges, over {limit} % (worse_percent)",
                of(score.worse)
            ));
        }
        if over(score.differing, self.differing_percent) {
            let limit = self.differing_percent.unwrap_or_default();
            return Judgement::Abandon(format!(
                "its results differ in {}, over {limit} % (differing_percent)",
                of(score.differing)
            ));
        }
        if score.compared < self.after {
            return Judgement::Wait;
        }
        if let Some(limit) = self.slower_percent
            && score.candidate_us as f64 > score.running_us as f64 * (1.0 + limit / 100.0)
        {
            let mean = |us: u64| us / score.compared.max(1);
            return Judgement::Abandon(format!(
                "it takes {} us on average, the running version {} us, over {limit} % more (slower_percent)",
                mean(score.candidate_us),
                mean(score.running_us)
            ));
        }
        match self.promote_after {
            Some(enough) if score.compared >= enough => Judgement::Promote,
            _ => Judgement::Wait,
        }
    }
}

impl Rollout {
    /// Checks every range.
    pub(crate) fn check(&self, mistakes: &mut Mistakes) {
        mistakes.range("rollout.percent", self.percent.into(), 1..=100);
        let rules = &self.rules;
        mistakes.range("rollout.rules.after", rules.after, 1..=1_000_000);
        for (field, value, most) in [
            ("worse_percent", rules.worse_percent, 100.0),
            ("differing_percent", rules.differing_percent, 100.0),
            ("slower_percent", rules.slower_percent, 100_000.0),
        ] {
            if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
                mistakes.0.push(format!("rollout.rules.{field} is {value}, allowed are 0 to {most}"));
            }
        }
        if let Some(enough) = rules.promote_after {
            mistakes.range("rollout.rules.promote_after", enough, rules.after..=1_000_000_000);
        }
    }
}

impl Guard {
    /// Checks every range.
    pub(crate) fn check(&self, mistakes: &mut Mistakes) {
        mistakes.range("guard.faults", self.faults.into(), 1..=1_000);
        mistakes.range("guard.for_ms", self.for_ms, 1_000..=86_400_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: Rules, score: Score, expect: Option<&str>) {
        let judged = rules.judge(&score);
        match (expect, &judged) {
            (None, Judgement::Wait) | (Some("promote"), Judgement::Promote) => {}
            (Some(word), Judgement::Abandon(why)) if why.contains(word) => {}
            _ => panic!("{rules:?} of {score:?} is {judged:?}, not {expect:?}"),
        }
    }

    #[test]
    fn rules_hold_at_their_limit_and_not_beyond() {
        let rules = Rules { after: 200, ..Rules::default() };
        let score = |compared, worse| Score { compared, worse, ..Score::default() };
        check(rules.clone(), score(200, 2), None);
        check(rules.clone(), score(200, 3), Some("worse_percent"));
        check(rules.clone(), score(1_000, 10), None);
        // What would be too much of the first deliveries is not waited for.
        check(rules.clone(), score(3, 3), Some("worse_percent"));
        check(rules.clone(), score(3, 2), None);
        check(Rules { worse_percent: None, ..rules.clone() }, score(200, 200), None);
        check(Rules { worse_percent: Some(0.0), ..rules }, score(1, 1), Some("1 of 1"));
    }

    #[test]
    fn differences_and_durations() {
        let rules = Rules {
            after: 10,
            differing_percent: Some(10.0),
            slower_percent: Some(50.0),
            promote_after: Some(20),
            ..Rules::default()
        };
        let score = |compared, differing, candidate_us| Score {
            compared,
            differing,
            running_us: 1_000,
            candidate_us,
            ..Score::default()
        };
        check(rules.clone(), score(10, 1, 1_500), None);
        check(rules.clone(), score(10, 2, 1_500), Some("differing_percent"));
        check(rules.clone(), score(10, 1, 1_501), Some("slower_percent"));
        check(rules.clone(), score(9, 1, 9_999), None);
        check(rules.clone(), score(19, 1, 1_000), None);
        check(rules, score(20, 1, 1_000), Some("promote"));
    }
}
