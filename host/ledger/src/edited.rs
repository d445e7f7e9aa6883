//! Edited copies of dead letters: one takes the place of its original in the queue, in one commit with
//! the end of the dead letter, so that there is always exactly one of the two to be handled.

use std::sync::Arc;

use brolly_core::{Commit, Message, MessageId, Name, Refusal, message_limits};
use brolly_store::{Parent, StoredMessage, keys};

use crate::{
    DeadLetter, Error, Ledger, Status,
    dead_letters::{dead_letter, gone},
    deliveries,
};

/// What stands between the id of a message and the number of a copy of it.
const MARK: &str = "~edited-";

impl Ledger {
    /// The dead letter of a message in a queue; of the first topic that has one, unless one is named.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_dead_letter(
        &self,
        queue: &Name,
        id: &str,
        topic: Option<&Name>,
    ) -> Result<Option<DeadLetter>, Error> {
        for (_, seq) in
            self.messages.find_by_id(id)?.iter().filter(|(name, _)| topic.is_none_or(|it| it == name))
        {
            let key = keys::dead_letter(queue, *seq);
            if let Some(value) = self.store.get(&key)? {
                return dead_letter(&key, &value).map(Some);
            }
        }
        Ok(None)
    }

    /// The message of a dead letter.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`]; when the store cannot be read.
    pub fn letter_message(&self, letter: &DeadLetter) -> Result<Arc<Message>, Error> {
        let stored = self.messages.load(letter.seq)?;
        Ok(stored.ok_or_else(|| gone(letter.seq))?.message)
    }

    /// The id that the next edited copy of a message gets: that of the message with a number that no
    /// copy has had. Of an id that leaves no room for it, the end is cut off.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn next_copy_id(&self, message: &Message) -> Result<MessageId, Error> {
        let mut number = 1_u64;
        loop {
            let id = copy_id(&message.id, number);
            if self.messages.find(&message.topic, &id)?.is_none() {
                return Ok(id);
            }
            number += 1;
        }
    }

    /// Puts an edited copy of a dead letter into its queue, in its place. `edit` makes the copy, under
    /// the id that it is given; `stage` adds what the broker needs. None if the dead letter is there no
    /// more. Blocks while a large payload is written.
    ///
    /// # Errors
    /// Whatever the two fail with; nothing is written then. A failing store.
    pub async fn replace_dead_letter<E: From<Error>>(
        &self,
        queue: &Name,
        seq: u64,
        edit: impl FnOnce(&Message, MessageId) -> Result<Message, Refusal>,
        stage: impl FnOnce(u64, &Message, &mut Commit) -> Result<(), E>,
    ) -> Result<Option<Arc<Message>>, E> {
        let _desk = self.dead_letters.desk.lock().await;
        let key = keys::dead_letter(queue, seq);
        let Some(value) = self.store.get(&key).map_err(Error::from)? else { return Ok(None) };
        let letter = dead_letter(&key, &value)?;
        let original = self.letter_message(&letter)?;
        let copy = edit(&original, self.next_copy_id(&original)?).map_err(Error::from)?;
        let (record, subscription) = (self.messages.allocate(), letter.subscription);
        let stored = StoredMessage {
            met_at: copy.published_at,
            message: Arc::new(copy),
            routed: vec![queue.clone()],
            filter_errors: Vec::new(),
            parent: Some(Parent { seq, subscription: subscription.clone() }),
        };
        let mut commit = Commit::default();
        if let Some(mut row) = deliveries::read(&self.store, seq, &subscription)? {
            row.status = Status::Replaced;
            row.published = vec![(stored.message.topic.clone(), stored.message.id.clone())];
            commit.put(keys::delivery(seq, &subscription), deliveries::encode(&row)?);
        }
        self.messages.stage(record, &stored, &mut commit).map_err(Error::from)?;
        self.dead_letters.stage_removal(queue, key, &mut commit);
        // Last: what a broker takes in memory for it is not given back if anything fails after this.
        stage(record, &stored.message, &mut commit)?;
        self.store.commit(commit).await.map_err(Error::from)?;
        Ok(Some(stored.message))
    }
}

/// The id of a copy; a copy of a copy is numbered as one of the first original.
fn copy_id(id: &str, number: u64) -> MessageId {
    let original = match id.rsplit_once(MARK) {
        Some((original, number)) if number.parse::<u64>().is_ok() && !original.is_empty() => original,
        _ => id,
    };
    let mark = format!("{MARK}{number}");
    let room = message_limits::ID_BYTES - mark.len();
    let end = original.floor_char_boundary(room.min(original.len()));
    format!("{}{mark}", original.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_copies_name_their_original_and_fit() {
        for (id, number, expect) in [
            ("o1", 1, "o1~edited-1"),
            ("o1~edited-1", 2, "o1~edited-2"),
            ("o1~edited-x", 1, "o1~edited-x~edited-1"),
            ("~edited-3", 1, "~edited-3~edited-1"),
        ] {
            assert_eq!(copy_id(id, number), expect);
        }
        let longest = "é".repeat(message_limits::ID_BYTES / 2);
        let copy = copy_id(&longest, u64::MAX);
        assert!(
            copy.len() <= message_limits::ID_BYTES && copy.ends_with(&format!("~edited-{}", u64::MAX)),
            "{copy}"
        );
        assert_eq!(copy_id(&"x".repeat(message_limits::ID_BYTES), 1).len(), message_limits::ID_BYTES);
    }
}
