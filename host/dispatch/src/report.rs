//! What two versions came to over the same deliveries: numbers, and examples of where they differ. Filled by the
//! comparer of a rollout, written down by it, shown by the admin.

use std::collections::{BTreeMap, BTreeSet};

use brolly_capture::{Blob, Capture, Happened, Published};
use brolly_core::{Digest, Judgement, Name, Rollout, Score, Subscription, Timestamp};
use serde::{Deserialize, Serialize};

use crate::rollout::Ran;

/// Examples that are kept: the first ones.
const EXAMPLES: usize = 20;
/// Bytes of one version's part of an example, about; what is beyond is left out.
const PART_BYTES: usize = 2_048;
/// Bytes of a report as it is written down; the store takes 112 KiB.
const ROW_BYTES: usize = 100 * 1024;

/// How a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The candidate gets its share.
    Running,
    /// The candidate has taken over.
    Promoted,
    /// The candidate is gone.
    Abandoned,
}

/// Which of the two handled a delivery with effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Running,
    Candidate,
}

/// A rollout and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// As it was wanted.
    pub definition: Rollout,
    /// The version that runs beside it.
    pub against: Option<Digest>,
    /// When it began.
    pub since: Timestamp,
    /// How it stands.
    pub stage: Stage,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why, where the host ended it.
    pub why: Option<String>,
    /// Deliveries of the share that were handled and not compared: comparing was behind, the host could not
    /// serve one of the two, or one asked for what the other had not.
    pub skipped: u64,
    /// Deliveries that both have handled.
    pub compared: u64,
    /// Of these, where the candidate failed and the running version did not.
    pub worse: u64,
    /// Of these, where something differs.
    pub differing: u64,
    /// In how many what differs: outcome, reason, state, published.
    pub differs: BTreeMap<String, u64>,
    /// What the running version did.
    pub running: Took,
    /// What the candidate did.
    pub candidate: Took,
    /// The first deliveries in which something differs.
    pub examples: Vec<Example>,
    #[serde(skip, default = "wait")]
    pub(crate) judgement: Judgement,
}

fn wait() -> Judgement {
    Judgement::Wait
}

/// What the attempts of one version took and came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// By outcome: ack, retry, reject, fault.
    pub outcomes: BTreeMap<String, u64>,
    /// All durations, in microseconds.
    pub total_us: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
    /// All CPU time, in microseconds.
    pub cpu_us: u64,
    /// The most linear memory, in bytes.
    pub memory_bytes: u64,
    /// Messages published.
    pub published: u64,
    /// State written, in keys.
    pub state_writes: u64,
}

/// A delivery in which something differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The message.
    pub message_id: String,
    /// Its topic.
    pub topic: Name,
    /// Its key.
    pub key: String,
    /// When it was compared.
    pub at: Timestamp,
    /// What differs: outcome, reason, state, published.
    pub differs: Vec<String>,
    /// What the running version did there, as far as it differs.
    pub running: Part,
    /// What the candidate did there, as far as it differs.
    pub candidate: Part,
}

/// One side of a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// ack, retry, reject or fault.
    pub outcome: String,
    /// Why, where it is no ack.
    pub reason: Option<String>,
    /// State written that the other side did not write, or not so; null deletes.
    pub state: BTreeMap<String, Option<Blob>>,
    /// Messages published that the other side did not publish, or not so.
    pub published: Vec<Published>,
    /// Whether there is more than is shown.
    pub cut: bool,
}

impl Report {
    pub(crate) fn new(definition: Rollout, against: Option<Digest>, since: Timestamp) -> Self {
        Self {
            definition,
            against,
            since,
            stage: Stage::Running,
            ended_at: None,
            why: None,
            skipped: 0,
            compared: 0,
            worse: 0,
            differing: 0,
            differs: BTreeMap::new(),
            running: Took::default(),
            candidate: Took::default(),
            examples: Vec::new(),
            judgement: Judgement::Wait,
        }
    }

    /// Whether it is of this rollout, and goes on.
    pub(crate) fn is_of(&self, definition: &Rollout, against: Option<Digest>) -> bool {
        self.stage == Stage::Running && self.definition == *definition && self.against == against
    }

