//! One dead letter on the desk: looked at whole, tried without any effect, sent back edited.

use std::{collections::BTreeMap, sync::Arc};

use brolly_catalog::{Action, Plugin};
use brolly_core::{
    Call, Code, Digest, Handled, HandledBy, Message, MessageId, Name, NewMessage, Refusal, Reuse,
    Subscription, Timestamp, WithoutNetwork,
};
use brolly_ledger::{DeadLetter, DeliveryHistory};
use bytes::Bytes;
use serde_json::json;

use crate::{Error, Handle, handle::blocking};

/// What is to be different in a copy of a message; what is not said stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Another key.
    pub key: Option<String>,
    /// Another media type.
    pub content_type: Option<String>,
    /// Other headers, all of them.
    pub headers: Option<BTreeMap<String, String>>,
    /// Another payload.
    pub payload: Option<Bytes>,
}

impl Edit {
    /// The header of an edited copy that has the id of the message that it was made of.
    pub const ORIGIN: &str = "brolly-edited-from";

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The words for what it changes.
    fn changed(&self) -> Vec<&'static str> {
        let Self { key, content_type, headers, payload } = self;
        let fields = [
            ("key", key.is_some()),
            ("content_type", content_type.is_some()),
            ("headers", headers.is_some()),
            ("payload", payload.is_some()),
        ];
        fields.into_iter().filter(|(_, said)| *said).map(|(field, _)| field).collect()
    }

    /// The copy. It does not expire: its original may have become a dead letter by that.
    fn copy(&self, original: &Message, id: MessageId, now: Timestamp) -> Result<Message, Refusal> {
        let mut headers = self.headers.clone().unwrap_or_else(|| original.headers.clone());
        headers.insert(Self::ORIGIN.to_owned(), original.id.clone());
        let copy = NewMessage {
            id: Some(id.clone()),
            key: self.key.clone().unwrap_or_else(|| original.key.clone()),
            content_type: self.content_type.clone().unwrap_or_else(|| original.content_type.clone()),
            headers,
            payload: self.payload.clone().unwrap_or_else(|| original.payload.clone()),
            ..NewMessage::default()
        };
        copy.check()?;
        Ok(Message {
            id,
            topic: original.topic.clone(),
            key: copy.key,
            content_type: copy.content_type,
            headers: copy.headers,
            published_at: now,
            expires_at: None,
            payload: copy.payload,
        })
    }
}

/// A dead letter with everything that helps to understand it.
#[derive(Debug)]
pub struct Letter {
    /// Where it stands in the listing.
    pub letter: DeadLetter,
    /// The queue.
    pub queue: Name,
    /// The message.
    pub message: Arc<Message>,
    /// Every attempt, with what it logged.
    pub delivery: DeliveryHistory,
}

/// What came of an attempt that had no effect.
#[derive(Debug)]
pub struct Trial {
    /// The plugin version that was tried.
    pub version: Digest,
    /// The message that it was given.
    pub message: Arc<Message>,
    /// What it did, and would have done.
    pub handled: Handled,
}

impl Handle {
    /// Trials that may run at the same time.
    pub const TRIALS: usize = 4;

    async fn dead_letter(
        &self,
        subscription: &Name,
        id: &str,
        topic: Option<Name>,
    ) -> Result<(DeadLetter, Arc<Message>), Error> {
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        let (ledger, wanted) = (self.parts().ledger.clone(), id.to_owned());
        let found = blocking("reading a dead letter", move || {
            let Some(letter) = ledger.find_dead_letter(&queue, &wanted, topic.as_ref())? else {
                return Ok::<_, brolly_ledger::Error>(None);
            };
            let message = ledger.letter_message(&letter)?;
            Ok(Some((letter, message)))
        });
        Ok(found.await??.ok_or_else(|| no_letter(subscription, id))?)
    }

    /// One dead letter, with its message and every attempt; of the first topic that has one of this id,
    /// unless one is named.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a failing store.
    pub async fn letter(&self, subscription: &Name, id: &str, topic: Option<Name>) -> Result<Letter, Error> {
        let (letter, message) = self.dead_letter(subscription, id, topic).await?;
        let history = self.history(id.to_owned(), Some(letter.topic.clone())).await?;
        let mut deliveries = history.into_iter().flat_map(|history| history.deliveries);
        let delivery = deliveries.find(|delivery| delivery.subscription == letter.subscription);
        let delivery = delivery.ok_or_else(|| no_letter(subscription, id))?;
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        Ok(Letter { letter, queue, message, delivery })
    }

