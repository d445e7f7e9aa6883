//! Records attempts around the handler that makes them, and keeps the latest of them.
//!
//! Off, it costs one load of an atomic for each attempt. On, it notes what the attempt reads; only an
//! attempt that is kept costs more. What is kept is bounded in number and in bytes, for one subscription
//! and for all; the oldest make room.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use brolly_core::{Call, Clock, Handled, Handler, Name, Subscription, Verdict};
use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value};

use crate::{Capture, noted::Noted};

/// Captures kept of one subscription.
pub const MAX_CAPTURES: usize = 100;
/// Bytes of one capture; a larger one is not kept, and counted.
pub const MAX_CAPTURE_BYTES: usize = 4 << 20;
/// Bytes of all captures of all subscriptions.
pub const MAX_BYTES: usize = 64 << 20;

/// Fields of a subscription's definition that a handler could notice.
const TERMS: [&str; 6] = ["plugin", "version", "config", "limits", "grants", "instances"];

/// Which attempts are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// None.
    Off,
    /// Those that are not acknowledged.
    #[default]
    Failing,
    /// All.
    All,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Off, Mode::Failing, Mode::All];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Failing => "failing",
            Mode::All => "all",
        }
    }

    fn keeps(self, verdict: &Verdict) -> bool {
        match verdict {
            // Nothing came of it, and no attempt is counted.
            Verdict::Unavailable(_) => false,
            Verdict::Outcome(brolly_core::Outcome::Ack) => self == Mode::All,
            Verdict::Outcome(_) | Verdict::Fault(_) => self != Mode::Off,
        }
    }
}

/// The recorders of all subscriptions.
#[derive(Default)]
pub struct Recorders {
    recorders: RwLock<HashMap<Name, Arc<Recorder>>>,
    /// Bytes that all of them keep.
    bytes: Arc<AtomicUsize>,
}

impl Recorders {
    /// The recorder of a subscription, which records failing attempts if it is new.
    pub fn of(&self, subscription: &Name) -> Arc<Recorder> {
        if let Some(recorder) = self.recorders.read().get(subscription) {
            return recorder.clone();
        }
        let new = || Arc::new(Recorder::new(self.bytes.clone()));
        self.recorders.write().entry(subscription.clone()).or_insert_with(new).clone()
    }

    /// What all of them keep, each with its number: the higher, the later.
    pub(crate) fn kept(&self) -> Vec<(Name, Numbered)> {
        let numbered = |recorder: &Recorder| {
            let kept = recorder.kept.lock();
            kept.captures.iter().map(|one| (one.number, one.capture.clone())).collect()
        };
        self.recorders.read().iter().map(|(name, recorder)| (name.clone(), numbered(recorder))).collect()
    }

    /// Forgets a subscription that is no more, with its captures.
    pub fn forget(&self, subscription: &Name) {
        self.recorders.write().remove(subscription);
    }
}

/// Captures with their numbers.
pub(crate) type Numbered = Vec<(u64, Arc<Capture>)>;

/// Keeps the captures of one subscription.
pub struct Recorder {
    mode: AtomicU8,
    kept: Mutex<Kept>,
    /// Bytes that all recorders keep.
    total: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    captures: VecDeque<One>,
    /// The number of the next one.
    next: u64,
    skipped: u64,
}

struct One {
    number: u64,
    capture: Arc<Capture>,
    size: usize,
}

/// What a recorder has.
#[derive(Clone, Debug)]
pub struct Captures {
    /// Which attempts are recorded now.
    pub mode: Mode,
    /// Newest first.
    pub captures: Vec<Arc<Capture>>,
    /// Attempts that were not kept because they are too large, or there was no room, since the host
    /// started.
    pub skipped: u64,
}

impl Recorder {
    fn new(total: Arc<AtomicUsize>) -> Self {
        Self { mode: AtomicU8::new(Mode::default() as u8), kept: Mutex::default(), total }
    }

    /// A handler that records what another one does for a subscription.
    #[must_use]
    pub fn over(
        self: Arc<Self>,
        subscription: &Subscription,
        handler: Arc<dyn Handler>,
        clock: Arc<dyn Clock>,
    ) -> Arc<dyn Handler> {
        let definition = serde_json::to_value(subscription).unwrap_or_default();
        let term = |name: &&str| Some(((*name).to_owned(), definition.get(*name)?.clone()));
        let terms = TERMS.iter().filter_map(term).collect::<Map<_, _>>().into();
        Arc::new(Recording { recorder: self, terms, handler, clock })
    }

