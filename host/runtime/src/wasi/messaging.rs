//! The interfaces of the draft of `wasi:messaging`: a delivery as its `message`, and what its `producer`
//! sends as a message that is published once the attempt is acknowledged. Called by the guest; a breach stops
//! it with a fault. See docs/adr/0018-messaging.md.

use brolly_core::{Call, Fault, Outcome};
use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker, Resource};

use crate::{
    attempt::Guest,
    bindings::{
        brolly::plugin::publish::{self, Header},
        messaging::{
            MessagingRequestReply,
            wasi::messaging::{
                producer, request_reply,
                types::{self, Error, Metadata},
            },
        },
    },
    fault::{MAX_REASON_BYTES, Stop, cut},
};

/// The interfaces that may be imported.
const INTERFACES: [&str; 3] = [
    "wasi:messaging/types@0.2.0-draft",
    "wasi:messaging/producer@0.2.0-draft",
    "wasi:messaging/request-reply@0.2.0-draft",
];

/// The names under which the metadata of a delivery has what the draft has no place for. None of them is
/// published: but for the key, they are of that delivery and of no other message.
const MESSAGE_ID: &str = "brolly-message-id";
const PUBLISHED_AT: &str = "brolly-published-at-ms";
const SUBSCRIPTION: &str = "brolly-subscription";
const ATTEMPT: &str = "brolly-attempt";
const LAST_ATTEMPT: &str = "brolly-last-attempt";
const IDEMPOTENCY_KEY: &str = "brolly-idempotency-key";
const TOLD: [&str; 6] = [MESSAGE_ID, PUBLISHED_AT, SUBSCRIPTION, ATTEMPT, LAST_ATTEMPT, IDEMPOTENCY_KEY];
/// The key, of a delivery and of what is published.
const KEY: &str = "brolly-key";
/// The id of what is published. It is not the name of a delivery's id: a guest that sends what it was given
/// twice would publish one message, for a topic accepts each id once.
const PUBLISH_ID: &str = "brolly-publish-id";

/// A connection, which stands for nothing.
pub struct Client;

/// What no guest ever gets.
pub enum Never {}

/// A message in the guest's hands.
pub struct Message {
    topic: Option<String>,
    content_type: String,
    data: Bytes,
    /// Whether the data are the delivery's own, which are held for it anyway.
    is_given: bool,
    metadata: Metadata,
}

/// Adds the interfaces.
pub(crate) fn add_to(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    MessagingRequestReply::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}

/// Whether a plugin may import an interface of this draft. Another draft is another contract.
pub(crate) fn is_offered(name: &str) -> bool {
    INTERFACES.contains(&name)
}

/// What a guest's error comes to. Only a refusal for want of a right is no better the next time.
pub(crate) fn outcome(error: Error) -> Outcome {
    let retry = |reason: String| Outcome::Retry {
        reason: cut(reason, MAX_REASON_BYTES),
        delay: None,
        dependency: None,
    };
    match error {
        Error::Timeout => retry("timeout".to_owned()),
        Error::Connection(why) => retry(format!("connection: {why}")),
        Error::Other(why) => retry(why),
        Error::PermissionDenied(why) => {
            Outcome::Reject { reason: cut(format!("permission denied: {why}"), MAX_REASON_BYTES) }
        }
    }
}

impl Message {
    fn of(call: &Call<'_>) -> Self {
        let message = call.message;
        let own = message.headers.iter().filter(|(name, _)| !is_hosts_own(name));
        let mut metadata: Metadata = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut tell = |name: &str, value: String| metadata.push((name.to_owned(), value));
        tell(MESSAGE_ID, message.id.clone());
        tell(PUBLISHED_AT, message.published_at.0.to_string());
        tell(SUBSCRIPTION, call.subscription.to_string());
        tell(ATTEMPT, call.attempt.to_string());
        tell(LAST_ATTEMPT, call.last_attempt.to_string());
        tell(IDEMPOTENCY_KEY, call.idempotency_key.to_owned());
        if !message.key.is_empty() {
            tell(KEY, message.key.clone());
        }
        metadata.sort_unstable();
        Self {
            topic: Some(message.topic.to_string()),
            content_type: message.content_type.clone(),
            data: message.payload.clone(),
            is_given: true,
            metadata,
        }
    }

