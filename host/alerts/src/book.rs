//! The alerts that are kept: those that are not done in memory too, all of them in the store, a row each.
//! Called by the crate's door, with its lock held; what is changed is submitted under that lock, so that
//! the rows come into the store in the order of the changes.
//!
//! A row is bounded by its parts: 32 owners of 3 × 254 bytes, and of 32 recipients three notices that wait, and 20
//! that are through, each with an address of 254 bytes, a channel of 128 and an error of 200. Where that is more
//! than the store takes, less of it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use brolly_core::{AlertRule, Code, Commit, Name, Owner, Refusal, Timestamp};
use brolly_store::{Store, VALUE_BYTES, keys};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Alert, Alerts, ChannelHealth, Error, Failure, Notice, Occasion, Seen, Status, Wanted,
    alert::{Look, Step},
    quiet::Hours,
};

/// Alerts in memory, and what is known of channels.
#[derive(Default)]
pub(crate) struct Book {
    next: u64,
    /// Those with something left to do.
    undone: BTreeMap<u64, Alert>,
    /// By queue and rule: those whose rule is still broken.
    open: BTreeMap<(Name, String), u64>,
    /// What became of the latest notice of each channel, and since when that is so.
    results: BTreeMap<Name, (Timestamp, Result<(), Failure>)>,
}

/// What is waited for until a change is durable.
pub(crate) type Durable = oneshot::Receiver<()>;

pub(crate) fn gone(store: &Store) -> Error {
    store.is_failed().map_or(brolly_store::Error::Closed, brolly_store::Error::Failed).into()
}

fn decode(number: u64, row: &[u8]) -> Result<Alert, Error> {
    let alert: Alert = serde_json::from_slice(row).map_err(|source| Error::Row { number, source })?;
    Ok(Alert { number, ..alert })
}

/// Alerts from the store, with those that are not done as they are in memory.
pub(crate) fn list(
    undone: &BTreeMap<u64, Alert>,
    store: &Store,
    wanted: &Wanted,
    before: Option<u64>,
    limit: usize,
) -> Result<(Vec<Alert>, Option<u64>), Error> {
    let before = before.map(keys::alert);
    let mut found: Vec<Alert> = Vec::new();
    for row in store.scan_back(&keys::alert_prefix(), before.as_deref()) {
        let (key, row) = row?;
        let Some(number) = keys::parse_alert(&key) else { continue };
        let alert = match undone.get(&number) {
            Some(alert) => alert.clone(),
            None => decode(number, &row)?,
        };
        // What is open is in memory, or was forgotten this moment.
        let stale = alert.is_open() && !undone.contains_key(&number);
        if stale || !wanted.want(&alert) {
            continue;
        }
        if found.len() == limit {
            let next = found.last().map(|alert| alert.number);
            return Ok((found, next));
        }
        found.push(alert);
    }
    Ok((found, None))
}

pub(crate) fn get(undone: &BTreeMap<u64, Alert>, store: &Store, number: u64) -> Result<Option<Alert>, Error> {
    match undone.get(&number) {
        Some(alert) => Ok(Some(alert.clone())),
        None => store.get(&keys::alert(number))?.map(|row| decode(number, &row)).transpose(),
    }
}

/// The row of an alert. One that is larger than the store takes would make it fail for good: then what is told
/// already, whose queue it is and why notices failed is left out, and if that does not help, nothing is written.
fn encode(alert: &Alert) -> Result<Vec<u8>, Error> {
    let number = alert.number;
    let write = |alert: &Alert| serde_json::to_vec(alert).map_err(|source| Error::Row { number, source });
    let row = write(alert)?;
    if row.len() <= VALUE_BYTES {
        return Ok(row);
    }
    let mut short = Alert { owners: Vec::new(), ..alert.clone() };
    short.notices.retain(|notice| !notice.is_through() || notice.occasion == Occasion::Firing);
    short.notices.iter_mut().for_each(|notice| notice.error = None);
    let row = write(&short)?;
    if row.len() <= VALUE_BYTES {
        return Ok(row);
    }
    let detail = format!("the alert {number} takes {} bytes, the limit is {VALUE_BYTES}", row.len());
    Err(Refusal::new(Code::TooLarge, detail).into())
}