    /// Which attempts are recorded.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Off,
            1 => Mode::Failing,
            _ => Mode::All,
        }
    }

    /// Records these attempts from now on. What is kept stays.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// The newest captures, at most `limit`; only failing ones if so wanted.
    pub fn captures(&self, failing: bool, limit: usize) -> Captures {
        let kept = self.kept.lock();
        let newest = kept.captures.iter().rev().map(|one| &one.capture);
        let wanted = newest.filter(|capture| !failing || capture.is_failing()).take(limit);
        Captures { mode: self.mode(), captures: wanted.cloned().collect(), skipped: kept.skipped }
    }

    fn skip(&self) {
        self.kept.lock().skipped += 1;
    }

    /// Keeps what was kept under this number before the host started. To be called in the order of numbers.
    pub(crate) fn restore(&self, number: u64, capture: Capture) {
        self.kept.lock().next = number;
        self.keep(capture);
    }

    fn keep(&self, capture: Capture) {
        let size = capture.size();
        if size > MAX_CAPTURE_BYTES {
            return self.skip();
        }
        let mut kept = self.kept.lock();
        // An attempt that lost a race for the state is made again: the last one is what happened.
        let is_again = |one: &One| {
            one.capture.attempt == capture.attempt && one.capture.idempotency_key == capture.idempotency_key
        };
        if let Some(at) = kept.captures.iter().position(is_again)
            && let Some(before) = kept.captures.remove(at)
        {
            self.total.fetch_sub(before.size, Ordering::Relaxed);
        }
        while kept.captures.len() >= MAX_CAPTURES || !self.has_room(size) {
            let Some(oldest) = kept.captures.pop_front() else {
                kept.skipped += 1;
                return;
            };
            self.total.fetch_sub(oldest.size, Ordering::Relaxed);
        }
        self.total.fetch_add(size, Ordering::Relaxed);
        let number = kept.next;
        kept.next += 1;
        kept.captures.push_back(One { number, capture: Arc::new(capture), size });
    }

    fn has_room(&self, size: usize) -> bool {
        self.total.load(Ordering::Relaxed) + size <= MAX_BYTES
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let size: usize = self.kept.get_mut().captures.iter().map(|one| one.size).sum();
        self.total.fetch_sub(size, Ordering::Relaxed);
    }
}

/// A handler whose attempts are recorded.
struct Recording {
    recorder: Arc<Recorder>,
    terms: Value,
    handler: Arc<dyn Handler>,
    clock: Arc<dyn Clock>,
}

