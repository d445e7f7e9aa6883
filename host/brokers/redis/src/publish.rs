//! Sending messages: to all destinations of a message in one step, many messages at once. Called
//! through the port, on the broker's common connection.
//!
//! A message is confirmed when the server has it and, if it keeps an append-only file, has written it
//! there; `appendfsync` says when that is safe from a power cut. No answer within the response
//! time-out means that it may or may not be there: it is sent again, under the same id, and a list or
//! stream that had this id among its last 10,000 is left as it is. What is moved here goes by the mark of
//! the move instead: its id may have been there before.

use std::{sync::Arc, time::Duration};

use brolly_core::{BrokerError, Code, Message, Name, Refusal};
use brolly_remote::{Parcel, To};
use redis::Cmd;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Inner, entry, envelope,
    error::Error,
    exchange::ms,
    plan::{self, Kind, Plan},
    scripts,
};

/// Messages and payload bytes that are sent before the first of them is confirmed.
const BATCH: (usize, usize) = (256, 4 << 20);

/// Where a message goes, for the script.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    key: String,
    base: String,
    kind: &'static str,
    arguments: [String; 2],
}

/// A message on its way.
struct Sending {
    /// The place of its result.
    at: usize,
    call: Cmd,
    /// The queue that has it when, if it is held back.
    due: Option<(Name, Duration)>,
}

/// Sends the parcels. Answers for each, in their order.
pub(crate) async fn send(inner: &Inner, parcels: Vec<Parcel>) -> Vec<Result<(), BrokerError>> {
    let mut results: Vec<Result<(), BrokerError>> = Vec::with_capacity(parcels.len());
    let plan = inner.plan();
    let (mut batch, mut bytes): (Vec<Sending>, usize) = (Vec::new(), 0);
    for parcel in parcels {
        let size = parcel.message.payload.len();
        if !batch.is_empty() && (batch.len() >= BATCH.0 || bytes + size > BATCH.1) {
            flush(inner, std::mem::take(&mut batch), &mut results).await;
            bytes = 0;
        }
        match destinations(&plan, &parcel) {
            Err(refusal) => results.push(Err(refusal.into())),
            Ok(destinations) if destinations.is_empty() && parcel.moved.is_some() => {
                results.push(Err(Refusal::no_queue(&parcel.message.topic, &parcel.message.key).into()));
            }
            Ok(destinations) if destinations.is_empty() => results.push(Ok(())),
            Ok(destinations) => {
                let due = match &parcel.to {
                    To::Topic => None,
                    To::Queue { queue, delay, .. } => Some((queue.clone(), *delay)),
                };
                bytes += size;
                batch.push(Sending { at: results.len(), call: call(&parcel, destinations), due });
                results.push(Ok(()));
            }
        }
    }
    flush(inner, batch, &mut results).await;
    results
}

async fn flush(inner: &Inner, batch: Vec<Sending>, results: &mut [Result<(), BrokerError>]) {
    if batch.is_empty() {
        return;
    }
    let failed = |error: Error| error.on("send to", inner.name.to_string());
    let (places, calls): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|Sending { at, call, due }| ((at, due), call)).unzip();
    let answers = match inner.control() {
        Ok(link) => scripts::PUBLISH.run_all(&link, calls).await,
        Err(error) => Err(error),
    };
    match answers {
        Ok(answers) => {
            let mut refused = None;
            for ((at, due), answer) in places.into_iter().zip(answers) {
                let result = answer.map(drop);
                match (&result, due) {
                    (Ok(()), Some((queue, delay))) => inner.nudge(&queue, Instant::now() + delay),
                    (Err(Error::NoWrites(sentence)), _) => refused = Some(sentence.clone()),
                    (Ok(()) | Err(_), _) => {}
                }
                if let Some(place) = results.get_mut(at) {
                    *place = result.map_err(failed);
                }
            }
            inner.status.block(refused);
        }
        Err(error) => {
            let sentence = error.to_string();
            for (at, _) in places {
                if let Some(place) = results.get_mut(at) {
                    *place = Err(failed(Error::Disconnected(sentence.clone())));
                }
            }
        }
    }
}

/// Where a parcel goes. A topic that is a stream gets the message whatever the routes say: others may
/// listen there.
fn destinations(plan: &Plan, parcel: &Parcel) -> Result<Vec<Destination>, Refusal> {
    let unknown = |queue: &Name| {
        let why = plan.troubles.queues.get(queue).map_or("it is not set up here (yet)", String::as_str);
        Refusal::new(Code::Unavailable, format!("the queue {queue} cannot be sent to: {why}"))
    };
    if let To::Queue { queue, delay, .. } = &parcel.to {
        let place = plan.places.get(queue).ok_or_else(|| unknown(queue))?;
        let arguments = [ms(*delay), Uuid::now_v7().simple().to_string()];
        return Ok(vec![Destination {
            key: place.key.clone(),
            base: place.base.clone(),
            kind: "held",
            arguments,
        }]);
    }
    let mut destinations = Vec::new();
    for queue in &parcel.routed {
        let place = plan.places.get(queue).ok_or_else(|| unknown(queue))?;
        match place.kind {
            Kind::Stream { .. } => {}
            Kind::List => destinations.push(Destination {
                key: place.key.clone(),
                base: place.base.clone(),
                kind: if place.adopt { "plain" } else { "list" },
                arguments: [place.limit.to_string(), String::new()],
            }),
        }
    }
    if let Some(stream) = plan.streams.get(&parcel.message.topic) {
        destinations.push(Destination {
            key: stream.key.clone(),
            base: format!("{}{}", stream.key, plan::MARK),
            kind: "stream",
            arguments: [crate::exchange::flag(stream.adopt).to_owned(), String::new()],
        });
    }
    Ok(destinations)
}