impl Book {
    pub(crate) fn read(store: &Store) -> Result<Self, Error> {
        let mut book = Self { next: 1, ..Self::default() };
        for row in store.scan(&keys::alert_prefix(), None) {
            let (key, row) = row?;
            let Some(number) = keys::parse_alert(&key) else { continue };
            book.next = number + 1;
            let alert = decode(number, &row)?;
            if alert.is_open() {
                book.open.insert((alert.queue.clone(), alert.rule.clone()), number);
            }
            if !alert.is_done() {
                book.undone.insert(number, alert);
            }
        }
        Ok(book)
    }

    /// Looks at one rule. Answers which alert has changed.
    pub(crate) fn observe(
        &mut self,
        queue: &Name,
        rule: &AlertRule,
        owners: &[Owner],
        look: Look,
        recipients: impl FnOnce() -> Vec<(Name, String)>,
    ) -> Option<u64> {
        let place = (queue.clone(), rule.title().to_owned());
        let known = self.open.get(&place).copied();
        let number = match known {
            Some(number) => number,
            None if look.value.is_some_and(|value| value > rule.threshold()) => {
                let number = self.next;
                self.next += 1;
                self.undone.insert(number, Alert::begin(number, queue, rule, owners, look));
                self.open.insert(place.clone(), number);
                number
            }
            None => return None,
        };
        let alert = self.undone.get_mut(&number)?;
        let step = alert.observe(rule, owners, look);
        if let Step::Tell(occasion) = step {
            alert.tell(occasion, &recipients(), look.now);
        }
        if !alert.is_open() {
            self.open.remove(&place);
        }
        match step {
            Step::Rest if known.is_some() => None,
            Step::Forget => {
                self.open.remove(&place);
                self.undone.remove(&number);
                Some(number)
            }
            Step::Rest | Step::Keep | Step::Tell(_) => Some(number),
        }
    }

    /// Ends the alerts whose rule is there no more.
    pub(crate) fn end_missing(&mut self, seen: &[Seen], now: Timestamp) -> Vec<u64> {
        let rules: BTreeMap<(&str, &str), &AlertRule> = seen
            .iter()
            .flat_map(|seen| seen.definition.alerts.iter().map(move |rule| (&seen.queue, rule)))
            .map(|(queue, rule)| ((queue.as_str(), rule.title()), rule))
            .collect();
        let undone = &mut self.undone;
        let mut ended = Vec::new();
        self.open.retain(|(queue, title), number| {
            let Some(alert) = undone.get_mut(number) else { return false };
            let rule = rules.get(&(queue.as_str(), title.as_str()));
            if rule.is_some_and(|rule| rule.when == alert.when) {
                return true;
            }
            match alert.status {
                Status::Pending => drop(undone.remove(number)),
                Status::Firing | Status::Recovered | Status::Ended => alert.end(now),
            }
            ended.push(*number);
            false
        });
        ended
    }

    /// Tells people of what was over in their quiet hours.
    pub(crate) fn relieve(
        &mut self,
        seen: &[Seen],
        now: Timestamp,
        recipients: impl Fn(&Alert) -> Vec<(Name, String)>,
    ) -> Vec<u64> {
        let mut changed = Vec::new();
        for (number, alert) in &mut self.undone {
            if alert.is_open() || alert.next_notice_at.is_none() {
                continue;
            }
            let queue = seen.iter().find(|seen| seen.queue == alert.queue);
            let rules = queue.map(|seen| &seen.definition.alerts).into_iter().flatten();
            let quiet = rules.filter(|rule| rule.title() == alert.rule).find_map(|rule| rule.quiet.as_ref());
            let quiet =
                quiet.and_then(|quiet| Hours::new(quiet).ok()).is_some_and(|hours| hours.contain(now));
            if let Some(occasion) = alert.due(None, Look { value: None, quiet, now }) {
                let recipients = recipients(alert);
                alert.tell(occasion, &recipients, now);
                changed.push(*number);
            }
        }
        changed
    }