    /// Bytes that the host holds for it.
    fn held(&self) -> u64 {
        let metadata: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let data = if self.is_given { 0 } else { self.data.len() };
        (metadata + data + self.content_type.len()) as u64
    }

    fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.metadata.iter().position(|(present, _)| present == name)?;
        Some(self.metadata.remove(at).1)
    }

    fn set(&mut self, name: String, value: String) {
        match self.metadata.iter_mut().find(|(present, _)| *present == name) {
            Some((_, present)) => *present = value,
            None => self.metadata.push((name, value)),
        }
    }

    /// The same as a message of Brolly's.
    fn outgoing(mut self, topic: String) -> publish::Outgoing {
        let id = self.remove(PUBLISH_ID);
        let key = self.remove(KEY).unwrap_or_default();
        let headers = self.metadata.into_iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
        publish::Outgoing {
            topic,
            id,
            key,
            content_type: self.content_type,
            headers: headers.map(|(name, value)| Header { name, value }).collect(),
            payload: self.data.into(),
        }
    }
}

fn is_hosts_own(name: &str) -> bool {
    name == KEY || name == PUBLISH_ID || TOLD.contains(&name)
}

impl Guest {
    /// The delivery, for the guest to have.
    pub(crate) fn receive(&mut self, call: &Call<'_>) -> wasmtime::Result<Resource<Message>> {
        self.hold(Message::of(call))
    }

    fn hold(&mut self, message: Message) -> wasmtime::Result<Resource<Message>> {
        let held = message.held();
        let handle = self.handles().push(message)?;
        self.handles().messages += 1;
        self.count_held(0, held)?;
        Ok(handle)
    }

    fn let_go(&mut self, this: Resource<Message>) -> wasmtime::Result<Message> {
        let message = self.handles().delete(this)?;
        let handles = self.handles();
        handles.messages = handles.messages.saturating_sub(1);
        handles.message_bytes = handles.message_bytes.saturating_sub(message.held());
        Ok(message)
    }

    fn change(
        &mut self,
        this: &Resource<Message>,
        change: impl FnOnce(&mut Message),
    ) -> wasmtime::Result<()> {
        let message = self.handles().get_mut(this)?;
        let before = message.held();
        change(message);
        let after = message.held();
        Ok(self.count_held(before, after)?)
    }

    /// What the host holds for a guest is its memory as any other.
    fn count_held(&mut self, before: u64, after: u64) -> Result<(), Stop> {
        let limit = self.terms.limits.memory_bytes;
        let handles = self.handles();
        let wanted = handles.message_bytes.saturating_sub(before).saturating_add(after);
        handles.message_bytes = wanted;
        if wanted > limit { Err(Fault::OutOfMemory { wanted, limit }.into()) } else { Ok(()) }
    }
}

impl types::Host for Guest {}

impl types::HostClient for Guest {
    fn connect(&mut self, _: String) -> wasmtime::Result<Result<Resource<Client>, Error>> {
        Ok(Ok(self.handles().push(Client)?))
    }

    fn disconnect(&mut self, _: Resource<Client>) -> wasmtime::Result<Result<(), Error>> {
        Ok(Ok(()))
    }

    fn drop(&mut self, this: Resource<Client>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl types::HostMessage for Guest {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.hold(Message {
            topic: None,
            content_type: String::new(),
            data: data.into(),
            is_given: false,
            metadata: Vec::new(),
        })
    }

    fn topic(&mut self, this: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.handles().get(&this)?.topic.clone())
    }

    fn content_type(&mut self, this: Resource<Message>) -> wasmtime::Result<Option<String>> {
        let content_type = self.handles().get(&this)?.content_type.clone();
        Ok(Some(content_type).filter(|content_type| !content_type.is_empty()))
    }

    fn set_content_type(&mut self, this: Resource<Message>, content_type: String) -> wasmtime::Result<()> {
        self.change(&this, |message| message.content_type = content_type)
    }

