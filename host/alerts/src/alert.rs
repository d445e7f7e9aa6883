//! One alert: a rule that is broken, from when it began to when it is over, and whom it was told to. Pure:
//! what is seen goes in, what is to be told comes out. Called by `book`.

use brolly_core::{AlertRule, Name, Owner, Timestamp, Watched};
use serde::{Deserialize, Serialize};

use crate::notice::{Notice, Occasion};

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The value is too much, and not yet for as long as it must be.
    Pending,
    /// It has been for long enough.
    Firing,
    /// It is over.
    Recovered,
    /// Its rule or queue was removed or changed to look at something else before it was over.
    Ended,
}

impl Status {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Firing => "firing",
            Status::Recovered => "recovered",
            Status::Ended => "ended",
        }
    }
}

/// Who has seen an alert, so that it is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The token.
    pub by: Option<Name>,
    /// When.
    pub at: Timestamp,
}

/// An alert, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its number; later ones have greater numbers.
    #[serde(skip)]
    pub number: u64,
    /// The queue.
    pub queue: Name,
    /// The rule's name among those of the queue.
    pub rule: String,
    /// What the rule looks at.
    pub when: Watched,
    /// What is too much.
    pub above: u64,
    /// How it stands.
    pub status: Status,
    /// The value when it was last written down; none if it could not be measured.
    pub value: Option<u64>,
    /// Since when the value has been too much.
    pub since: Timestamp,
    /// When it had been for long enough.
    pub fired_at: Option<Timestamp>,
    /// Since when the value has been well again.
    pub calm_since: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// When people are told next; later in quiet hours.
    pub next_notice_at: Option<Timestamp>,
    /// Who has seen it.
    pub acknowledged: Option<Acknowledged>,
    /// Whose queue it is.
    pub owners: Vec<Owner>,
    /// By which channels they are told.
    pub channels: Vec<Name>,
    /// Whom it was told to, oldest first: all that are not through yet, and the latest 20 that are.
    pub notices: Vec<Notice>,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// It was nothing: the value is well again before it counted.
    Forget,
    /// Write it down.
    Keep,
    /// Write it down and tell people.
    Tell(Occasion),
}

/// What a rule sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// None if it cannot be measured now.
    pub value: Option<u64>,
    /// Whether nobody is to be told now.
    pub quiet: bool,
    pub now: Timestamp,
}

impl Alert {
    /// Notices kept that are through.
    const TOLD: usize = 20;

    /// A rule whose value is too much.
    pub(crate) fn begin(number: u64, queue: &Name, rule: &AlertRule, owners: &[Owner], look: Look) -> Self {
        Self {
            number,
            queue: queue.clone(),
            rule: rule.title().to_owned(),
            when: rule.when,
            above: rule.threshold(),
            status: Status::Pending,
            value: look.value,
            since: look.now,
            fired_at: None,
            calm_since: None,
            ended_at: None,
            next_notice_at: None,
            acknowledged: None,
            owners: owners.to_vec(),
            channels: rule.channels.clone(),
            notices: Vec::new(),
        }
    }

    /// Whether its rule is still broken.
    pub(crate) fn is_open(&self) -> bool {
        match self.status {
            Status::Pending | Status::Firing => true,
            Status::Recovered | Status::Ended => false,
        }
    }