    /// Submits these alerts as they are now; none if there is nothing to write. `book` is the whole book, of
    /// which `self` is what its lock guards.
    pub(crate) fn write(
        &self,
        book: &Arc<Mutex<Self>>,
        store: &Store,
        numbers: &[u64],
    ) -> Result<Option<Durable>, Error> {
        let numbers: BTreeSet<u64> = numbers.iter().copied().collect();
        if numbers.is_empty() {
            return Ok(None);
        }
        let mut commit = Commit::default();
        let mut done = Vec::new();
        for number in numbers {
            match self.undone.get(&number) {
                Some(alert) => {
                    commit.put(keys::alert(number), encode(alert)?);
                    done.extend(alert.is_done().then_some(number));
                }
                None => commit.delete(keys::alert(number)),
            }
            // As many are kept as there are numbers, so one that was forgotten costs a place.
            if let Some(old) = number.checked_sub(Alerts::KEPT).filter(|old| !self.undone.contains_key(old)) {
                commit.delete(keys::alert(old));
            }
        }
        let (told, durable) = oneshot::channel();
        let book = book.clone();
        commit.then(move || {
            // From here on the store has it.
            book.lock().undone.retain(|number, _| !done.contains(number));
            let _ = told.send(());
        });
        store.submit(commit);
        Ok(Some(durable))
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &Alert> {
        self.open.values().filter_map(|number| self.undone.get(number))
    }

    pub(crate) fn acknowledge(&mut self, number: u64, by: Option<Name>, now: Timestamp) -> Option<Alert> {
        let alert = self.undone.get_mut(&number).filter(|alert| alert.is_open())?;
        alert.acknowledge(by, now);
        Some(alert.clone())
    }

    pub(crate) fn undone(&self) -> &BTreeMap<u64, Alert> {
        &self.undone
    }

    /// The notices that wait, in the order in which they were decided.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Alert, &Notice)> + Clone {
        let all = self.undone.values().flat_map(|alert| alert.notices.iter().map(move |one| (alert, one)));
        all.filter(|(_, notice)| !notice.is_through())
    }

    pub(crate) fn notice(&mut self, alert: u64, number: u32) -> Option<&mut Notice> {
        self.undone.get_mut(&alert)?.notices.iter_mut().find(|notice| notice.number == number)
    }

    pub(crate) fn result(&mut self, channel: &Name, result: Result<(), Failure>, now: Timestamp) {
        let same = |(_, before): &(Timestamp, Result<(), Failure>)| before.is_ok() == result.is_ok();
        let since = self.results.get(channel).filter(|before| same(before)).map_or(now, |(since, _)| *since);
        self.results.insert(channel.clone(), (since, result));
    }

    pub(crate) fn health(&self, channel: &Name) -> ChannelHealth {
        let result = self.results.get(channel);
        let waiting = self.waiting().filter(|(_, notice)| notice.channel == *channel);
        // Before the first result since the start, what waits still knows why.
        let error = waiting.clone().find_map(|(_, notice)| notice.error.clone());
        ChannelHealth {
            works: result.map(|(_, result)| result.is_ok()).or(error.as_ref().map(|_| false)),
            since: result.map(|(since, _)| *since),
            error: match result {
                Some((_, result)) => result.as_ref().err().map(ToString::to_string),
                None => error,
            },
            waiting: waiting.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// With every part as long as it may be the row still fits, and what is to be sent is in it.
    #[test]
    fn the_largest_alert_can_be_written() {
        let owner = json!({"name": "n".repeat(254), "email": "e".repeat(254), "phone": "p".repeat(254)});
        let owners: Vec<Owner> = serde_json::from_value(json!(vec![owner; 32])).unwrap();
        let rule = serde_json::from_value(json!({"when": "ready", "above": 1, "channels": ["c"]})).unwrap();
        let look = Look { value: Some(2), quiet: false, now: Timestamp(1) };
        let mut alert = Alert::begin(1, &Name::new("q").unwrap(), &rule, &owners, look);
        let to: Vec<(Name, String)> =
            (0..32).map(|at| (Name::new(&"c".repeat(128)).unwrap(), format!("{at:0>254}"))).collect();
        for occasion in [Occasion::Firing, Occasion::Repeat, Occasion::Recovery] {
            alert.tell(occasion, &to, look.now);
        }
        let failure = Failure::new("\u{e9}".repeat(200));
        for notice in &mut alert.notices {
            notice.failed(&failure, Some(look.now));
        }
        let read = decode(1, &encode(&alert).unwrap()).unwrap();
        assert_eq!(read.notices.len(), alert.notices.len());

        // Far beyond that, the store is spared.
        alert.notices = std::iter::repeat_n(alert.notices[0].clone(), 400).collect();
        assert!(matches!(encode(&alert), Err(Error::Refused(_))));
    }
}
