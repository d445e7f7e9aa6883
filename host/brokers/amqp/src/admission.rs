//! Whether the server can have what a definition asks for, before it is saved.
//!
//! Called by the transport. What can be known here is refused here; the rest is tried on the server,
//! if it can be reached.

use std::time::Duration;

use brolly_core::{BrokerError, Code, Name, Proposal, Queue, Refusal, Retention, Route, Topic};

use crate::{
    Inner,
    topology::{ADDRESS_BYTES, Attempt, attempt},
};

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        let tried = match proposal {
            Proposal::Topic(topic) => {
                check_topic(name, topic)?;
                Attempt::Topic(topic)
            }
            Proposal::Queue(queue) => {
                check_queue(name, queue)?;
                Attempt::Queue(queue)
            }
            Proposal::Route(route, queue) => return Ok(check_route(route, queue)?),
            Proposal::Feed(_) => return Err(Refusal::no_channels().into()),
            Proposal::Order(_, _) => return Ok(()),
        };
        let Some(session) = self.session.borrow().clone() else { return Ok(()) };
        match tokio::time::timeout(PATIENCE, attempt(&session, name, tried)).await {
            Ok(Ok(Err(refusal))) if refusal.code != Code::Unavailable => Err(refusal.into()),
            // A server that does not answer says nothing against it.
            Ok(Ok(Ok(()) | Err(_)) | Err(_)) | Err(_) => Ok(()),
        }
    }
}

fn check_topic(name: &Name, topic: &Topic) -> Result<(), Refusal> {
    check_address("exchange", topic.address(name), topic.adopt, 255)
}

fn check_queue(name: &Name, queue: &Queue) -> Result<(), Refusal> {
    check_address("queue", queue.address(name), queue.adopt, ADDRESS_BYTES)?;
    if let Some(kind) = queue.kind.as_deref()
        && !matches!(kind, "quorum" | "classic")
    {
        let detail = format!("type is {kind:?}; on RabbitMQ a queue is quorum or classic");
        return Err(Refusal::new(Code::Unsupported, detail));
    }
    let usual = Retention::default();
    let Retention { max_messages, max_bytes, max_age_ms: _ } = queue.retention;
    if (max_messages, max_bytes) != (usual.max_messages, usual.max_bytes) {
        let detail = "retention.max_messages and retention.max_bytes are not kept on RabbitMQ: set x-max-length or \
                      x-max-length-bytes by a policy; a publish that RabbitMQ refuses is answered queue-full";
        return Err(Refusal::new(Code::Unsupported, detail));
    }
    Ok(())
}

fn check_address(what: &str, address: &str, adopt: bool, limit: usize) -> Result<(), Refusal> {
    if adopt {
        return Ok(());
    }
    if address.starts_with("amq.") {
        let detail = format!(
            "the {what} {address:?} belongs to the server, as all that begin with amq.; choose another address, or use \
             \"adopt\": true"
        );
        return Err(Refusal::new(Code::InvalidDefinition, detail));
    }
    if address.len() > limit {
        let detail =
            format!("the address of the {what} has {} bytes, on RabbitMQ at most {limit}", address.len());
        return Err(Refusal::new(Code::InvalidDefinition, detail));
    }
    Ok(())
}

fn check_route(route: &Route, queue: &Queue) -> Result<(), Refusal> {
    if queue.adopt {
        let detail = format!(
            "the queue {} is adopted: its bindings belong to its owner, who can bind it to the exchange of the topic {}",
            route.queue, route.topic
        );
        return Err(Refusal::new(Code::Unsupported, detail));
    }
    if route.key_pattern.len() > 255 {
        let detail = format!("key_pattern has {} bytes, RabbitMQ allows 255", route.key_pattern.len());
        return Err(Refusal::new(Code::Unsupported, detail));
    }
    Ok(())
}
