//! The connection for everything that is not consuming: made again for ever, asked whether it lives,
//! and used to bring about what is wanted. Run by the broker's `run`.
//!
//! While it is connected it also does what time brings: it puts back what dead workers of lists hold,
//! and trims streams of Brolly's own to what some consumer group has still to settle.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::{Pipeline, Value, from_redis_value};
use tokio::time::{Instant, sleep};

use crate::{
    Inner,
    connect::Link,
    error::Error,
    exchange::{flag, ms},
    plan::{Kind, Place, Plan},
    scripts, server,
};

/// The shortest pause before connecting again.
const SHORTEST: Duration = Duration::from_millis(100);

/// How often what is wanted is compared with what is there.
const REVIEW: Duration = Duration::from_secs(5);

/// Steps in which a stream is trimmed at most; each removes 10,000 entries or so.
const TRIMS: usize = 100;

/// Keeps the connection until the broker is closed.
pub(crate) async fn run(inner: &Arc<Inner>) {
    let mut pauses = pauses(inner);
    while !inner.stop.is_cancelled() {
        let began = Instant::now();
        let error = tokio::select! {
            error = serve(inner) => error,
            () = inner.stop.cancelled() => Error::Closed,
        };
        *inner.control.lock() = None;
        inner.status.disconnected(&error);
        if began.elapsed() > inner.settings.connect + inner.settings.response {
            pauses = self::pauses(inner);
        }
        tokio::select! {
            () = sleep(pauses.next().unwrap_or(SHORTEST)) => {}
            () = inner.stop.cancelled() => {}
        }
    }
}

fn pauses(inner: &Inner) -> ExponentialBackoff {
    let longest = inner.settings.longest_pause();
    let pauses = ExponentialBuilder::new().with_jitter().without_max_times();
    pauses.with_min_delay(SHORTEST).with_max_delay(longest).build()
}

/// Connects and works until the connection breaks.
async fn serve(inner: &Arc<Inner>) -> Error {
    match connect(inner).await {
        Ok(link) => match keep(inner, &link).await {
            Ok(never) => match never {},
            Err(error) => error,
        },
        Err(error) => error,
    }
}

async fn connect(inner: &Arc<Inner>) -> Result<Link, Error> {
    let link = inner.dialer.dial(Duration::ZERO).await?;
    let about = server::ask(&link).await?;
    review(inner, &link).await?;
    *inner.control.lock() = Some(link.clone());
    inner.status.connected(about);
    Ok(link)
}

async fn keep(inner: &Arc<Inner>, link: &Link) -> Result<std::convert::Infallible, Error> {
    let began = Instant::now();
    let (mut reviewed, mut reaped) = (began, began);
    let patience = inner.settings.worker_timeout;
    loop {
        sleep(inner.settings.heartbeat()).await;
        link.ping().await?;
        // Every worker that lost its connection with this one must have had the time to come back.
        if began.elapsed() > patience && reaped.elapsed() >= patience / 3 {
            reaped = Instant::now();
            bury(inner, link).await?;
        }
        if reviewed.elapsed() >= REVIEW {
            reviewed = Instant::now();
            inner.status.learned(server::ask(link).await?);
            review(inner, link).await?;
            tend_streams(inner, link).await?;
        }
    }
}

/// An error that leaves the connection as it is was about one queue or script.
fn survivable(subject: &str, error: Error) -> Result<(), Error> {
    if error.breaks_connection() {
        return Err(error);
    }
    tracing::debug!(subject, %error, "not done for now");
    Ok(())
}

/// Puts back what dead workers of lists hold.
async fn bury(inner: &Inner, link: &Link) -> Result<(), Error> {
    for place in inner.plan().places.values().filter(|place| place.kind == Kind::List) {
        match inner.reap(link, place, "").await {
            Ok(0) => {}
            Ok(messages) => {
                let (broker, queue) = (inner.name.to_string(), place.queue.to_string());
                metrics::counter!("brolly_broker_reclaimed_total", "broker" => broker, "queue" => queue)
                    .increment(messages);
                tracing::warn!(broker = %inner.name, queue = %place.queue, messages, "a worker has died; what it held is back in the queue");
            }
            Err(error) => survivable(&place.key, error)?,
        }
    }
    Ok(())
}

/// Finds consumers that nobody keeps alive, and trims.
async fn tend_streams(inner: &Inner, link: &Link) -> Result<(), Error> {
    let plan = inner.plan();
    for place in plan.places.values() {
        let Kind::Stream { group } = &place.kind else { continue };
        let mut call = scripts::STRAYS.call(&[&place.key, &place.base]);
        call.arg(group).arg(flag(place.adopt)).arg(ms(inner.settings.worker_timeout));
        if let Err(error) = scripts::STRAYS.run::<Value>(link, &call).await {
            survivable(&place.key, error)?;
        }
    }
    for stream in plan.streams.values().filter(|stream| !stream.adopt) {
        if let Err(error) = trim(&stream.key, link).await {
            survivable(&stream.key, error)?;
        }
    }
    Ok(())
}

