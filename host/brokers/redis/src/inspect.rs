//! What is asked about single queues and topics: what a queue holds, whether a definition can be
//! honoured on the server, and deleting. Called through the port.

use brolly_core::{BrokerError, Code, Counts, Name, Proposal, Refusal};

use crate::{
    Inner,
    connect::Link,
    error::Error,
    exchange::{flag, ms},
    plan::{Kind, Place},
    scripts,
    supervisor::wrong_kind,
};

/// Values that move in one step when a list of somebody else is left.
const LEAVE: usize = 1_000;

/// What a queue holds.
pub(crate) async fn counts(inner: &Inner, queue: &Name) -> Result<Counts, BrokerError> {
    let place = inner.place(queue)?;
    let counted = async {
        let link = inner.control()?;
        match &place.kind {
            Kind::List => {
                scripts::COUNT_LIST.run(&link, &scripts::COUNT_LIST.call(&[&place.key, &place.base])).await
            }
            Kind::Stream { group } => {
                let mut call = scripts::COUNT_STREAM.call(&[&place.key, &place.base]);
                call.arg(group).arg(ms(inner.settings.worker_timeout));
                scripts::COUNT_STREAM.run(&link, &call).await
            }
        }
    };
    let counted: Result<(i64, u64, u64), Error> = counted.await;
    let (ready, in_flight, delayed) = counted.map_err(|error| error.on("count", queue.to_string()))?;
    Ok(Counts {
        // Below zero means that Redis cannot tell.
        ready: u64::try_from(ready).ok(),
        in_flight: Some(in_flight),
        delayed: Some(delayed),
        oldest: None,
        elsewhere: false,
    })
}

/// Refuses what the server cannot honour, if it can be asked.
pub(crate) async fn admit(inner: &Inner, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
    inner.plan().admit(name, proposal)?;
    let (key, wanted, must_exist) = match proposal {
        Proposal::Topic(topic) if topic.adopt => (topic.address(name).to_owned(), "stream", true),
        Proposal::Queue(queue) if queue.kind.as_deref() != Some("stream") => {
            (queue.address(name).to_owned(), "list", false)
        }
        Proposal::Route(route, queue) if queue.kind.as_deref() == Some("stream") => {
            let plan = inner.plan();
            let Some(stream) = plan.topics.get(&route.topic) else { return Ok(()) };
            (stream.key.clone(), "stream", stream.adopt || queue.adopt)
        }
        Proposal::Topic(_)
        | Proposal::Queue(_)
        | Proposal::Route(..)
        | Proposal::Feed(_)
        | Proposal::Order(..) => return Ok(()),
    };
    let Ok(link) = inner.control() else { return Ok(()) };
    let kind: Result<String, Error> = link.ask(redis::cmd("TYPE").arg(&key)).await;
    match kind.as_deref() {
        Ok(kind) if kind == wanted => Ok(()),
        Ok("none") if !must_exist => Ok(()),
        Ok("none") => {
            let detail =
                format!("there is no {wanted} {key}; what belongs to somebody else (adopt) must exist");
            Err(Refusal::new(Code::Unsupported, detail).into())
        }
        Ok(kind) => Err(Refusal::new(Code::Unsupported, wrong_kind(&key, kind, wanted)).into()),
        // A server that cannot be asked says nothing against it.
        Err(_) => Ok(()),
    }
}

/// Deletes a queue.
pub(crate) async fn delete(inner: &Inner, queue: &Name, force: bool) -> Result<(), BrokerError> {
    // A queue that could never be set up has nothing on the server.
    let Ok(place) = inner.place(queue) else { return Ok(()) };
    let failed = |error: Error| error.on("delete", queue.to_string());
    let link = inner.control().map_err(failed)?;
    let holds = match &place.kind {
        Kind::List if place.adopt => leave(inner, &link, &place, force).await,
        Kind::List => delete_list(&link, &place, force).await,
        Kind::Stream { group } => {
            let mut call = scripts::DELETE_STREAM.call(&[&place.key, &place.base]);
            call.arg(group).arg(flag(force)).arg(flag(place.adopt));
            scripts::DELETE_STREAM.run(&link, &call).await
        }
    };
    match holds.map_err(failed)? {
        0 => {
            inner.forget(queue);
            Ok(())
        }
        holds => {
            let detail = format!(
                "the queue {queue} holds {holds} messages or more; handle them first, or force to drop them"
            );
            Err(Refusal::new(Code::NotEmpty, detail).into())
        }
    }
}

async fn delete_list(link: &Link, place: &Place, force: bool) -> Result<u64, Error> {
    let mut call = scripts::DELETE_LIST.call(&[&place.key, &place.base]);
    scripts::DELETE_LIST.run(link, call.arg(flag(force))).await
}

/// Puts everything back into a list of somebody else: what is in hand here or with the dead, then what
/// is delayed. Answers how much is in hand elsewhere, which will come back by itself if nobody forces.
async fn leave(inner: &Inner, link: &Link, place: &Place, force: bool) -> Result<u64, Error> {
    let mut workers = redis::cmd("ZRANGE");
    workers.arg(format!("{}:workers", place.base)).arg(0).arg(-1);
    let workers: Vec<String> = link.ask(&workers).await?;
    for worker in workers.iter().filter(|worker| worker.starts_with(&inner.process)) {
        inner.reap(link, place, worker).await?;
    }
    inner.reap(link, place, "").await?;
    let mut call = scripts::LEAVE_LIST.call(&[&place.key, &place.base]);
    call.arg(LEAVE);
    loop {
        let (_, more): (u64, u8) = scripts::LEAVE_LIST.run(link, &call).await?;
        if more == 0 {
            break;
        }
    }
    let count = scripts::COUNT_LIST.call(&[&place.key, &place.base]);
    let (_, in_flight, _): (u64, u64, u64) = scripts::COUNT_LIST.run(link, &count).await?;
    Ok(if force { 0 } else { in_flight })
}
