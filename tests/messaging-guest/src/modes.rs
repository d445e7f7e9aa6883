//! What it does with a message.

use std::cell::RefCell;

use crate::bindings::wasi::messaging::{
    producer, request_reply,
    types::{Client, Error, Message},
};

thread_local! {
    /// Messages that outlive their attempt in an instance that is used again.
    static KEPT: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn handle(message: Message) -> Result<(), Error> {
    let mode = value(&message, "mode").unwrap_or_default();
    match mode.as_str() {
        "" => receipt(&message),
        "tell" => tell(&message),
        "forward" => forward(message),
        "timeout" => fails(Error::Timeout),
        "connection" => fails(Error::Connection("the bank is silent".to_owned())),
        "denied" => fails(Error::PermissionDenied("not this customer".to_owned())),
        "other" => fails(Error::Other("something else".to_owned())),
        "bad_topic" => send("no topic/at all", Message::new(b"x")),
        "trap" => std::process::abort(),
        "keep" => keep(message),
        "clients" => connect(value(&message, "count").and_then(|count| count.parse().ok()).unwrap_or(1)),
        "messages" => fill(value(&message, "bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0)),
        "request" => {
            request_reply::request(&Client::connect("")?, "questions", &Message::new(b"?"), None).map(drop)
        }
        "reply" => request_reply::reply(&message, Message::new(b"!")),
        "options" => {
            request_reply::RequestOptions::new().set_timeout_ms(1);
            Ok(())
        }
        other => Err(Error::PermissionDenied(format!("there is no mode {other:?}"))),
    }
}

fn value(message: &Message, name: &str) -> Option<String> {
    message.metadata()?.into_iter().find(|(present, _)| present == name).map(|(_, value)| value)
}

fn send(topic: &str, message: Message) -> Result<(), Error> {
    let client = Client::connect("default")?;
    producer::send(&client, topic, message)?;
    client.disconnect()
}

/// A receipt for an order, with an id that follows from it.
fn receipt(message: &Message) -> Result<(), Error> {
    let order: serde_json::Value = serde_json::from_slice(&message.data())
        .map_err(|error| Error::PermissionDenied(format!("no order: {error}")))?;
    let text = |name: &str| order.get(name).map(ToString::to_string).unwrap_or_default().replace('"', "");
    let receipt = Message::new(format!("{{\"paid\":{}}}", text("amount_cents")).as_bytes());
    receipt.set_content_type("application/json");
    receipt.add_metadata("brolly-publish-id", &format!("receipt-{}", text("order_id")));
    receipt.add_metadata("brolly-key", &text("customer_id"));
    receipt.add_metadata("kind", "draft");
    receipt.add_metadata("kind", "receipt");
    send("receipts.out", receipt)
}

/// Publishes what it sees of its message.
fn tell(message: &Message) -> Result<(), Error> {
    let mut lines =
        vec![format!("topic {:?}", message.topic()), format!("type {:?}", message.content_type())];
    lines.extend(
        message.metadata().unwrap_or_default().into_iter().map(|(name, value)| format!("{name}={value}")),
    );
    let told = Message::new(lines.join("\n").as_bytes());
    let made = (told.topic(), told.content_type(), told.metadata());
    if made != (None, None, None) {
        return Err(Error::Other(format!("a new message has {made:?}")));
    }
    send("told.out", told)
}

/// Sends the message itself on, with other data.
fn forward(message: Message) -> Result<(), Error> {
    message.remove_metadata("mode");
    message.set_data(&[message.data(), b" and more".to_vec()].concat());
    send("forwarded.out", message)
}

/// Sends something and then fails.
fn fails(error: Error) -> Result<(), Error> {
    send("receipts.out", Message::new(b"never"))?;
    Err(error)
}

fn keep(message: Message) -> Result<(), Error> {
    let kept = KEPT.with_borrow_mut(|kept| {
        kept.push(message);
        kept.len()
    });
    send("told.out", Message::new(kept.to_string().as_bytes()))
}

fn connect(count: usize) -> Result<(), Error> {
    let clients: Result<Vec<Client>, Error> = (0..count).map(|_| Client::connect("one")).collect();
    clients.map(drop)
}

/// Has the host hold messages of so many bytes in all.
fn fill(bytes: usize) -> Result<(), Error> {
    let part = vec![b'x'; 65_536];
    let messages: Vec<Message> = (0..bytes / part.len()).map(|_| Message::new(&part)).collect();
    let last = messages.last().map(|message| message.data().len());
    if last == Some(part.len()) { Ok(()) } else { Err(Error::Other(format!("{last:?}"))) }
}
