//! Publishing: a few lanes, each with a channel of its own on the publishing connection. A lane takes
//! what waits, sends all of it, and answers when the server has confirmed.
//!
//! Called by the transport's `send` and by retries. Every publish is mandatory and confirmed. A queue
//! whose servers do not confirm holds up its own messages and not the others: what has not landed
//! after a second goes on in a flight of its own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use brolly_core::{BrokerError, Code};
use lapin::{Channel, options::ConfirmSelectOptions};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Inner, encode,
    error::{Error, code, refused},
    flight::{Fate, Flight, Letter},
    post::{Item, Lateness, Ticket, WINDOW, destination},
    session::Session,
};

/// Lanes, and channels for them.
const LANES: usize = 4;
/// Bytes of the payloads of a window, unless a single one has more.
const WINDOW_BYTES: usize = 16 << 20;
/// How long a lane waits for stragglers.
const PATIENCE: Duration = Duration::from_secs(1);
/// Flights of stragglers of one lane.
const STRAGGLERS: usize = 8;
/// How long a publish waits for a connection, or for the server to take messages again.
const CONNECTION: Duration = Duration::from_secs(3);
const BLOCKED: Duration = Duration::from_secs(1);

fn failed(error: Error) -> BrokerError {
    error.failed("publish to", "RabbitMQ")
}