    /// Sends an edited copy of a dead letter to its queue, in its place: one commit ends the dead letter
    /// and makes the copy, under an id of its own and with the header [`Edit::ORIGIN`].
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::InvalidMessage`] or [`Code::TooLarge`] for a copy that breaks a limit
    /// of messages; a failing store or broker. The dead letter stays then.
    pub async fn replay_edited(
        &self,
        subscription: &Name,
        id: &str,
        topic: Option<Name>,
        edit: Edit,
    ) -> Result<Arc<Message>, Error> {
        let (letter, message) = self.dead_letter(subscription, id, topic).await?;
        edit.copy(&message, message.id.clone(), message.published_at)?;
        let asked = json!({ "ids": [id], "topic": letter.topic, "changed": edit.changed() });
        self.note(Action::Edit, subscription, asked, 1).await?;
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        let (parts, runtime) = (self.parts().clone(), tokio::runtime::Handle::current());
        let replaced = blocking("replaying an edited dead letter", move || {
            let broker = parts.brokers.of_queue(&parts.catalog.snapshot(), &queue)?;
            let copy = |original: &Message, id| edit.copy(original, id, parts.clock.now());
            let stage = |record, message: &_, commit: &mut _| {
                broker.stage_replay(&queue, record, message, commit).map_err(Error::from)
            };
            runtime.block_on(parts.ledger.replace_dead_letter(&queue, letter.seq, copy, stage))
        });
        Ok(replaced.await??.ok_or_else(|| no_letter(subscription, id))?)
    }

    /// Gives a dead letter, edited if so wanted, to a version of the subscription's plugin: by default to
    /// the one that runs. It is handled as a delivery is, within the subscription's limits and on its
    /// state of now, but nothing comes of it: no state is written, nothing is published, and the dead
    /// letter stays.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::UnknownReference`] for a version that the plugin does not have;
    /// [`Code::Unsupported`] for a forward; [`Code::Unavailable`] while [`Handle::TRIALS`] run; what the
    /// plugin runtime refuses.
    pub async fn try_letter(
        &self,
        subscription: &Name,
        id: &str,
        topic: Option<Name>,
        version: Option<Digest>,
        edit: Edit,
    ) -> Result<Trial, Error> {
        let definition = self.get::<Subscription>(subscription)?.value;
        let HandledBy::Plugin { plugin, version: running } = definition.handled_by()? else {
            let detail = format!("the subscription {subscription} forwards; there is no plugin to be tried");
            return Err(Refusal::new(Code::Unsupported, detail).into());
        };
        let version = version.unwrap_or(running);
        if self.get::<Plugin>(plugin)?.value.version(&version).is_none() {
            let detail = format!("the plugin {plugin} has no version {version}");
            return Err(Refusal::new(Code::UnknownReference, detail).into());
        }
        let (_, message) = self.dead_letter(subscription, id, topic).await?;
        let Ok(_room) = self.trials().try_acquire() else {
            let detail = format!("{} trials are running, the limit; try again in a moment", Self::TRIALS);
            return Err(Refusal::new(Code::Unavailable, detail).into());
        };
        // An instance of its own, so that it meets nothing of others and leaves nothing to them.
        let definition =
            Subscription { version: Some(version), instances: Reuse::Fresh, ..(*definition).clone() };
        let (handle, name) = (self.clone(), subscription.clone());
        blocking("trying a dead letter", move || {
            handle.attempt_nothing(&name, &definition, version, message, &edit)
        })
        .await?
    }

    /// Makes an attempt and lets go of what it asked for. Blocks for as long as the handler takes.
    fn attempt_nothing(
        &self,
        name: &Name,
        definition: &Subscription,
        version: Digest,
        message: Arc<Message>,
        edit: &Edit,
    ) -> Result<Trial, Error> {
        let parts = self.parts();
        let message = if edit.is_empty() {
            message
        } else {
            Arc::new(edit.copy(&message, parts.ledger.next_copy_id(&message)?, parts.clock.now())?)
        };
        let handler =
            parts.plugins.handler(name, definition, &version, &parts.catalog.plugin_file(&version))?;
        let handled = handler.handle(&Call {
            message: &message,
            subscription: name,
            attempt: 1,
            last_attempt: definition.retry.max_attempts == 1,
            idempotency_key: &brolly_ledger::idempotency_key(name, &message),
            state: &parts.ledger.state(name),
            outside: &WithoutNetwork(&*parts.outside),
        });
        Ok(Trial { version, message, handled })
    }
}

fn no_letter(subscription: &Name, id: &str) -> Refusal {
    let detail = format!("the subscription {subscription} has no dead letter of the message {id:?}");
    Refusal::new(Code::NotFound, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Message {
        Message {
            id: "m".into(),
            topic: Name::new("t").unwrap(),
            key: "k".into(),
            content_type: "application/json".into(),
            headers: BTreeMap::from([("a".into(), "b".into())]),
            published_at: Timestamp(1),
            expires_at: Some(Timestamp(2)),
            payload: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn a_copy_has_what_was_said_and_keeps_the_rest() {
        let copy = |edit: &Edit| edit.copy(&original(), "m2".into(), Timestamp(9)).unwrap();
        let headers = |more: &[(&str, &str)]| {
            let own = [(Edit::ORIGIN, "m")].into_iter().chain(more.iter().copied());
            own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let unchanged = Message {
            id: "m2".into(),
            headers: headers(&[("a", "b")]),
            published_at: Timestamp(9),
            expires_at: None,
            ..original()
        };
        assert_eq!(copy(&Edit::default()), unchanged);
        let edit = Edit {
            key: Some(String::new()),
            content_type: Some("text/plain".into()),
            headers: Some(BTreeMap::from([("c".into(), "d".into()), (Edit::ORIGIN.into(), "forged".into())])),
            payload: Some(Bytes::from_static(b"new")),
        };
        assert_eq!(edit.changed(), ["key", "content_type", "headers", "payload"]);
        let expect = Message {
            key: String::new(),
            content_type: "text/plain".into(),
            headers: headers(&[("c", "d")]),
            payload: Bytes::from_static(b"new"),
            ..unchanged
        };
        assert_eq!(copy(&edit), expect);
    }

    #[test]
    fn a_copy_keeps_the_limits_of_messages() {
        let too_long = Edit { key: Some("k".repeat(256)), ..Edit::default() };
        let refusal = too_long.copy(&original(), "m2".into(), Timestamp(9)).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidMessage);
    }
}
