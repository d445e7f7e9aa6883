//! The delivery table: one row per message and subscription with its latest attempt, and one row
//! for each attempt before that. A delivery that is acknowledged at once costs one row.

use std::time::Duration;

use brolly_core::{Commit, Decision, Digest, LogLevel, LogLine, MessageId, Name, Timestamp, whole_ms};
use brolly_store::{Store, keys};
use serde::{Deserialize, Serialize};

use crate::{Begun, Error, Finished};

/// The format of the rows below; the first byte of each.
const FORMAT: u8 = 2;

/// What has become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is not decided: it waits for its first or next attempt, or is being handled.
    Waiting,
    /// It was acknowledged and its effects took place.
    Acked,
    /// It is a dead letter.
    Dead,
    /// It was a dead letter and was deleted as such.
    Discarded,
    /// It was a dead letter, and an edited copy took its place.
    Replaced,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptOutcome {
    /// The handler acknowledged.
    Ack,
    /// The handler asked for a retry.
    Retry,
    /// The handler rejected it.
    Reject,
    /// The sandbox stopped the handler.
    Fault,
    /// It was too old to be handled.
    Expired,
    /// It breaks a limit of messages, or its broker gave it up.
    Unfit,
}

impl AttemptOutcome {
    /// Whether a handler had a part in it.
    #[must_use]
    pub fn is_a_handlers(self) -> bool {
        match self {
            AttemptOutcome::Ack | AttemptOutcome::Retry | AttemptOutcome::Reject | AttemptOutcome::Fault => {
                true
            }
            AttemptOutcome::Expired | AttemptOutcome::Unfit => false,
        }
    }
}

/// One attempt, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1 over the whole history, replays included.
    pub number: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The most memory that the instance had, in bytes.
    pub memory_bytes: u64,
    /// The SHA-256 of the plugin version; none for a built-in handler.
    pub version: Option<[u8; 32]>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why, where it was not acknowledged.
    pub reason: Option<String>,
    /// How long until the next attempt, in milliseconds, where there is one.
    pub retry_after_ms: Option<u64>,
    /// Lines that were logged: level and text.
    pub logs: Vec<(u8, String)>,
    /// Lines that the log limit dropped.
    pub logs_dropped: u64,
}

/// The row of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeliveryRow {
    pub status: Status,
    /// The queue that brought it; none once it was moved away and has come back.
    pub queue: Option<Name>,
    /// Attempts that count toward the retry policy: all since the beginning or the last replay.
    pub counted: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// The latest attempt.
    pub last: Attempt,
    /// What the acknowledged attempt published: topic and id, as far as there is room. Where the
    /// delivery was replaced: the copy that took its place.
    pub published: Vec<(Name, MessageId)>,
    /// How many more it published.
    pub published_more: u32,
}

/// Bytes of topics and ids that a row lists of what was published. With the longest log lines and
/// reason a row then stays below what the store takes for a value (112 KiB), whatever a handler does.
const PUBLISHED_BYTES: usize = 32 * 1024;

const LEVELS: [LogLevel; 5] =
    [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];

impl Attempt {
    /// The plugin version that handled it.
    #[must_use]
    pub fn version(&self) -> Option<Digest> {
        self.version.map(Digest::from_bytes)
    }

    /// How long until the attempt that follows this one is due, if it is not due yet.
    pub(crate) fn early(&self, now: Timestamp) -> Option<Duration> {
        let due = self.at.after(Duration::from_millis(self.retry_after_ms?));
        (due > now).then(|| due.since(now))
    }

    /// What it logged.
    pub fn log_lines(&self) -> impl Iterator<Item = LogLine> + '_ {
        self.logs.iter().map(|(level, text)| LogLine {
            level: LEVELS.get(usize::from(*level)).copied().unwrap_or(LogLevel::Error),
            text: text.clone(),
        })
    }
}

pub(crate) fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(FORMAT);
    postcard::to_extend(row, bytes).map_err(|error| Error::Row {
        table: "ledger",
        row: "to be written".to_owned(),
        why: error.to_string(),
    })
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(
    table: &'static str,
    key: &[u8],
    bytes: &'a [u8],
) -> Result<T, Error> {
    let wrong = |why: String| Error::Row { table, row: key.escape_ascii().to_string(), why };
    match bytes.split_first() {
        Some((&FORMAT, row)) => postcard::from_bytes(row).map_err(|error| wrong(error.to_string())),
        Some((format, _)) => {
            Err(wrong(format!("it has format {format}, this version reads format {FORMAT}")))
        }
        None => Err(wrong("it is empty".to_owned())),
    }
}

pub(crate) fn read(store: &Store, seq: u64, subscription: &Name) -> Result<Option<DeliveryRow>, Error> {
    let key = keys::delivery(seq, subscription);
    store.get(&key)?.map(|row| decode("delivery", &key, &row)).transpose()
}

/// Whether another subscription has decided the message that this queue brings, which the broker was
/// not told before its host ended.
pub(crate) fn decided_by_another(
    store: &Store,
    seq: u64,
    subscription: &Name,
    queue: &Name,
) -> Result<bool, Error> {
    for row in of_message(store, seq) {
        let (other, row) = row?;
        if other != *subscription && row.queue.as_ref() == Some(queue) && row.status != Status::Waiting {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The deliveries of a message, with their subscriptions.
pub(crate) fn of_message(
    store: &Store,
    seq: u64,
) -> impl Iterator<Item = Result<(Name, DeliveryRow), Error>> + use<> {
    store.scan(&keys::delivery_prefix(seq), None).filter_map(|row| {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error.into())),
        };
        let (_, subscription, None) = keys::parse_delivery(&key)? else { return None };
        Some(decode("delivery", &key, &value).map(|row| (subscription, row)))
    })
}