    fn data(&mut self, this: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.handles().get(&this)?.data.to_vec())
    }

    fn set_data(&mut self, this: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.change(&this, |message| {
            message.data = data.into();
            message.is_given = false;
        })
    }

    fn metadata(&mut self, this: Resource<Message>) -> wasmtime::Result<Option<Metadata>> {
        let metadata = self.handles().get(&this)?.metadata.clone();
        Ok(Some(metadata).filter(|metadata| !metadata.is_empty()))
    }

    fn add_metadata(&mut self, this: Resource<Message>, name: String, value: String) -> wasmtime::Result<()> {
        self.change(&this, |message| message.set(name, value))
    }

    fn set_metadata(&mut self, this: Resource<Message>, metadata: Metadata) -> wasmtime::Result<()> {
        self.change(&this, |message| message.metadata = metadata)
    }

    fn remove_metadata(&mut self, this: Resource<Message>, name: String) -> wasmtime::Result<()> {
        self.change(&this, |message| drop(message.remove(&name)))
    }

    fn drop(&mut self, this: Resource<Message>) -> wasmtime::Result<()> {
        self.let_go(this).map(drop)
    }
}

impl producer::Host for Guest {
    fn send(
        &mut self,
        _: Resource<Client>,
        topic: String,
        message: Resource<Message>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let message = self.let_go(message)?;
        self.publish(message.outgoing(topic))?;
        Ok(Ok(()))
    }
}

/// What has no counterpart: a delivery is answered by nobody, and waits for nobody.
fn denied<T>(function: &str) -> wasmtime::Result<T> {
    Err(Stop::Fault(Fault::NotGranted(format!(
        "it called wasi:messaging/request-reply {function}; no grant lets a handler wait for answers: it \
         publishes (wasi:messaging/producer), and whoever answers does so to a topic"
    )))
    .into())
}

impl request_reply::Host for Guest {
    fn request(
        &mut self,
        _: Resource<Client>,
        _: String,
        _: Resource<Message>,
        _: Option<Resource<Never>>,
    ) -> wasmtime::Result<Result<Vec<Resource<Message>>, Error>> {
        denied("request")
    }

    fn reply(&mut self, _: Resource<Message>, _: Resource<Message>) -> wasmtime::Result<Result<(), Error>> {
        denied("reply")
    }
}

impl request_reply::HostRequestOptions for Guest {
    fn new(&mut self) -> wasmtime::Result<Resource<Never>> {
        denied("request-options")
    }

    fn set_timeout_ms(&mut self, _: Resource<Never>, _: u32) -> wasmtime::Result<()> {
        denied("set-timeout-ms")
    }

    fn set_expected_replies(&mut self, _: Resource<Never>, _: u32) -> wasmtime::Result<()> {
        denied("set-expected-replies")
    }

    fn drop(&mut self, _: Resource<Never>) -> wasmtime::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_retry_unless_a_right_is_wanting_and_its_words_are_kept() {
        let check = |error, is_reject: bool, words: &str| match outcome(error) {
            Outcome::Retry { reason, delay: None, dependency: None } => {
                assert_eq!((reason.as_str(), is_reject), (words, false));
            }
            Outcome::Reject { reason } => assert_eq!((reason.as_str(), is_reject), (words, true)),
            other => panic!("{other:?}"),
        };
        check(Error::Timeout, false, "timeout");
        check(Error::Connection("no route".to_owned()), false, "connection: no route");
        check(Error::Other("odd".to_owned()), false, "odd");
        check(Error::PermissionDenied("not yours".to_owned()), true, "permission denied: not yours");
        let long = "w".repeat(MAX_REASON_BYTES + 1);
        check(Error::Other(long.clone()), false, &long[1..]);
    }

    #[test]
    fn only_this_draft_is_offered() {
        assert!(is_offered("wasi:messaging/producer@0.2.0-draft"));
        for name in ["wasi:messaging/producer@0.2.0", "wasi:messaging/consumer@0.2.0-draft", "wasi:messaging"]
        {
            assert!(!is_offered(name), "{name}");
        }
    }

    #[test]
    fn what_was_told_of_a_delivery_is_not_published_with_what_is_sent_on() {
        let pairs = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "v".to_owned())).collect();
        let mut names = vec!["a", KEY, "brolly-edited-from"];
        names.extend(TOLD);
        let mut message = Message {
            topic: None,
            content_type: "text/plain".to_owned(),
            data: Bytes::from_static(b"x"),
            is_given: true,
            metadata: pairs(&names),
        };
        message.set("a".to_owned(), "other".to_owned());
        let sent = message.outgoing("t".to_owned());
        assert_eq!((sent.id, sent.key.as_str(), sent.content_type.as_str()), (None, "v", "text/plain"));
        let headers: Vec<_> = sent.headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        assert_eq!(headers, [("a", "other"), ("brolly-edited-from", "v")]);
    }
}
