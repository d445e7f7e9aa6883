//! Reading back: the story of one message, and the search for messages.

use brolly_core::{MessageId, Name, Timestamp};
use brolly_store::{StoredMessage, keys};

use crate::{
    Attempt, Error, Ledger, Status,
    deliveries::{self, DeliveryRow},
};

/// Everything that is known of one message.
#[derive(Debug)]
pub struct History {
    /// Its place in the message table.
    pub seq: u64,
    /// The message, where it was routed and where it came from.
    pub stored: StoredMessage,
    /// The message whose handling published it.
    pub parent: Option<(Name, MessageId)>,
    /// What became of it, by subscription; without deliveries that nobody has attempted yet.
    pub deliveries: Vec<DeliveryHistory>,
    /// Other topics that have a message of the same id.
    pub other_topics: Vec<Name>,
}

/// What became of one delivery.
#[derive(Debug)]
pub struct DeliveryHistory {
    /// The subscription.
    pub subscription: Name,
    /// Where it stands.
    pub status: Status,
    /// How often it was replayed.
    pub replays: u32,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// What it published: topic and id, as far as a row lists it.
    pub published: Vec<(Name, MessageId)>,
    /// How many more it published.
    pub published_more: u32,
}

/// What to look for. Everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Of this topic.
    pub topic: Option<Name>,
    /// With this key.
    pub key: Option<String>,
    /// With this header of this value.
    pub header: Option<(String, String)>,
    /// Published at this moment or later.
    pub from: Option<Timestamp>,
    /// Published before this moment.
    pub until: Option<Timestamp>,
    /// With a delivery that stands so.
    pub status: Option<Status>,
    /// With a delivery to this subscription; together with `status`, one and the same delivery.
    pub subscription: Option<Name>,
}

/// A part of the answer to a search.
#[derive(Debug, Default)]
pub struct Found {
    /// The messages, with where each of their deliveries stands.
    pub items: Vec<(StoredMessage, Vec<(Name, Status)>)>,
    /// Where to go on; none at the end. A part may hold fewer messages than asked for, and still go on.
    pub next: Option<u64>,
    /// The last message looked at, whether it was found or not; the cursor itself if there was none
    /// to look at. Whoever follows the messages goes on from here.
    pub last: Option<u64>,
}

impl Ledger {
    /// The most messages that one call of [`Ledger::search`] looks at. One whose deliveries must be looked
    /// at, too, counts as [`Ledger::DELIVERIES_COST`] more.
    pub const SEARCH_BUDGET: usize = 20_000;
    /// What looking at the deliveries of a message costs, measured in messages.
    pub const DELIVERIES_COST: usize = 3;

