//! What the queues of one of Brolly's queues hold, and their deletion.
//!
//! Called by the transport. RabbitMQ tells a consumer how many messages are ready and nothing of those
//! that are handed out; these are what this host holds, or what the management API says. Without that it is only
//! known that others consume, too.
//!
//! INVARIANT: a queue that holds messages is not counted as empty without a word that others have some in hand,
//! while they move between its places: from ready to handed out, back, and by a wait to ready again. Each place is
//! counted before the one to which its messages move, and the first once more at the end.

use std::time::Duration;

use brolly_core::{BrokerError, Code, Counts, Name};

use crate::{
    Inner,
    error::{Error, refused},
    session::Session,
    topology::dead_queue,
};

/// How long a deletion waits for consumptions that are about to end.
const ENDING: Duration = Duration::from_secs(3);

/// What belongs to one queue.
struct Held {
    /// None if there is no such queue.
    ready: Option<u64>,
    dead: u64,
    /// Each wait queue, and what it holds.
    waiting: Vec<(String, u64)>,
    /// Handed out and not settled.
    in_flight: u64,
    /// Others consume, and nobody tells what they hold.
    elsewhere: bool,
}

impl Held {
    fn delayed(&self) -> u64 {
        self.waiting.iter().map(|(_, count)| count).sum()
    }
}

impl Inner {
    pub(crate) async fn count(&self, queue: &Name) -> Result<Counts, BrokerError> {
        let failed = |error: Error| error.failed("count", queue);
        let session = self.session(Duration::ZERO).await.map_err(failed)?;
        let address = self.topology.address_of(queue);
        let held = self.held(&session, queue, &address).await.map_err(failed)?;
        let missing = || failed(Error::Unusable(format!("the server has no queue {address:?}")));
        Ok(Counts {
            // What RabbitMQ gave up waits to be handed to the host, too.
            ready: Some(held.ready.ok_or_else(missing)? + held.dead),
            in_flight: Some(held.in_flight),
            delayed: Some(held.delayed()),
            oldest: None,
            elsewhere: held.elsewhere,
        })
    }

    async fn held(&self, session: &Session, queue: &Name, address: &str) -> Result<Held, Error> {
        let lines = self.lines_of(queue);
        let standing: Vec<_> = lines.iter().filter(|line| line.consumers() > 0).collect();
        let before = self.unsettled(queue);
        // What was told by then has been heard.
        self.catch_up(queue).await;
        let waiting = self.waits.counts(session, address).await?;
        let (main, dead) = (session.look(address).await?, session.look(&dead_queue(address)).await?);
        let consumers: u64 = [&main, &dead].into_iter().flatten().map(|view| view.consumers).sum();
        // Those that stood all the while. A consumer that is none of them holds what is not counted here: of
        // another program, or of a connection whose loss the server has not noticed.
        let ours: u64 = standing.iter().map(|line| line.consumers()).sum();
        let told = self.in_all_hands(queue, address).await;
        // What was handed out by then has arrived.
        self.catch_up(queue).await;
        let in_flight = before.max(self.unsettled(queue)).max(told.unwrap_or(0));
        let elsewhere = consumers > ours && told.is_none();
        let ready = main.map(|view| view.ready);
        Ok(Held { ready, dead: dead.map_or(0, |view| view.ready), waiting, in_flight, elsewhere })
    }

    /// What the management API says that all consumers have in hand; none if it does not say.
    async fn in_all_hands(&self, queue: &Name, address: &str) -> Option<u64> {
        let told = self.api.as_ref()?.unsettled(address).await;
        told.unwrap_or_else(|error| {
            tracing::debug!(%queue, %error, "the management API does not tell what is handed out");
            None
        })
    }

    /// Deletes a queue of ours with all that belongs to it.
    pub(crate) async fn delete(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        let Some(definition) = self.topology.queue(queue) else { return Ok(()) };
        if definition.adopt {
            self.topology.drop_queue(queue);
            return Ok(());
        }
        let failed = |error: Error| error.failed("delete", queue);
        let session = self.session(Duration::from_secs(3)).await.map_err(failed)?;
        let address = definition.address(queue).to_owned();
        if !force {
            // What this host is ending is nobody else's.
            let lines = self.lines_of(queue);
            let ending = lines.iter().filter(|line| line.closes()).map(|line| line.ended());
            let _ = tokio::time::timeout(ENDING, futures::future::join_all(ending)).await;
        }
        let held = self.held(&session, queue, &address).await.map_err(failed)?;
        let unsettled = if held.ready.is_some() { held.in_flight } else { 0 };
        let (ready, delayed) = (held.ready.unwrap_or(0) + held.dead, held.delayed());
        if ready + delayed + unsettled > 0 && !force {
            let detail = format!(
                "the queue {queue} holds {} messages ({ready} ready, {delayed} delayed, {unsettled} handed out); handle \
                 them first, or force to drop them",
                ready + delayed + unsettled,
            );
            return Err(refused(Code::NotEmpty, detail));
        }
        if held.elsewhere && !force {
            let detail = format!(
                "others take from the queue {queue}, too, and may have messages of it in hand; end them first, or force \
                 to delete it under them",
            );
            return Err(refused(Code::NotEmpty, detail));
        }
        // From now on it is not made anew, nor by what has begun already.
        self.topology.drop_queue(queue);
        let _held = self.topology.hold().await;
        session.delete(&address).await.map_err(failed)?;
        for (wait, _) in held.waiting {
            session.delete(&wait).await.map_err(failed)?;
            self.waits.doubt(&wait);
        }
        session.delete(&dead_queue(&address)).await.map_err(failed)
    }
}