    /// Ends it: its candidate has taken over if it is what `definition` runs, and is gone otherwise. Whoever
    /// sees the definition says the same, the controller or who changed it.
    pub(crate) fn end(&mut self, definition: &Subscription, why: Option<String>, at: Timestamp) {
        self.stage = if definition.runs(&self.definition) { Stage::Promoted } else { Stage::Abandoned };
        self.why = why;
        self.ended_at = Some(at);
    }

    /// The report as it fits into a row: with fewer examples, if theirs are written with many escapes.
    pub(crate) fn fitting(&self) -> Self {
        let mut report = self.clone();
        while serde_json::to_vec(&report).is_ok_and(|row| row.len() > ROW_BYTES)
            && report.examples.pop().is_some()
        {}
        report
    }

    pub(crate) fn score(&self) -> Score {
        Score {
            compared: self.compared,
            worse: self.worse,
            differing: self.differing,
            running_us: self.running.total_us,
            candidate_us: self.candidate.total_us,
        }
    }

    /// Takes in what both came to over one delivery.
    pub(crate) fn compare(&mut self, capture: &Capture, running: &Ran, candidate: &Ran, at: Timestamp) {
        self.compared += 1;
        let (left, right) = (Happened::from(&running.handled), Happened::from(&candidate.handled));
        self.running.add(running, &left);
        self.candidate.add(candidate, &right);
        self.worse += u64::from(left.outcome == "ack" && right.outcome != "ack");
        let differs = differs(&left, &right);
        if differs.is_empty() {
            return;
        }
        self.differing += 1;
        for what in &differs {
            *self.differs.entry((*what).to_owned()).or_default() += 1;
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example {
                message_id: capture.message.id.clone(),
                topic: capture.message.topic.clone(),
                key: capture.message.key.clone(),
                at,
                differs: differs.into_iter().map(str::to_owned).collect(),
                running: Part::of(&left, &right),
                candidate: Part::of(&right, &left),
            });
        }
    }
}

impl Took {
    fn add(&mut self, ran: &Ran, happened: &Happened) {
        let us = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        *self.outcomes.entry(happened.outcome.clone()).or_default() += 1;
        self.total_us += us(ran.handled.duration);
        self.longest_us = self.longest_us.max(us(ran.handled.duration));
        self.cpu_us += us(ran.cpu);
        self.memory_bytes = self.memory_bytes.max(ran.handled.memory_bytes);
        self.published += happened.published.len() as u64;
        self.state_writes += happened.state.len() as u64;
    }
}

