//! Ids of messages that came without one. An adapter derives such an id from the content, so equal
//! messages get the same; here they are told apart as far as that can be done. Called by `window`
//! for each such message, in the order in which they come.
//!
//! * One that the other side hands out for the first time is another message: it gets the derived
//!   id, or, if that is taken, the next free `{id}.{n}`.
//! * One that is handed out again is one of those that were in hand when the connection broke, or,
//!   if none is left of these, the latest that is known.
//!
//! So what is unique is handled once, whatever breaks, and equal messages are all handled, unless
//! the host dies while several of them are in hand: then one may be taken for another.

use std::collections::{HashMap, VecDeque};

use brolly_core::{MessageId, Name};
use brolly_store::Messages;
use parking_lot::Mutex;

/// Derived ids whose latest number is remembered at the least; others are looked up. More than can be in hand:
/// what is in hand is not stored yet, and cannot be looked up.
const REMEMBERED: usize = 100_000;

/// The derived ids of one queue.
pub(crate) struct Ids {
    messages: Messages,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the latest message of each derived id.
    latest: HashMap<MessageId, u64>,
    /// The same of those before them.
    earlier: HashMap<MessageId, u64>,
    /// Those that were in hand when the connection broke, oldest first.
    adrift: HashMap<MessageId, VecDeque<MessageId>>,
}

impl Ids {
    pub(crate) fn new(messages: Messages) -> Self {
        Self { messages, state: Mutex::default() }
    }

    /// The id of a message whose derived id this is.
    pub(crate) fn assign(&self, topic: &Name, derived: MessageId, redelivered: bool) -> MessageId {
        let mut state = self.state.lock();
        if redelivered
            && let Some(adrift) = state.adrift.get_mut(&derived)
            && let Some(id) = adrift.pop_front()
        {
            if adrift.is_empty() {
                state.adrift.remove(&derived);
            }
            return id;
        }
        let remembered = state.latest.get(&derived).or_else(|| state.earlier.get(&derived)).copied();
        let latest = remembered.or_else(|| self.latest(topic, &derived));
        let number = match latest {
            None => 0,
            Some(latest) if redelivered => latest,
            Some(latest) => latest + 1,
        };
        if state.latest.len() >= REMEMBERED {
            state.earlier = std::mem::take(&mut state.latest);
        }
        let id = numbered(&derived, number);
        state.latest.insert(derived, number);
        id
    }

    /// Remembers what was in hand when the connection broke.
    pub(crate) fn set_adrift(&self, ids: impl Iterator<Item = MessageId>) {
        let mut state = self.state.lock();
        state.adrift.clear();
        for id in ids {
            let derived = id.split_once('.').map_or(id.as_str(), |(derived, _)| derived).to_owned();
            state.adrift.entry(derived).or_default().push_back(id);
        }
    }

    /// The number of the latest stored message. The first ones may be forgotten, and any may never have been
    /// handled, so all are looked at. A store that cannot be read has other ways to say so; here it only makes
    /// ids look free.
    fn latest(&self, topic: &Name, derived: &str) -> Option<u64> {
        let numbered = format!("{derived}.");
        let number = |id: MessageId| id.strip_prefix(&numbered)?.parse::<u64>().ok();
        let latest = self.messages.ids(topic, &numbered).flatten().filter_map(number).max();
        latest.or_else(|| self.messages.find(topic, derived).is_ok_and(|found| found.is_some()).then_some(0))
    }
}

fn numbered(derived: &str, number: u64) -> MessageId {
    match number {
        0 => derived.to_owned(),
        number => format!("{derived}.{number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use brolly_core::{Commit, Message, Timestamp};
    use brolly_store::{Config, Store, StoredMessage};

    use super::*;

    struct Bench {
        _dir: tempfile::TempDir,
        store: Store,
        messages: Messages,
        topic: Name,
    }

    async fn with_stored(numbers: std::ops::Range<u64>) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let topic = Name::new("t").unwrap();
        let mut commit = Commit::default();
        for number in numbers {
            let message = Message {
                id: numbered("x", number),
                topic: topic.clone(),
                key: String::new(),
                content_type: String::new(),
                headers: BTreeMap::new(),
                published_at: Timestamp(0),
                expires_at: None,
                payload: bytes::Bytes::new(),
            };
            let (routed, filter_errors, parent) = (Vec::new(), Vec::new(), None);
            let (message, met_at) = (Arc::new(message), Timestamp(0));
            let stored = StoredMessage { message, met_at, routed, filter_errors, parent };
            messages.stage(messages.allocate(), &stored, &mut commit).unwrap();
        }
        store.commit(commit).await.unwrap();
        Bench { _dir: dir, store, messages, topic }
    }

    #[tokio::test]
    async fn equal_messages_are_numbered_and_found_again() {
        for count in [0, 1, 2, 3, 9] {
            let bench = with_stored(0..count).await;
            let ids = Ids::new(bench.messages.clone());
            let assign = |redelivered| ids.assign(&bench.topic, "x".into(), redelivered);
            assert_eq!(assign(false), numbered("x", count), "{count} are stored");
            assert_eq!(assign(false), numbered("x", count + 1));
            let ids = Ids::new(bench.messages.clone());
            let again = ids.assign(&bench.topic, "x".into(), true);
            assert_eq!(again, numbered("x", count.saturating_sub(1)), "{count} are stored");
            drop(bench.store);
        }
    }

    #[tokio::test]
    async fn numbers_go_on_when_the_first_are_forgotten() {
        let bench = with_stored(7..12).await;
        let ids = Ids::new(bench.messages.clone());
        assert_eq!(ids.assign(&bench.topic, "x".into(), true), "x.11");
        assert_eq!(ids.assign(&bench.topic, "x".into(), false), "x.12");
        // Ids that only begin alike, and other topics, are others.
        assert_eq!(ids.assign(&bench.topic, "x.1".into(), false), "x.1");
        assert_eq!(ids.assign(&Name::new("u").unwrap(), "y".into(), false), "y");
    }

    #[tokio::test]
    async fn what_is_in_hand_is_not_taken_for_its_equal_however_many_come_between() {
        let bench = with_stored(0..0).await;
        let ids = Ids::new(bench.messages.clone());
        let assign = |id: &str| ids.assign(&bench.topic, id.to_owned(), false);
        assert_eq!(assign("x"), "x");
        for other in 0..REMEMBERED {
            assign(&format!("other-{other}"));
        }
        assert_eq!(assign("x"), "x.1");
    }

    #[tokio::test]
    async fn what_was_in_hand_comes_back_as_what_it_was() {
        let bench = with_stored(0..1).await;
        let ids = Ids::new(bench.messages.clone());
        let assign = |redelivered| ids.assign(&bench.topic, "x".into(), redelivered);
        assert_eq!([assign(false), assign(false)], ["x.1", "x.2"]);
        ids.set_adrift(["x.1", "x.2", "y"].map(str::to_owned).into_iter());
        assert_eq!([assign(true), assign(true), assign(true)], ["x.1", "x.2", "x.2"]);
        assert_eq!(assign(false), "x.3");
    }
}
