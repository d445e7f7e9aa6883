//! Messages that were accepted a moment ago, kept in memory because most are handled at once: the
//! read that is saved would wait for the engine's lock, which the committer holds half the time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use brolly_core::Message;
use parking_lot::Mutex;

/// Bytes of messages that are kept, about; the oldest go first.
const KEPT_BYTES: usize = 16 << 20;
/// What a message takes beside its payload, about.
const ENVELOPE_BYTES: usize = 512;

/// Messages by number. They are never changed, so there is nothing to keep in step.
#[derive(Default)]
pub(crate) struct Recent(Mutex<State>);

#[derive(Default)]
struct State {
    messages: HashMap<u64, Arc<Message>>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Recent {
    pub(crate) fn get(&self, seq: u64) -> Option<Arc<Message>> {
        self.0.lock().messages.get(&seq).cloned()
    }

    pub(crate) fn insert(&self, seq: u64, message: &Arc<Message>) {
        let mut state = self.0.lock();
        state.bytes += size(message);
        state.messages.insert(seq, message.clone());
        state.order.push_back(seq);
        while let Some(&oldest) = state.order.front()
            && (state.bytes > KEPT_BYTES || !state.messages.contains_key(&oldest))
        {
            state.order.pop_front();
            state.forget(oldest);
        }
    }

    pub(crate) fn remove(&self, seq: u64) {
        self.0.lock().forget(seq);
    }
}

impl State {
    fn forget(&mut self, seq: u64) {
        if let Some(message) = self.messages.remove(&seq) {
            self.bytes = self.bytes.saturating_sub(size(&message));
        }
    }
}

fn size(message: &Message) -> usize {
    message.payload.len() + ENVELOPE_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use brolly_core::{Name, Timestamp};

    use super::*;

    fn message(bytes: usize) -> Arc<Message> {
        Arc::new(Message {
            id: "m".into(),
            topic: Name::new("t").unwrap(),
            key: String::new(),
            content_type: String::new(),
            headers: BTreeMap::new(),
            published_at: Timestamp(0),
            expires_at: None,
            payload: vec![0; bytes].into(),
        })
    }

    #[test]
    fn the_newest_are_kept_up_to_the_limit() {
        let recent = Recent::default();
        let half = KEPT_BYTES / 2 - ENVELOPE_BYTES;
        recent.insert(1, &message(half));
        recent.insert(2, &message(half));
        assert!(recent.get(1).is_some() && recent.get(2).is_some());
        recent.insert(3, &message(0));
        assert!(recent.get(1).is_none() && recent.get(2).is_some() && recent.get(3).is_some());
        recent.remove(2);
        recent.insert(4, &message(half));
        assert!(recent.get(2).is_none() && recent.get(3).is_some() && recent.get(4).is_some());
    }
}
