//! One session: two connections to one server, from when they are made until either is lost. One
//! consumes and declares; the other publishes, because the server stops reading from connections
//! that publish when it is short of memory or disk.
//!
//! Called by the broker's `run`. It reconnects for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lapin::{ConnectionStatus, Event, types::FieldTable};
use tokio::{sync::watch, time::Instant};

use crate::{
    Inner,
    connection::{Link, Server, greet},
    desk::{Desk, View},
    error::Error,
    settings::{Node, Settings},
};

/// How often it is looked whether a connection still stands, beside the events that tell.
const GLANCE: Duration = Duration::from_millis(250);

/// How often what the server has refused is tried again.
const REPAIR: Duration = Duration::from_secs(5);

/// How long a connection that is being closed may take to say why.
const FAREWELL: Duration = Duration::from_secs(2);

/// A session that ends sooner is followed by a pause as if it had never begun.
const SETTLED: Duration = Duration::from_secs(1);

/// The two connections.
pub(crate) struct Session {
    /// Counts sessions.
    pub generation: u64,
    pub consuming: Link,
    pub publishing: Link,
    /// The server that both are with.
    pub node: Node,
    /// Why the server blocks publishers, while it does.
    pub blocked: watch::Sender<Option<String>>,
    /// Why the session is over, once it is.
    pub lost: watch::Sender<Option<String>>,
    desk: tokio::sync::Mutex<Desk>,
}

impl Session {
    /// See [`Desk::exchange`].
    pub(crate) async fn exchange(&self, name: &str, passive: bool) -> Result<(), Error> {
        self.desk.lock().await.exchange(&self.consuming.connection, name, passive).await
    }

    /// See [`Desk::queue`].
    pub(crate) async fn queue(&self, name: &str, arguments: FieldTable) -> Result<(), Error> {
        self.desk.lock().await.queue(&self.consuming.connection, name, arguments).await
    }

    /// See [`Desk::look`].
    pub(crate) async fn look(&self, name: &str) -> Result<Option<View>, Error> {
        self.desk.lock().await.look(&self.consuming.connection, name).await
    }

    /// See [`Desk::bind`].
    pub(crate) async fn bind(&self, binding: (&str, &str, &str), bind: bool) -> Result<(), Error> {
        self.desk.lock().await.bind(&self.consuming.connection, binding, bind).await
    }

    /// See [`Desk::delete`].
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        self.desk.lock().await.delete(&self.consuming.connection, name).await
    }

    /// Why the session is over, if it is.
    pub(crate) fn reason(&self) -> Option<String> {
        let links = [&self.consuming, &self.publishing];
        let broken = links.iter().any(|link| !link.connection.status().connected());
        self.lost.borrow().clone().or_else(|| broken.then(|| "the connection broke".to_owned()))
    }
}

