//! What one consumption holds: every message that it has taken and that is not settled on the server,
//! and what became of those that are waiting to be. Filled by the consumer, told by the window through
//! the port [`Tap`], emptied by the consumer. Memory under one short lock; no I/O.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use brolly_core::Message;
use brolly_remote::Tap;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Payload bytes that one consumption holds; then it takes nothing more.
const BYTES: usize = 256 << 20;

/// What one consumption holds.
pub(crate) struct Hold {
    most: usize,
    state: Mutex<State>,
    /// Wakes whoever takes.
    pub take: Notify,
    /// Wakes whoever settles.
    pub settle: Notify,
}

#[derive(Default)]
struct State {
    /// The tag that the next message gets.
    next: u64,
    slots: HashMap<u64, Slot>,
    /// The tags of which the verdict is known.
    told: HashSet<u64>,
    bytes: usize,
    /// INVARIANT: one for each slot at most, so it is as long as what is held.
    verdicts: VecDeque<Verdict>,
    /// When something of our own is due that the server was not asked about yet.
    due: Option<Instant>,
    starved: bool,
    closing: bool,
}

/// A message that is held.
#[derive(Debug)]
pub(crate) struct Slot {
    /// How large it is.
    pub bytes: usize,
    /// The entry of a stream that it is; none for a value in the worker's hash.
    pub entry: Option<String>,
    /// No handler can be given it, so that its original is kept when it is settled.
    pub unfit: bool,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub tag: u64,
    pub entry: Option<String>,
    pub unfit: bool,
    pub what: What,
}

/// What is to be done with it.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Ack,
    Back,
    Retry { message: Arc<Message>, delay: Duration, attempts: u32 },
}

impl Hold {
    /// Holds at most so many messages.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: most.max(1) as usize,
            state: Mutex::new(State { next: 1, ..State::default() }),
            take: Notify::new(),
            settle: Notify::new(),
        }
    }

    /// How many more messages and bytes may be taken, and the tag of the first. Forgets what is due: the
    /// server is about to be asked.
    pub(crate) fn room(&self) -> Option<(usize, usize, u64)> {
        let mut state = self.state.lock();
        let (messages, bytes) =
            (self.most.saturating_sub(state.slots.len()), BYTES.saturating_sub(state.bytes));
        state.starved = messages == 0 || bytes == 0;
        if state.starved {
            return None;
        }
        state.due = None;
        Some((messages, bytes, state.next))
    }

    pub(crate) fn add(&self, tag: u64, slot: Slot) {
        let mut state = self.state.lock();
        state.bytes += slot.bytes;
        state.next = state.next.max(tag + 1);
        state.slots.insert(tag, slot);
    }

    /// Says what became of a message, once.
    pub(crate) fn tell(&self, tag: u64, what: What) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get(&tag) else { return };
        let verdict = Verdict { tag, entry: slot.entry.clone(), unfit: slot.unfit, what };
        if !state.told.insert(tag) {
            return;
        }
        state.verdicts.push_back(verdict);
        drop(state);
        self.settle.notify_one();
    }

    /// Takes what is to be settled. What goes back comes last, the latest first: each goes in front of
    /// the one before.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = self.state.lock().verdicts.drain(..).collect();
        verdicts.sort_by_key(|verdict| match verdict.what {
            What::Ack | What::Retry { .. } => (false, 0),
            What::Back => (true, u64::MAX - verdict.tag),
        });
        verdicts
    }

    /// Whether something goes back.
    pub(crate) fn gives_back(&self) -> bool {
        self.state.lock().verdicts.iter().any(|verdict| matches!(verdict.what, What::Back))
    }

    /// The server knows.
    pub(crate) fn settled(&self, tags: impl IntoIterator<Item = u64>) {
        let mut state = self.state.lock();
        for tag in tags {
            state.told.remove(&tag);
            if let Some(slot) = state.slots.remove(&tag) {
                state.bytes -= slot.bytes;
            }
        }
        let wake = std::mem::take(&mut state.starved);
        drop(state);
        if wake {
            self.take.notify_one();
        }
    }

    /// Something is due then, on the server.
    pub(crate) fn note_due(&self, due: Instant) {
        let mut state = self.state.lock();
        state.due = Some(state.due.map_or(due, |before| before.min(due)));
        drop(state);
        self.take.notify_one();
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.state.lock().due
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().slots.len()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// From now on nothing that is told matters: the server hands it all out anew.
    pub(crate) fn die(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.verdicts.clear();
        state.slots.clear();
    }
}

impl Tap for Hold {
    fn ack(&self, tag: u64) {
        self.tell(tag, What::Ack);
    }

    fn retry(&self, tag: u64, message: &Arc<Message>, delay: Duration, attempts: u32) {
        self.tell(tag, What::Retry { message: message.clone(), delay, attempts });
    }

    fn give_back(&self, tag: u64) {
        self.tell(tag, What::Back);
    }

    fn close(&self) {
        self.state.lock().closing = true;
        self.take.notify_one();
        self.settle.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(most: u32, tags: impl IntoIterator<Item = u64>) -> Hold {
        let hold = Hold::new(most);
        tags.into_iter().for_each(|tag| hold.add(tag, Slot { bytes: 10, entry: None, unfit: false }));
        hold
    }

    #[test]
    fn room_is_free_again_when_the_server_knows() {
        let hold = hold(3, 1..=2);
        assert_eq!(hold.room().map(|(messages, _, next)| (messages, next)), Some((1, 3)));
        hold.add(3, Slot { bytes: BYTES, entry: None, unfit: false });
        assert_eq!(hold.room(), None);
        hold.ack(1);
        assert_eq!((hold.room(), hold.len()), (None, 3), "told is not settled");
        hold.settled([1]);
        assert_eq!(hold.room(), None, "the bytes");
        hold.settled([3]);
        assert_eq!(hold.room(), Some((2, BYTES - 10, 4)));
    }

    #[test]
    fn of_each_message_one_verdict_and_what_goes_back_latest_first() {
        let hold = hold(9, 1..=5);
        for tag in [4, 1, 2] {
            hold.give_back(tag);
        }
        hold.ack(5);
        hold.ack(4);
        hold.ack(77);
        let tags: Vec<u64> = hold.verdicts().iter().map(|verdict| verdict.tag).collect();
        assert_eq!(tags, [5, 4, 2, 1]);
        hold.give_back(5);
        assert!(hold.verdicts().is_empty() && !hold.gives_back());
        hold.die();
        hold.ack(3);
        assert!(hold.verdicts().is_empty());
    }
}