    /// The story of the message with this id; of the first topic that has it, unless one is named.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn history(&self, id: &str, topic: Option<&Name>) -> Result<Option<History>, Error> {
        let mut places = self.messages.find_by_id(id)?;
        let Some(chosen) = places.iter().position(|(name, _)| topic.is_none_or(|topic| topic == name)) else {
            return Ok(None);
        };
        let (_, seq) = places.swap_remove(chosen);
        let Some(stored) = self.messages.load(seq)? else { return Ok(None) };
        let parent = match &stored.parent {
            Some(parent) => self.messages.load(parent.seq)?,
            None => None,
        };
        Ok(Some(History {
            seq,
            parent: parent.map(|parent| (parent.message.topic.clone(), parent.message.id.clone())),
            stored,
            deliveries: self.deliveries(seq)?,
            other_topics: places.into_iter().map(|(name, _)| name).collect(),
        }))
    }

    /// What waits in a queue of the embedded broker, in flight or not: the oldest first, from the first
    /// after `after` on, each with its place.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peek(
        &self,
        queue: &Name,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, StoredMessage)>, Error> {
        let after = after.map(|seq| keys::queue_entry(queue, seq));
        let mut waiting = Vec::new();
        for row in self.store.scan(&keys::queue_prefix(queue), after.as_deref()).take(limit) {
            let (key, _) = row?;
            let Some(seq) = keys::seq_of(&key) else { continue };
            // One that was handled a moment ago is there no more.
            if let Some(stored) = self.messages.load(seq)? {
                waiting.push((seq, stored));
            }
        }
        Ok(waiting)
    }

    /// What became of the message of this number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn deliveries(&self, seq: u64) -> Result<Vec<DeliveryHistory>, Error> {
        let mut histories: Vec<DeliveryHistory> = Vec::new();
        for row in self.store.scan(&keys::delivery_prefix(seq), None) {
            let (key, value) = row?;
            match keys::parse_delivery(&key) {
                Some((_, subscription, None)) => {
                    let row: DeliveryRow = deliveries::decode("delivery", &key, &value)?;
                    histories.push(DeliveryHistory {
                        subscription,
                        status: row.status,
                        replays: row.replays,
                        attempts: vec![row.last],
                        published: row.published,
                        published_more: row.published_more,
                    });
                }
                Some((_, subscription, Some(_))) => {
                    let attempt: Attempt = deliveries::decode("attempt", &key, &value)?;
                    if let Some(history) = histories.iter_mut().find(|h| h.subscription == subscription) {
                        history.attempts.push(attempt);
                    }
                }
                None => {}
            }
        }
        for history in &mut histories {
            history.attempts.sort_by_key(|attempt| attempt.number);
        }
        Ok(histories)
    }

    /// Looks for messages: newest first and older than `cursor`, or `ascending` and newer than it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn search(
        &self,
        search: &Search,
        cursor: Option<u64>,
        ascending: bool,
        limit: usize,
    ) -> Result<Found, Error> {
        let listing = if ascending { self.messages.oldest(cursor) } else { self.messages.newest(cursor) };
        let mut found = Found { last: cursor, ..Found::default() };
        let mut spent = 0;
        for item in listing {
            let (seq, stored) = item?;
            found.last = Some(seq);
            spent += 1;
            if matches_envelope(search, &stored) {
                spent += Self::DELIVERIES_COST;
                let statuses = self.statuses(seq)?;
                if matches_deliveries(search, &statuses) {
                    found.items.push((stored, statuses));
                }
            } else if !ascending && passed(search, &stored) {
                return Ok(found);
            }
            if found.items.len() >= limit || spent >= Self::SEARCH_BUDGET {
                found.next = Some(seq);
                return Ok(found);
            }
        }
        Ok(found)
    }

    pub(crate) fn statuses(&self, seq: u64) -> Result<Vec<(Name, Status)>, Error> {
        let mut statuses = Vec::new();
        for row in self.store.scan(&keys::delivery_prefix(seq), None) {
            let (key, value) = row?;
            if let Some((_, subscription, None)) = keys::parse_delivery(&key) {
                statuses.push((
                    subscription,
                    deliveries::decode::<DeliveryRow>("delivery", &key, &value)?.status,
                ));
            }
        }
        Ok(statuses)
    }
}

fn matches_envelope(search: &Search, stored: &StoredMessage) -> bool {
    let message = &stored.message;
    search.topic.as_ref().is_none_or(|topic| *topic == message.topic)
        && search.key.as_ref().is_none_or(|key| *key == message.key)
        && search.header.as_ref().is_none_or(|(name, value)| message.headers.get(name) == Some(value))
        && search.from.is_none_or(|from| message.published_at >= from)
        && search.until.is_none_or(|until| message.published_at < until)
}

fn matches_deliveries(search: &Search, statuses: &[(Name, Status)]) -> bool {
    if search.status.is_none() && search.subscription.is_none() {
        return true;
    }
    statuses.iter().any(|(subscription, status)| {
        search.status.is_none_or(|wanted| wanted == *status)
            && search.subscription.as_ref().is_none_or(|wanted| wanted == subscription)
    })
}

/// Whether no earlier message can match: messages lie in the order in which this host met them, give or take
/// the clock's own steps, for which a minute is allowed, and none was published after it was met. When it was
/// published says nothing of its neighbours: it may have waited elsewhere for long.
fn passed(search: &Search, stored: &StoredMessage) -> bool {
    const SLACK_MS: u64 = 60_000;
    search.from.is_some_and(|from| stored.met_at.0.saturating_add(SLACK_MS) < from.0)
}