fn call(parcel: &Parcel, destinations: Vec<Destination>) -> Cmd {
    let message: &Arc<Message> = &parcel.message;
    let attempts = match parcel.to {
        To::Topic => 0,
        To::Queue { attempts, .. } => attempts,
    };
    let keys: Vec<&str> = destinations
        .iter()
        .flat_map(|destination| [destination.key.as_str(), destination.base.as_str()])
        .collect();
    let mut call = scripts::PUBLISH.call(&keys);
    let mark = parcel.moved.clone().unwrap_or_else(|| format!("{} {}", message.topic, message.id));
    call.arg(envelope::header(message, attempts)).arg(&*message.payload).arg(mark);
    let to_stream = destinations.iter().any(|destination| destination.kind == "stream");
    let fields = if to_stream { entry::fields(message) } else { Vec::new() };
    call.arg(2 * fields.len());
    for (name, text) in &fields {
        call.arg(name).arg(text);
    }
    for Destination { kind, arguments: [first, second], .. } in &destinations {
        call.arg(kind).arg(first).arg(second);
    }
    call
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use brolly_core::{Publication, Queue, Route, Timestamp, Topic};
    use serde_json::{Value, json};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn plan() -> Plan {
        let topic = |json: Value| Arc::new(serde_json::from_value::<Topic>(json).unwrap());
        let queue = |json: Value| Arc::new(serde_json::from_value::<Queue>(json).unwrap());
        let route = |topic: &str, queue: &str| {
            Arc::new(serde_json::from_value::<Route>(json!({"topic": topic, "queue": queue})).unwrap())
        };
        Plan::new(Publication {
            topics: vec![
                (name("mixed"), topic(json!({"address": "events"}))),
                (name("lists"), topic(json!({}))),
                (name("theirs"), topic(json!({"adopt": true}))),
            ],
            queues: vec![
                (name("own"), queue(json!({"retention": {"max_messages": 7}}))),
                (name("plain"), queue(json!({"address": "old", "adopt": true}))),
                (name("group"), queue(json!({"type": "stream"}))),
                (name("odd"), queue(json!({"type": "odd"}))),
            ],
            routes: vec![(name("a"), route("mixed", "group")), (name("b"), route("lists", "own"))],
            router: Arc::default(),
        })
    }

    fn parcel(to: To, topic: &str, routed: &[&str]) -> Parcel {
        let message = Message {
            id: "i".into(),
            topic: name(topic),
            key: String::new(),
            content_type: String::new(),
            headers: BTreeMap::new(),
            published_at: Timestamp(1),
            expires_at: None,
            payload: "p".into(),
        };
        let routed = routed.iter().map(|queue| name(queue)).collect();
        Parcel { to, message: Arc::new(message), routed, moved: None }
    }

    #[test]
    fn a_message_goes_where_routes_and_streams_say() {
        let check = |topic: &str, routed: &[&str], expect: &[(&str, &str, &str)]| {
            let destinations = destinations(&plan(), &parcel(To::Topic, topic, routed)).unwrap();
            let found: Vec<_> =
                destinations.iter().map(|d| (d.kind, d.key.as_str(), d.arguments[0].as_str())).collect();
            assert_eq!(found, expect);
        };
        check("lists", &["own"], &[("list", "own", "7")]);
        check("lists", &["own", "plain"], &[("list", "own", "7"), ("plain", "old", "10000000")]);
        check("lists", &[], &[]);
        check("mixed", &["group", "own"], &[("list", "own", "7"), ("stream", "events", "")]);
        check("mixed", &[], &[("stream", "events", "")]);
        check("theirs", &[], &[("stream", "theirs", "1")]);
    }

    #[test]
    fn a_queue_that_is_not_there_refuses() {
        let to = |queue: &str| To::Queue { queue: name(queue), delay: Duration::from_secs(2), attempts: 3 };
        let held = destinations(&plan(), &parcel(to("group"), "mixed", &["group"])).unwrap();
        assert_eq!((held[0].kind, held[0].base.as_str()), ("held", "events:brolly:group"));
        assert_eq!(held[0].arguments[0], "2000");
        for (parcel, part) in [
            (parcel(to("unknown"), "lists", &[]), "not set up"),
            (parcel(to("odd"), "lists", &[]), "\"odd\""),
            (parcel(To::Topic, "lists", &["own", "unknown"]), "unknown"),
        ] {
            let refusal = destinations(&plan(), &parcel).unwrap_err();
            assert!(refusal.code == Code::Unavailable && refusal.detail.contains(part), "{refusal}");
        }
    }
}