/// What differs between two attempts at the same delivery. What they logged is not held against anyone.
fn differs(left: &Happened, right: &Happened) -> Vec<&'static str> {
    let parts = [
        ("outcome", left.outcome != right.outcome),
        ("reason", left.outcome == right.outcome && left.reason != right.reason),
        ("state", left.state != right.state),
        ("published", left.published != right.published),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

impl Part {
    /// What one did and the other did not, as far as there is room.
    fn of(this: &Happened, other: &Happened) -> Self {
        let mut room = PART_BYTES;
        let mut fits = |bytes: usize| {
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        };
        let mut part = Self {
            outcome: this.outcome.clone(),
            reason: this.reason.clone().filter(|reason| fits(reason.len())),
            ..Self::default()
        };
        part.cut = part.reason.is_none() && this.reason.is_some();
        let keys: BTreeSet<&String> = this.state.keys().collect();
        for key in keys {
            let value = this.state.get(key).cloned().flatten();
            if other.state.get(key) == this.state.get(key) {
                continue;
            }
            if fits(key.len() + value.as_ref().map_or(0, |value| value.0.len())) {
                part.state.insert(key.clone(), value);
            } else {
                part.cut = true;
            }
        }
        for published in this.published.iter().filter(|published| !other.published.contains(published)) {
            let headers: usize = published.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            let text = published.id.len() + published.key.len() + published.content_type.len();
            if fits(published.payload.0.len() + headers + text) {
                part.published.push(published.clone());
            } else {
                part.cut = true;
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use brolly_core::{Effects, Fault, Handled, Outcome, Verdict};
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn ran(verdict: Verdict, state: &[(&str, &str)]) -> Ran {
        let write = |(key, value): &(&str, &str)| ((*key).to_owned(), Some(Bytes::from((*value).to_owned())));
        let effects = Effects { state: state.iter().map(write).collect(), publish: Vec::new() };
        let handled = Handled {
            verdict,
            effects,
            logs: Vec::new(),
            logs_dropped: 0,
            duration: Duration::from_micros(5),
            memory_bytes: 7,
        };
        Ran { handled, cpu: Duration::from_micros(3) }
    }

    fn report() -> Report {
        let definition =
            json!({"version": format!("sha256:{}", "ab".repeat(32)), "mode": "shadow", "percent": 5});
        Report::new(serde_json::from_value(definition).unwrap(), None, Timestamp(1))
    }

    fn capture() -> Capture {
        serde_json::from_value(json!({"brolly_capture": 1, "at_ms": 5, "subscription": "s", "terms": {},
            "message": {"id": "m", "topic": "t", "key": "k", "content_type": "", "headers": {},
                "published_at_ms": 4, "payload": ""},
            "attempt": 1, "last_attempt": false, "idempotency_key": "s/t/m", "reads": [],
            "happened": {"outcome": "ack", "reason": null, "delay_ms": null, "state": {}, "published": [],
                "logs": [], "logs_dropped": 0}}))
        .unwrap()
    }

    const ACK: Verdict = Verdict::Outcome(Outcome::Ack);

    #[test]
    fn what_differs_is_counted_and_shown() {
        let mut report = report();
        let mut compare = |left: Ran, right: Ran| report.compare(&capture(), &left, &right, Timestamp(2));
        compare(ran(ACK, &[("day", "1")]), ran(ACK, &[("day", "1")]));
        compare(ran(ACK, &[("day", "1"), ("same", "x")]), ran(ACK, &[("day", "2"), ("same", "x")]));
        compare(ran(ACK, &[]), ran(Verdict::Fault(Fault::Trap("t".into())), &[]));
        compare(ran(Verdict::Fault(Fault::Trap("t".into())), &[]), ran(ACK, &[]));
        assert_eq!((report.compared, report.worse, report.differing), (4, 1, 3));
        assert_eq!(report.differs, BTreeMap::from([("state".to_owned(), 1), ("outcome".to_owned(), 2)]));
        assert_eq!(report.running.outcomes, BTreeMap::from([("ack".to_owned(), 3), ("fault".to_owned(), 1)]));
        assert_eq!(
            (report.running.total_us, report.running.cpu_us, report.candidate.memory_bytes),
            (20, 12, 7)
        );
        let example = &report.examples[0];
        assert_eq!(
            (example.message_id.as_str(), example.differs.as_slice()),
            ("m", &["state".to_owned()][..])
        );
        let shown = |part: &Part| serde_json::to_value(&part.state).unwrap();
        assert_eq!(shown(&example.running), json!({"day": "1"}));
        assert_eq!(shown(&example.candidate), json!({"day": "2"}));
        let row = serde_json::to_vec(&report).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&row).unwrap(), report);
    }

    #[test]
    fn a_report_stays_within_what_the_store_takes() {
        let mut report = report();
        let large = "x".repeat(64 * 1024);
        for number in 0..2 * EXAMPLES {
            let (key, value) = (format!("k{number}"), format!("{number}{large}"));
            let small = "y".repeat(PART_BYTES - 10);
            let right = ran(ACK, &[(&key, &value), ("small", &small)]);
            report.compare(&capture(), &ran(ACK, &[]), &right, Timestamp(2));
        }
        assert_eq!((report.examples.len(), report.differing), (EXAMPLES, 2 * EXAMPLES as u64));
        assert!(report.examples.iter().all(|example| example.candidate.cut));
        let bytes = |report: &Report| serde_json::to_vec(report).unwrap().len();
        assert!(bytes(&report) <= ROW_BYTES, "{}", bytes(&report));
        assert_eq!(report.fitting(), report);
        for example in &mut report.examples {
            example.candidate.reason = Some("\u{1}".repeat(PART_BYTES));
        }
        assert!(bytes(&report) > ROW_BYTES);
        let fitting = report.fitting();
        assert!(bytes(&fitting) <= ROW_BYTES && !fitting.examples.is_empty());
    }
}