/// Trims a stream in steps: the server does nothing else meanwhile.
async fn trim(key: &str, link: &Link) -> Result<(), Error> {
    let call = scripts::TRIM.call(&[key]);
    for _ in 0..TRIMS {
        if scripts::TRIM.run::<u64>(link, &call).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Brings about what is wanted, as far as it can be, and notes what cannot.
pub(crate) async fn review(inner: &Inner, link: &Link) -> Result<(), Error> {
    let _one_at_a_time = inner.reviewing.lock().await;
    let plan = inner.plan();
    let mut troubles = plan.troubles.clone();
    let kinds = kinds(&plan, link).await?;
    let kind = |key: &str| kinds.get(key).map_or("none", String::as_str);
    for (topic, stream) in &plan.streams {
        match kind(&stream.key) {
            "stream" => {}
            "none" if !stream.adopt => {}
            "none" => {
                troubles.topics.insert(
                    topic.clone(),
                    format!("there is no stream {}; a topic of somebody else is not made", stream.key),
                );
            }
            other => {
                troubles.topics.insert(topic.clone(), wrong_kind(&stream.key, other, "stream"));
            }
        }
    }
    for place in plan.places.values() {
        if let Some(trouble) = settle_in(&plan, place, kind(&place.key), link).await? {
            troubles.queues.insert(place.queue.clone(), trouble);
        }
    }
    // A change of the plan meanwhile is reviewed by who made it.
    if Arc::ptr_eq(&plan, &inner.plan()) {
        inner.status.found(troubles);
    }
    Ok(())
}

/// The type of every key that a queue or topic is at.
async fn kinds(plan: &Plan, link: &Link) -> Result<HashMap<String, String>, Error> {
    let places = plan.places.values().map(|place| &place.key);
    let mut keys: Vec<&String> = places.chain(plan.streams.values().map(|stream| &stream.key)).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let mut pipeline = Pipeline::with_capacity(keys.len());
    keys.iter().for_each(|key| {
        pipeline.cmd("TYPE").arg(key);
    });
    let mut kinds = HashMap::new();
    for (key, answer) in keys.into_iter().zip(link.ask_all(&mut pipeline).await?) {
        let kind = match answer {
            Ok(kind) => from_redis_value(kind).map_err(|_| Error::Answer("TYPE"))?,
            Err(error) => error.to_string(),
        };
        kinds.insert(key.clone(), kind);
    }
    Ok(kinds)
}

pub(crate) fn wrong_kind(key: &str, present: &str, wanted: &str) -> String {
    match present {
        "string" | "list" | "set" | "zset" | "hash" | "stream" => {
            format!("the key {key} is a {present}, not a {wanted}")
        }
        other => format!("the key {key} cannot be looked at: {other}"),
    }
}

/// Makes the place of a queue, if it is to be made; says what is wrong with it.
async fn settle_in(plan: &Plan, place: &Place, kind: &str, link: &Link) -> Result<Option<String>, Error> {
    let Kind::Stream { group } = &place.kind else {
        return Ok(match kind {
            // An empty list is not there.
            "list" | "none" => None,
            other => Some(wrong_kind(&place.key, other, "list")),
        });
    };
    let made_by_others = plan.streams.get(&place.topic).is_some_and(|stream| stream.adopt);
    match kind {
        "stream" => match groups(&place.key, link).await {
            Ok(groups) if groups.contains(group) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.breaks_connection() => return Err(error),
            Err(error) => return Ok(Some(format!("its consumer groups cannot be listed: {error}"))),
        },
        "none" if made_by_others || place.adopt => {
            return Ok(Some(format!("there is no stream {}", place.key)));
        }
        "none" => {}
        other => return Ok(Some(wrong_kind(&place.key, other, "stream"))),
    }
    if place.adopt {
        return Ok(Some(format!(
            "the stream {} has no consumer group {group}; one of somebody else is not made",
            place.key
        )));
    }
    let mut make = redis::cmd("XGROUP");
    make.arg("CREATE").arg(&place.key).arg(group).arg("0").arg("MKSTREAM");
    match link.ask::<Value>(&make).await {
        Ok(_) => {
            tracing::info!(queue = %place.queue, stream = place.key, group, "made a consumer group, from the beginning");
            Ok(None)
        }
        Err(Error::Server(sentence)) if sentence.contains("BUSYGROUP") => Ok(None),
        Err(error) if error.breaks_connection() => Err(error),
        Err(error) => Ok(Some(format!("the consumer group cannot be made: {error}"))),
    }
}

async fn groups(key: &str, link: &Link) -> Result<Vec<String>, Error> {
    let answer: Value = link.ask(redis::cmd("XINFO").arg("GROUPS").arg(key)).await?;
    let Value::Array(groups) = answer else { return Err(Error::Answer("XINFO GROUPS")) };
    let name = |group: &Value| {
        let mut fields = group.as_map_iter()?;
        let (_, name) = fields.find(|(field, _)| **field == Value::BulkString(b"name".to_vec()))?;
        from_redis_value(name.clone()).ok()
    };
    Ok(groups.iter().filter_map(name).collect())
}