impl Handler for Recording {
    fn handle(&self, call: &Call<'_>) -> Handled {
        let mode = self.recorder.mode();
        if mode == Mode::Off {
            return self.handler.handle(call);
        }
        let noted = Noted::new(call);
        let handled = self.handler.handle(&noted.call(call));
        if mode.keeps(&handled.verdict) {
            let terms = self.terms.clone();
            match noted.complete() {
                Some(reads) => {
                    self.recorder.keep(Capture::of(call, reads, &handled, self.clock.now(), terms));
                }
                None => self.recorder.skip(),
            }
        }
        handled
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use brolly_core::{
        Effects, Fault, Message, Nowhere, Outcome, StateEntry, StateReader, StateUnavailable, SystemClock,
        Timestamp,
    };
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::{Happened, Recorded};

    /// Reads what the payload names, and ends as the key says.
    struct Reader;

    impl Handler for Reader {
        fn handle(&self, call: &Call<'_>) -> Handled {
            let text = std::str::from_utf8(&call.message.payload).unwrap();
            let value = call.state.get(text).unwrap();
            call.state.list("a", None, 5).unwrap();
            let verdict = match call.message.key.as_str() {
                "ack" => Verdict::Outcome(Outcome::Ack),
                "reject" => Verdict::Outcome(Outcome::Reject { reason: format!("{value:?}") }),
                "fault" => Verdict::Fault(Fault::Trap("t".into())),
                _ => Verdict::Unavailable("u".into()),
            };
            Handled {
                verdict,
                effects: Effects::default(),
                logs: Vec::new(),
                logs_dropped: 0,
                duration: Duration::ZERO,
                memory_bytes: 0,
            }
        }
    }

    struct Large(usize);

    impl StateReader for Large {
        fn get(&self, _: &str) -> Result<Option<Bytes>, StateUnavailable> {
            Ok(Some(vec![b'x'; self.0].into()))
        }

        fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<StateEntry>, StateUnavailable> {
            Ok(vec![StateEntry { key: "a1".into(), value: Bytes::from_static(b"1") }])
        }
    }

    fn message(id: &str, key: &str, payload: impl Into<Bytes>) -> Message {
        Message {
            id: id.into(),
            topic: Name::new("t").unwrap(),
            key: key.into(),
            content_type: String::new(),
            headers: BTreeMap::new(),
            published_at: Timestamp(1),
            expires_at: None,
            payload: payload.into(),
        }
    }

    pub(crate) struct Rig {
        pub(crate) recorder: Arc<Recorder>,
        handler: Arc<dyn Handler>,
    }

    impl Rig {
        pub(crate) fn new(recorders: &Recorders, name: &str) -> Self {
            let recorder = recorders.of(&Name::new(name).unwrap());
            let subscription = serde_json::from_value(json!({"queue": "q", "plugin": "p",
                "version": format!("sha256:{}", "ab".repeat(32)), "config": {"c": "d"}}))
            .unwrap();
            let handler = recorder.clone().over(&subscription, Arc::new(Reader), Arc::new(SystemClock));
            Self { recorder, handler }
        }

        fn handle(&self, message: &Message, state: &dyn StateReader) -> Handled {
            let subscription = Name::new("s").unwrap();
            let idempotency_key = &format!("s/t/{}", message.id);
            let (attempt, last_attempt) = (1, false);
            self.handler.handle(&Call {
                message,
                subscription: &subscription,
                attempt,
                last_attempt,
                idempotency_key,
                state,
                outside: &Nowhere,
            })
        }

        pub(crate) fn ids(&self, failing: bool, limit: usize) -> Vec<String> {
            let captures = self.recorder.captures(failing, limit).captures;
            captures.iter().map(|capture| capture.message.id.clone()).collect()
        }
    }

    /// Has an attempt at this message fail.
    pub(crate) fn fail(rig: &Rig, id: &str) {
        rig.handle(&message(id, "fault", "a"), &Large(1));
    }

    #[test]
    fn what_is_kept_is_what_the_mode_says() {
        let check = |mode, expect: &[&str]| {
            let rig = Rig::new(&Recorders::default(), "s");
            rig.recorder.set_mode(mode);
            for key in ["ack", "reject", "fault", "unavailable"] {
                rig.handle(&message(key, key, "a"), &Large(1));
            }
            assert_eq!(rig.ids(false, 9), expect, "{mode:?}");
        };
        check(Mode::Off, &[]);
        check(Mode::Failing, &["fault", "reject"]);
        check(Mode::All, &["fault", "reject", "ack"]);
        assert_eq!(Mode::default(), Mode::Failing);
        for mode in Mode::ALL {
            let rig = Rig::new(&Recorders::default(), "s");
            rig.recorder.set_mode(mode);
            assert_eq!(rig.recorder.mode(), mode);
        }
    }

    #[test]
    fn a_capture_holds_what_the_attempt_was_given_and_gives_it_back() {
        let rig = Rig::new(&Recorders::default(), "s");
        let first = rig.handle(&message("m", "reject", "a"), &Large(3));
        let capture = rig.recorder.captures(true, 1).captures.remove(0);
        assert_eq!(capture.terms["config"], json!({"c": "d"}));
        assert_eq!(capture.terms["plugin"], "p");
        assert!(capture.terms.get("queue").is_none());
        assert_eq!(capture.reads.len(), 2);
        let state = Recorded::new(&capture, false);
        let again = rig.handle(&capture.message(), &state);
        assert_eq!(Happened::from(&again), Happened::from(&first));
        assert_eq!(state.unknown(), None);
    }

    #[test]
    fn an_attempt_that_is_made_again_is_kept_once() {
        let rig = Rig::new(&Recorders::default(), "s");
        rig.handle(&message("m", "reject", "a"), &Large(1));
        rig.handle(&message("m", "fault", "a"), &Large(1));
        let captures = rig.recorder.captures(false, 9).captures;
        assert_eq!((captures.len(), captures[0].happened.outcome.as_str()), (1, "fault"));
    }

    #[test]
    fn captures_are_bounded_in_number_and_bytes_and_the_oldest_make_room() {
        let recorders = Recorders::default();
        let rig = Rig::new(&recorders, "s");
        for number in 0..=MAX_CAPTURES {
            rig.handle(&message(&number.to_string(), "fault", "a"), &Large(1));
        }
        let ids = rig.ids(true, 1_000);
        assert_eq!((ids.len(), ids[0].as_str(), ids[MAX_CAPTURES - 1].as_str()), (MAX_CAPTURES, "100", "1"));
        assert_eq!(rig.ids(true, 2), ["100", "99"]);
        // Just under the size of one, and just over it, whether it is read or was delivered.
        let spare = 8_192;
        rig.handle(&message("fits", "fault", "a"), &Large(MAX_CAPTURE_BYTES - spare));
        rig.handle(&message("read", "fault", "a"), &Large(MAX_CAPTURE_BYTES + 1));
        rig.handle(&message("given", "fault", vec![b'a'; MAX_CAPTURE_BYTES]), &Large(1));
        assert_eq!((rig.ids(true, 1), rig.recorder.captures(true, 1).skipped), (vec!["fits".to_owned()], 2));

        let other = Rig::new(&recorders, "other");
        for number in 0..20 {
            other.handle(&message(&number.to_string(), "fault", "a"), &Large(MAX_CAPTURE_BYTES - spare));
        }
        let total = recorders.bytes.load(Ordering::Relaxed);
        assert!(total <= MAX_BYTES && total > MAX_BYTES - 2 * MAX_CAPTURE_BYTES, "{total}");
        assert_eq!(other.ids(true, 1), ["19"]);
        assert_eq!(rig.ids(true, 1), ["fits"], "a subscription makes room at its own cost");
        recorders.forget(&Name::new("other").unwrap());
        drop(other);
        assert!(recorders.bytes.load(Ordering::Relaxed) < 2 * MAX_CAPTURE_BYTES);
    }
}