    /// Whether there is something left to do for it.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_open() && self.next_notice_at.is_none() && self.notices.iter().all(Notice::is_through)
    }

    /// Looks at the value of an open alert's rule.
    pub(crate) fn observe(&mut self, rule: &AlertRule, owners: &[Owner], look: Look) -> Step {
        self.above = rule.threshold();
        self.owners = owners.to_vec();
        self.channels.clone_from(&rule.channels);
        if look.value.is_some() {
            self.value = look.value;
        }
        let before = self.status;
        if self.status == Status::Pending {
            if look.value.is_some_and(|value| value <= rule.threshold()) {
                return Step::Forget;
            }
            if lasts(self.since, rule.for_ms, look.now) {
                self.status = Status::Firing;
                self.fired_at = Some(look.now);
                self.next_notice_at = Some(look.now);
            }
        } else if let Some(value) = look.value {
            self.calm(value, rule, look.now);
        }
        match self.due(rule.repeat_ms, look) {
            Some(occasion) => Step::Tell(occasion),
            None if self.status == before => Step::Rest,
            None => Step::Keep,
        }
    }

    /// Whether a firing alert is over.
    fn calm(&mut self, value: u64, rule: &AlertRule, now: Timestamp) {
        if value > rule.calm() {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if lasts(since, rule.for_ms, now) {
            self.status = Status::Recovered;
            self.ended_at = Some(now);
            // Who was told nothing needs no relief.
            self.next_notice_at = self.was_told().then_some(now);
        }
    }

    fn was_told(&self) -> bool {
        self.notices.iter().any(|notice| notice.occasion == Occasion::Firing)
    }

    /// What people are to be told now.
    pub(crate) fn due(&mut self, repeat_ms: Option<u64>, look: Look) -> Option<Occasion> {
        let due = self.next_notice_at.is_some_and(|at| at <= look.now) && !look.quiet;
        if !due {
            return None;
        }
        let occasion = match self.status {
            Status::Recovered => Occasion::Recovery,
            _ if self.was_told() => Occasion::Repeat,
            _ => Occasion::Firing,
        };
        let repeats = repeat_ms.filter(|_| self.status == Status::Firing && self.acknowledged.is_none());
        self.next_notice_at = repeats.map(|ms| look.now.after(std::time::Duration::from_millis(ms)));
        Some(occasion)
    }

    /// Adds a notice to each of the recipients. One that repeats what is still to be sent is left out.
    pub(crate) fn tell(&mut self, occasion: Occasion, recipients: &[(Name, String)], now: Timestamp) {
        for (channel, to) in recipients {
            let waits = |notice: &Notice| !notice.is_through() && notice.is_to(channel, to);
            if occasion == Occasion::Repeat && self.notices.iter().any(waits) {
                continue;
            }
            let number = self.notices.last().map_or(1, |last| last.number + 1);
            let value = self.value;
            self.notices.push(Notice::new(number, occasion, channel.clone(), to.clone(), value, now));
        }
        let through = self.notices.iter().filter(|notice| notice.is_through()).count();
        let mut surplus = through.saturating_sub(Self::TOLD);
        self.notices.retain(|notice| {
            let goes = surplus > 0 && notice.is_through() && notice.occasion != Occasion::Firing;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// Somebody has seen it: it is not repeated any more.
    pub(crate) fn acknowledge(&mut self, by: Option<Name>, now: Timestamp) {
        self.acknowledged = Some(Acknowledged { by, at: now });
        if self.was_told() {
            self.next_notice_at = None;
        }
    }

    /// Its rule is there no more.
    pub(crate) fn end(&mut self, now: Timestamp) {
        self.status = Status::Ended;
        self.ended_at = Some(now);
        self.next_notice_at = None;
    }
}

fn lasts(since: Timestamp, for_ms: u64, now: Timestamp) -> bool {
    now.since(since) >= std::time::Duration::from_millis(for_ms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(json: serde_json::Value) -> AlertRule {
        let mut whole =
            json!({"when": "ready", "above": 100, "for_ms": 1000, "repeat_ms": 5000, "channels": ["mail"]});
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// Looks at values, written `moment:value`, with `?` for one that cannot be measured and a `q` after it in
    /// quiet hours; gives what people were told in the same way.
    fn play(rule: &AlertRule, looks: &str) -> String {
        let mut alert: Option<Alert> = None;
        let mut told = Vec::new();
        for look in looks.split(' ') {
            let (at, value) = look.split_once(':').unwrap();
            let quiet = value.ends_with('q');
            let value = value.trim_end_matches('q').parse().ok();
            let look = Look { value, quiet, now: Timestamp(at.parse().unwrap()) };
            if alert.is_none() && value.is_some_and(|value| value > rule.threshold()) {
                alert = Some(Alert::begin(1, &name("q"), rule, &[], look));
            }
            let Some(open) = &mut alert else { continue };
            let step = match open.is_open() {
                true => open.observe(rule, &[], look),
                false => open.due(None, look).map_or(Step::Rest, Step::Tell),
            };
            match step {
                Step::Tell(occasion) => {
                    open.tell(occasion, &[(name("mail"), "a@b.c".to_owned())], look.now);
                    told.push(format!("{at}:{}", occasion.as_str()));
                }
                Step::Forget => alert = None,
                Step::Keep | Step::Rest => {}
            }
        }
        told.join(" ")
    }

    #[test]
    fn people_are_told_when_it_lasts_again_after_the_interval_and_when_it_is_over() {
        let once = json!({"repeat_ms": null});
        let cases = [
            ("not for long enough", json!({}), "0:101 999:101 1000:100", ""),
            ("for just long enough", json!({}), "0:101 1000:101 1001:101", "1000:firing"),
            (
                "again, and over after it is well for as long",
                json!({}),
                "0:101 1000:101 5999:101 6000:101 7000:100 7999:100 8000:100 20000:100",
                "1000:firing 6000:repeat 8000:recovery",
            ),
            (
                "well for a moment is not over",
                once.clone(),
                "0:101 1000:101 2000:100 2500:101 3200:100",
                "1000:firing",
            ),
            (
                "between both thresholds it goes on",
                json!({"clear": 50, "for_ms": 0, "repeat_ms": null}),
                "0:101 1:51 2:50",
                "0:firing 2:recovery",
            ),
            (
                "what cannot be measured changes nothing",
                json!({}),
                "0:101 500:? 1000:101 2000:? 6000:?",
                "1000:firing 6000:repeat",
            ),
            ("quiet hours put it off", once, "0:101q 1000:101q 9000:101q 9500:101", "9500:firing"),
            (
                "what was over within them is not told",
                json!({}),
                "0:101q 1000:101q 2000:0q 3000:0q 9000:0",
                "",
            ),
            (
                "relief is put off, too",
                json!({"for_ms": 0, "repeat_ms": null}),
                "0:101 1:100q 2:100q 3:100 4:100",
                "0:firing 3:recovery",
            ),
        ];
        for (what, changed, looks, expect) in cases {
            assert_eq!(play(&rule(changed), looks), expect, "{what}");
        }
    }

    #[test]
    fn what_was_seen_is_not_repeated_and_still_told_to_be_over() {
        let rule = rule(json!({"for_ms": 0}));
        let look = |value, at| Look { value: Some(value), quiet: false, now: Timestamp(at) };
        let mut alert = Alert::begin(1, &name("q"), &rule, &[], look(200, 0));
        let to = [(name("mail"), "a@b.c".to_owned())];
        assert_eq!(alert.observe(&rule, &[], look(200, 0)), Step::Tell(Occasion::Firing));
        alert.tell(Occasion::Firing, &to, Timestamp(0));
        alert.acknowledge(Some(name("ann")), Timestamp(1));
        assert_eq!(alert.observe(&rule, &[], look(200, 60_000)), Step::Rest);
        assert_eq!(alert.observe(&rule, &[], look(0, 60_001)), Step::Tell(Occasion::Recovery));
    }

    #[test]
    fn a_channel_that_does_not_get_through_has_one_repeat_waiting_and_what_is_kept_is_bounded() {
        let rule = rule(json!({}));
        let look = Look { value: Some(200), quiet: false, now: Timestamp(0) };
        let mut alert = Alert::begin(1, &name("q"), &rule, &[], look);
        let to = [(name("mail"), "a@b.c".to_owned())];
        alert.tell(Occasion::Firing, &to, Timestamp(0));
        for at in 1..10 {
            alert.tell(Occasion::Repeat, &to, Timestamp(at));
        }
        assert_eq!(alert.notices.len(), 1, "the first has not got through");
        for at in 10..200 {
            alert.notices.last_mut().unwrap().sent_at = Some(Timestamp(at));
            alert.tell(Occasion::Repeat, &to, Timestamp(at));
        }
        assert_eq!(alert.notices.len(), Alert::TOLD + 1);
        assert_eq!(alert.notices[0].occasion, Occasion::Firing);
        let numbers: Vec<u32> = alert.notices.iter().map(|notice| notice.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}