/// Adds the row of a delivery, and moves the attempt that it replaces to a row of its own.
pub(crate) fn stage(
    begun: &Begun,
    status: Status,
    finished: Finished<'_>,
    published: Vec<(Name, MessageId)>,
    commit: &mut Commit,
) -> Result<(), Error> {
    if let Some(before) = &begun.row {
        stage_earlier(begun.seq, &begun.subscription, &before.last, commit)?;
    }
    let (reason, retry_after_ms) = match finished.decision {
        Decision::Ack => (None, None),
        Decision::Retry { delay, reason, .. } | Decision::Release { delay, reason } => {
            (Some(reason.clone()), Some(whole_ms(*delay)))
        }
        Decision::DeadLetter { reason } => (Some(reason.clone()), None),
    };
    let level = |line: &LogLine| LEVELS.iter().position(|level| *level == line.level).unwrap_or_default();
    let last = Attempt {
        number: begun.row.as_ref().map_or(0, |row| row.last.number) + 1,
        at: finished.at,
        duration_us: finished.duration_us,
        memory_bytes: finished.memory_bytes,
        version: finished.version.map(|digest| digest.to_bytes()),
        outcome: finished.outcome,
        reason,
        retry_after_ms,
        logs: finished
            .logs
            .into_iter()
            .map(|line| (u8::try_from(level(&line)).unwrap_or(4), line.text))
            .collect(),
        logs_dropped: finished.logs_dropped,
    };
    let (published, published_more) = listed(published);
    let replays = begun.row.as_ref().map_or(0, |row| row.replays);
    let (queue, counted) = (Some(begun.queue.clone()), finished.decision.counted(begun.attempt));
    let row = DeliveryRow { status, queue, counted, replays, last, published, published_more };
    commit.put(keys::delivery(begun.seq, &begun.subscription), encode(&row)?);
    Ok(())
}

/// As much of what was published as a row lists, and how many more there are.
fn listed(mut published: Vec<(Name, MessageId)>) -> (Vec<(Name, MessageId)>, u32) {
    let mut bytes = 0;
    let mut fits = |(topic, id): &(Name, MessageId)| {
        bytes += topic.as_str().len() + id.len();
        bytes <= PUBLISHED_BYTES
    };
    let more = published.len() - published.iter().take_while(|one| fits(one)).count();
    published.truncate(published.len() - more);
    (published, u32::try_from(more).unwrap_or(u32::MAX))
}

fn stage_earlier(seq: u64, subscription: &Name, attempt: &Attempt, commit: &mut Commit) -> Result<(), Error> {
    commit.put(keys::earlier_attempt(seq, subscription, attempt.number), encode(attempt)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn attempts()(
            number: u32, at: u64, duration_us: u64, memory_bytes: u64, version: Option<[u8; 32]>,
            reason: Option<String>, retry_after_ms: Option<u64>, logs: Vec<(u8, String)>, logs_dropped: u64,
        ) -> Attempt {
            Attempt {
                number, at: Timestamp(at), duration_us, memory_bytes, version, outcome: AttemptOutcome::Fault,
                reason, retry_after_ms, logs, logs_dropped,
            }
        }
    }

    proptest! {
        #[test]
        fn rows_round_trip(
            last in attempts(), counted: u32, replays: u32, ids: Vec<String>, published_more: u32,
        ) {
            let topic = Name::new("coupons.issued").unwrap();
            let published = ids.into_iter().map(|id| (topic.clone(), id)).collect();
            let queue = Some(Name::new("q").unwrap());
            let row = DeliveryRow { status: Status::Dead, queue, counted, replays, last, published, published_more };
            let bytes = encode(&row).unwrap();
            prop_assert_eq!(decode::<DeliveryRow>("delivery", b"k", &bytes).unwrap(), row);
        }

        #[test]
        fn damaged_rows_are_errors_not_panics(bytes: Vec<u8>) {
            let _ = decode::<DeliveryRow>("delivery", b"k", &bytes);
        }
    }

    /// The largest row that the limits of core and runtime allow must fit into the store.
    #[test]
    fn the_largest_row_fits() {
        let topic = Name::new(&"t".repeat(Name::MAX_LEN)).unwrap();
        let ids = (0..200).map(|_| (topic.clone(), "i".repeat(256))).collect();
        let (published, published_more) = listed(ids);
        assert_eq!(published.len() + published_more as usize, 200);
        let last = Attempt {
            number: u32::MAX,
            at: Timestamp(u64::MAX),
            duration_us: u64::MAX,
            memory_bytes: u64::MAX,
            version: Some([1; 32]),
            outcome: AttemptOutcome::Ack,
            reason: Some("r".repeat(4_096)),
            retry_after_ms: Some(u64::MAX),
            logs: (0..1_000).map(|_| (4, "x".repeat(66))).collect(),
            logs_dropped: u64::MAX,
        };
        let (counted, replays) = (u32::MAX, u32::MAX);
        let queue = Some(Name::new(&"q".repeat(100)).unwrap());
        let row =
            DeliveryRow { status: Status::Acked, queue, counted, replays, last, published, published_more };
        let bytes = encode(&row).unwrap().len();
        assert!(bytes <= brolly_store::VALUE_BYTES, "{bytes} bytes");
    }

    #[test]
    fn a_row_of_a_later_format_says_so() {
        let error = decode::<DeliveryRow>("delivery", b"k", &[9, 1, 2]).unwrap_err().to_string();
        assert!(error.contains("format 9"), "{error}");
    }
}