/// Keeps a session, one after the other, until the broker is closed.
pub(crate) async fn run(inner: &Arc<Inner>) {
    let start = AtomicUsize::new(0);
    let (mut generation, mut delays) = (0, backoff());
    loop {
        generation += 1;
        if generation > 1 {
            inner.board.again();
        }
        let began = Instant::now();
        tokio::select! {
            () = inner.stop.cancelled() => return,
            opened = open(&inner.settings, inner.name.as_str(), generation, &start) => match opened {
                Ok((session, server)) => serve(inner, Arc::new(session), &server).await,
                Err(error) => inner.board.failed(&error.to_string()),
            },
        }
        if inner.stop.is_cancelled() {
            return;
        }
        if began.elapsed() > SETTLED {
            delays = backoff();
        }
        let delay = delays.next().unwrap_or(Duration::from_secs(10));
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn backoff() -> ExponentialBackoff {
    let delays = ExponentialBuilder::new().with_jitter().without_max_times();
    delays.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(10)).build()
}

/// Connects to the first server that can be used, beginning with the one that was used last.
async fn open(
    settings: &Arc<Settings>,
    name: &str,
    generation: u64,
    start: &AtomicUsize,
) -> Result<(Session, Server), Error> {
    let mut whys = Vec::new();
    let first = start.load(Ordering::Relaxed);
    for number in (0..settings.nodes.len()).map(|number| (first + number) % settings.nodes.len()) {
        let Some(node) = settings.nodes.get(number) else { continue };
        match open_at(settings, name, generation, node).await {
            Ok((session, server)) => {
                start.store(number, Ordering::Relaxed);
                return Ok((session, server));
            }
            Err(error) => whys.push(error.to_string()),
        }
    }
    Err(Error::Unusable(whys.join("; ")))
}

async fn open_at(
    settings: &Arc<Settings>,
    name: &str,
    generation: u64,
    node: &Node,
) -> Result<(Session, Server), Error> {
    let server = greet(settings, node).await?;
    server.check()?;
    let (consuming, publishing) = tokio::try_join!(
        Link::open(settings, node, format!("brolly {name} (consuming)")),
        Link::open(settings, node, format!("brolly {name} (publishing)")),
    )?;
    let session = Session {
        generation,
        consuming,
        publishing,
        node: node.clone(),
        blocked: watch::Sender::default(),
        lost: watch::Sender::default(),
        desk: tokio::sync::Mutex::default(),
    };
    Ok((session, server))
}

/// Uses a session until it is lost or the broker is closed.
async fn serve(inner: &Arc<Inner>, session: Arc<Session>, server: &Server) {
    let reason = tokio::select! {
        reason = watch(inner, &session) => reason,
        reason = work(inner, &session, server) => reason,
        () = inner.stop.cancelled() => None,
    };
    // Whoever looks at it from now on sees that it is over.
    session.lost.send_replace(Some(reason.clone().unwrap_or_else(|| "it was closed".to_owned())));
    inner.session.send_replace(None);
    match reason {
        Some(reason) => inner.board.lost(&reason),
        None => inner.board.closed(),
    }
    tokio::join!(session.consuming.close(), session.publishing.close());
}

/// Brings about what is wanted, at first and whenever something changes or is tried again.
async fn work(inner: &Arc<Inner>, session: &Arc<Session>, server: &Server) -> Option<String> {
    if let Err(error) = inner.topology.bring_about(session).await {
        return give_up(error).await;
    }
    inner.board.connected(&server.to_string(), &session.node.to_string());
    if let Some(reason) = &*session.blocked.borrow() {
        inner.board.blocked(reason);
    }
    inner.session.send_replace(Some(session.clone()));
    loop {
        let again = async {
            tokio::time::sleep(REPAIR).await;
            inner.topology.has_troubles()
        };
        let wanted = tokio::select! {
            () = inner.topology.repair.notified() => true,
            troubles = again => troubles,
        };
        if wanted && let Err(error) = inner.topology.bring_about(session).await {
            return give_up(error).await;
        }
    }
}

/// Leaves it to `watch` to find out why an order was not carried out, if the connection is lost.
async fn give_up(error: Error) -> Option<String> {
    tokio::time::sleep(2 * FAREWELL).await;
    Some(error.to_string())
}

/// Waits until a connection is lost, and answers with the reason. Tells of blocking on the way.
async fn watch(inner: &Inner, session: &Session) -> Option<String> {
    let (mut last, mut closing_since) = (None, None);
    loop {
        let event = tokio::select! {
            event = session.consuming.next_event() => event,
            event = session.publishing.next_event() => event,
            () = tokio::time::sleep(GLANCE) => None,
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                session.blocked.send_replace(Some(reason.clone()));
                inner.board.blocked(&reason);
            }
            Some(Event::ConnectionUnblocked) => {
                session.blocked.send_replace(None);
                inner.board.unblocked();
            }
            // Of a channel or of the connection: the state tells.
            Some(Event::Error(error)) => last = Some(Error::from(error)),
            Some(_) | None => {}
        }
        let states = [&session.consuming, &session.publishing].map(|link| link.connection.status().clone());
        if states.iter().all(ConnectionStatus::connected) {
            continue;
        }
        // lapin stops listening for heartbeats when it begins to close.
        let since: Instant = *closing_since.get_or_insert_with(Instant::now);
        if states.iter().any(|state| state.errored() || state.closed()) || since.elapsed() > FAREWELL {
            let (consuming, publishing) =
                tokio::join!(session.consuming.why_broken(), session.publishing.why_broken());
            let last = consuming.or(publishing).or(last);
            return Some(last.map_or_else(|| "the connection broke".to_owned(), |error| error.to_string()));
        }
    }
}