/// Runs the lanes until the broker is closed.
pub(crate) async fn run(inner: &Arc<Inner>) {
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let inner = inner.clone();
        lanes.spawn(async move {
            let stop = inner.stop.clone();
            let mut lane = Lane { inner, channel: None, stragglers: JoinSet::new() };
            tokio::select! { () = lane.run() => {}, () = stop.cancelled() => {} }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        if let Err(error) = ended {
            tracing::error!(broker = %inner.name, %error, "a publishing lane broke");
        }
    }
}

struct Lane {
    inner: Arc<Inner>,
    channel: Option<(u64, Channel)>,
    stragglers: JoinSet<()>,
}

impl Lane {
    async fn run(&mut self) {
        let mut next = Vec::new();
        loop {
            self.inner.post.take(&mut next).await;
            let batch = split_window(&mut next);
            while self.stragglers.try_join_next().is_some() {}
            self.publish(batch).await;
        }
    }

    async fn publish(&mut self, batch: Vec<Item>) {
        let session = match self.session().await {
            Ok(session) => session,
            Err(error) => return settle_all(batch, || copy(&error)),
        };
        let frame = session.publishing.connection.configuration().frame_max() as usize;
        let (batch, large): (Vec<Item>, Vec<Item>) =
            batch.into_iter().partition(|item| encode::size(&item.letter.properties) < frame);
        let why = format!("its headers are larger than a frame of the server, which has {frame} bytes");
        settle_all(large, || refused(Code::InvalidMessage, why.as_str()));
        let (late, batch): (Vec<Item>, Vec<Item>) =
            batch.into_iter().partition(|item| self.inner.post.late.has(&item.letter));
        self.fly_apart(&session, late).await;
        let mut again = Vec::new();
        self.fly(&session, batch, Some(&mut again)).await;
        // The server closes a channel for one message and says nothing of the others.
        let mut missing: HashMap<String, Error> = HashMap::new();
        for item in again {
            let exchange = item.letter.exchange.to_string();
            if let Some(error) = missing.get(&exchange) {
                item.ticket.settle(Err(verdict_of(error, &exchange)));
                continue;
            }
            if self.inner.post.late.has(&item.letter) {
                self.fly_apart(&session, vec![item]).await;
                continue;
            }
            if let Some(error) = self.fly(&session, vec![item], None).await
                && error.code() == Some(code::NOT_FOUND)
            {
                self.inner.topology.doubt(&exchange);
                missing.insert(exchange, error);
            }
        }
    }

    /// Waits for a session in which the server takes messages.
    async fn session(&self) -> Result<Arc<Session>, BrokerError> {
        let session = self.inner.session(CONNECTION).await.map_err(failed)?;
        let mut blocked = session.blocked.subscribe();
        let free = blocked.wait_for(Option::is_none);
        if let Ok(Ok(_)) = tokio::time::timeout(BLOCKED, free).await {
            return Ok(session);
        }
        let reason = session.blocked.borrow().clone().unwrap_or_default();
        Err(blocks(&reason))
    }

    async fn open(&mut self, session: &Session) -> Result<Channel, Error> {
        let ours = self
            .channel
            .take()
            .filter(|(of, channel)| *of == session.generation && channel.status().connected());
        if let Some((_, channel)) = ours {
            return Ok(channel);
        }
        let opening = async {
            let channel = session.publishing.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        match tokio::time::timeout(CONNECTION, opening).await {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(Error::Silent(CONNECTION)),
        }
    }

    /// Sends a batch and settles what is certain. Letters of a channel that the server closed are
    /// handed to `again`; without it they are settled, and the error is the answer.
    async fn fly(
        &mut self,
        session: &Arc<Session>,
        batch: Vec<Item>,
        again: Option<&mut Vec<Item>>,
    ) -> Option<Error> {
        let (mut flight, tickets, began) = match self.launch(session, batch).await {
            Ok(Some(launched)) => launched,
            Ok(None) => return None,
            Err(error) => return Some(error),
        };
        let complete = flight.land(began + PATIENCE).await;
        let fates = flight.fates(complete).await;
        let (left, error) = settle(&self.inner, flight.letters(), tickets, fates, again);
        if complete {
            self.channel = flight.channel().map(|channel| (session.generation, channel));
        } else {
            self.leave_behind(session, flight, left, began);
        }
        error
    }

    /// Sends letters to destinations that are late, and waits for nothing.
    async fn fly_apart(&mut self, session: &Arc<Session>, batch: Vec<Item>) {
        if self.stragglers.len() >= STRAGGLERS {
            return settle_all(batch, too_late);
        }
        if let Ok(Some((flight, tickets, began))) = self.launch(session, batch).await {
            self.leave_behind(session, flight, tickets, began);
        }
    }

    async fn launch(
        &mut self,
        session: &Session,
        batch: Vec<Item>,
    ) -> Result<Option<(Flight, Vec<Option<Ticket>>, Instant)>, Error> {
        if batch.is_empty() {
            return Ok(None);
        }
        match self.open(session).await {
            Ok(channel) => {
                let items = batch.into_iter().map(|item| (item.letter, Some(item.ticket)));
                let (letters, tickets): (Vec<Letter>, Vec<Option<Ticket>>) = items.unzip();
                let flight = Flight::launch(channel, letters.into()).await;
                Ok(Some((flight, tickets, Instant::now())))
            }
            Err(error) => {
                settle_all(batch, || failed(error.clone()));
                Err(error)
            }
        }
    }

    /// Lets a flight go on by itself; the next one has another channel.
    fn leave_behind(
        &mut self,
        session: &Arc<Session>,
        flight: Flight,
        tickets: Vec<Option<Ticket>>,
        began: Instant,
    ) {
        if self.stragglers.len() >= STRAGGLERS {
            return tickets.into_iter().flatten().for_each(|ticket| ticket.settle(Err(too_late())));
        }
        let open = flight.letters().iter().zip(&tickets).filter(|(_, ticket)| ticket.is_some());
        let destinations = open.map(|(letter, _)| destination(letter).to_owned());
        let late = Lateness::begin(&self.inner.post.late, destinations.collect());
        let deadline = began + self.inner.settings.confirm_timeout;
        let (inner, session) = (self.inner.clone(), session.clone());
        self.stragglers.spawn(async move {
            straggle(&inner, flight, tickets, &session, deadline).await;
            drop(late);
        });
    }
}

/// Waits for letters that are late, and settles them whatever comes.
async fn straggle(
    inner: &Inner,
    mut flight: Flight,
    tickets: Vec<Option<Ticket>>,
    session: &Session,
    deadline: Instant,
) {
    let mut blocked = session.blocked.subscribe();
    let complete = tokio::select! {
        complete = flight.land(deadline) => complete,
        _ = blocked.wait_for(Option::is_some) => false,
    };
    let fates = flight.fates(complete).await;
    let (left, _) = settle(inner, flight.letters(), tickets, fates, None);
    let reason = session.blocked.borrow().clone();
    for ticket in left.into_iter().flatten() {
        ticket.settle(Err(reason.as_deref().map_or_else(too_late, blocks)));
    }
}

fn too_late() -> BrokerError {
    failed(Error::Client("the server did not confirm it in time (confirm_timeout_ms)".to_owned()))
}

/// Settles what has a fate. Answers with the tickets of the rest, and an error of the server.
fn settle(
    inner: &Inner,
    letters: &[Letter],
    tickets: Vec<Option<Ticket>>,
    fates: Vec<Option<Fate>>,
    mut again: Option<&mut Vec<Item>>,
) -> (Vec<Option<Ticket>>, Option<Error>) {
    let mut refusal = None;
    let mut left = Vec::with_capacity(tickets.len());
    for ((ticket, fate), letter) in tickets.into_iter().zip(fates).zip(letters) {
        let (ticket, fate) = match (ticket, fate) {
            (Some(ticket), Some(fate)) => (ticket, fate),
            (ticket, _) => {
                left.push(ticket);
                continue;
            }
        };
        left.push(None);
        match fate {
            Fate::Confirmed => ticket.settle(Ok(())),
            Fate::Returned if letter.must_arrive => {
                inner.doubt(letter);
                ticket.settle(Err(unroutable(letter)));
            }
            Fate::Returned => ticket.settle(Ok(())),
            Fate::Nacked => ticket.settle(Err(full(letter))),
            Fate::Broken(error) => {
                let refused = error.code().is_some();
                match &mut again {
                    Some(again) if refused => again.push(Item { letter: letter.clone(), ticket }),
                    _ => ticket.settle(Err(verdict_of(&error, letter.exchange.as_str()))),
                }
                if refused {
                    refusal = Some(error);
                }
            }
        }
    }
    (left, refusal)
}

fn settle_all(batch: Vec<Item>, mut error: impl FnMut() -> BrokerError) {
    for item in batch {
        item.ticket.settle(Err(error()));
    }
}

/// Up to a window's messages and bytes, at least one.
fn split_window(next: &mut Vec<Item>) -> Vec<Item> {
    let mut bytes = 0;
    let fits = next.iter().take(WINDOW).take_while(|item| {
        bytes += item.letter.body.len();
        bytes <= WINDOW_BYTES
    });
    let count = fits.count().max(1).min(next.len());
    let rest = next.split_off(count);
    std::mem::replace(next, rest)
}

fn blocks(reason: &str) -> BrokerError {
    refused(Code::Unavailable, format!("the server blocks publishers: {reason}"))
}

fn unroutable(letter: &Letter) -> BrokerError {
    let detail = format!(
        "unroutable: the exchange {:?} of the server has no queue for the key {:?}; a route of Brolly is bound again \
         soon, and if there is none, add one",
        letter.exchange.as_str(),
        letter.routing_key.as_str()
    );
    refused(Code::Unavailable, detail)
}

fn full(letter: &Letter) -> BrokerError {
    let to = if letter.exchange.as_str().is_empty() { &letter.routing_key } else { &letter.exchange };
    refused(
        Code::QueueFull,
        format!(
            "the server refuses the message: a queue that {:?} leads to is full, or its node is down",
            to.as_str()
        ),
    )
}

/// What an error of a publish means.
fn verdict_of(error: &Error, exchange: &str) -> BrokerError {
    match error.code() {
        Some(code::ACCESS_REFUSED) => refused(
            Code::Forbidden,
            format!("the server does not let this user publish to {exchange:?}: {error}"),
        ),
        Some(code::PRECONDITION_FAILED | code::CONTENT_TOO_LARGE) => {
            refused(Code::InvalidMessage, format!("the server refuses the message: {error}"))
        }
        Some(_) | None => error.clone().failed("publish to", exchange),
    }
}

fn copy(error: &BrokerError) -> BrokerError {
    match error {
        BrokerError::Refused(refusal) => BrokerError::Refused(refusal.clone()),
        BrokerError::Failed { operation, subject, source } => {
            BrokerError::Failed { operation, subject: subject.clone(), source: source.to_string().into() }
        }
    }
}
