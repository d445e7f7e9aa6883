//! Pub/sub as a source. Redis keeps nothing of what it publishes: no acknowledgement, no redelivery, no
//! count. What is published while nobody listens is lost, so a subscriber hands each message on to
//! something durable at once, and says when it was not listening ([`Gap`]).
//!
//! Called by who writes what comes into a durable queue. When that is slow, the subscriber stops to
//! read; what then waits at the server is bounded there (`client-output-buffer-limit pubsub`, by default
//! 32 MiB, or 8 MiB for a minute), and a subscriber beyond it is disconnected: a gap like any other.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use brolly_core::{BrokerDefinition, Clock, Code, Name, Refusal, Timestamp};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connect::{Dialer, Link},
    error::Error,
    settings::Settings,
};

/// Bytes that are received and not durable; then the subscriber stops to read.
const BYTES: usize = 16 << 20;

/// Messages that are being made durable.
const AT_ONCE: usize = 1_024;

/// What a message takes beside its payload and channel, about.
const OVERHEAD: usize = 64;

/// A message as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The channel it was published to.
    pub channel: String,
    /// The bytes.
    pub payload: Bytes,
}

/// A time in which nobody listened: what was published then is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last moment at which the subscription is known to have stood.
    pub from: Timestamp,
    /// When it stood again.
    pub to: Timestamp,
    /// Why it was lost.
    pub reason: String,
}

/// Listens to channels and patterns of channels.
pub struct Subscriber {
    broker: Name,
    dialer: Dialer,
    clock: Arc<dyn Clock>,
    channels: Vec<String>,
    patterns: Vec<String>,
}

impl Subscriber {
    /// Makes a subscriber. It connects while [`Subscriber::run`] runs.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`], as [`crate::check`], or if there is nothing to listen to.
    pub fn open(
        broker: &Name,
        definition: &BrokerDefinition,
        channels: Vec<String>,
        patterns: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Refusal> {
        if channels.is_empty() && patterns.is_empty() {
            return Err(Refusal::new(Code::InvalidDefinition, "there is neither a channel nor a pattern"));
        }
        let dialer = Dialer { settings: Arc::new(Settings::read(definition)?), tasks: TaskTracker::new() };
        Ok(Self { broker: broker.clone(), dialer, clock, channels, patterns })
    }

    /// Listens until it is told to stop, connecting again for ever.
    ///
    /// `sink` is called with each message, in the order in which they come; many of the futures that it
    /// makes run at once. A message is forgotten when its future is done, so that must not be before it
    /// is durable. `gap` is called when a subscription that was lost stands again.
    pub async fn run<Sunk: Future<Output = ()>>(
        &self,
        sink: impl Fn(Published) -> Sunk,
        gap: impl Fn(Gap),
        stop: CancellationToken,
    ) {
        let inbox = Arc::new(Inbox::default());
        tokio::select! {
            () = pump(&inbox, sink) => {}
            () = self.listen(&inbox, gap) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn listen(&self, inbox: &Arc<Inbox>, gap: impl Fn(Gap)) {
        let pauses = || {
            let pauses = ExponentialBuilder::new().with_jitter().without_max_times();
            pauses.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(5)).build()
        };
        let (mut pause, mut lost): (_, Option<(Timestamp, String)>) = (pauses(), None);
        loop {
            let error = match self.subscribe(inbox).await {
                Ok(link) => {
                    pause = pauses();
                    self.stands(&mut lost, &gap);
                    let (sound, error) = self.watch(inbox, &link).await;
                    lost = Some((sound, error.to_string()));
                    error
                }
                Err(error) => error,
            };
            metrics::gauge!("brolly_broker_subscribed", "broker" => self.broker.to_string()).set(0.0);
            tracing::warn!(broker = %self.broker, %error, "not subscribed; what is published now is lost");
            sleep(pause.next().unwrap_or_default()).await;
        }
    }

    fn stands(&self, lost: &mut Option<(Timestamp, String)>, gap: &impl Fn(Gap)) {
        metrics::gauge!("brolly_broker_subscribed", "broker" => self.broker.to_string()).set(1.0);
        tracing::info!(broker = %self.broker, channels = ?self.channels, patterns = ?self.patterns, "subscribed");
        if let Some((from, reason)) = lost.take() {
            metrics::counter!("brolly_broker_gaps_total", "broker" => self.broker.to_string()).increment(1);
            gap(Gap { from, to: self.clock.now(), reason });
        }
    }

    async fn subscribe(&self, inbox: &Arc<Inbox>) -> Result<Link, Error> {
        let (receiver, gate) = (inbox.clone(), inbox.clone());
        let receive = move |info: PushInfo| -> Result<(), ()> {
            receiver.receive(info);
            Ok(())
        };
        inbox.opened();
        let link = self.dialer.dial_pushed(receive, |wire| Gate { wire, inbox: gate }).await?;
        link.subscribe(&self.channels, &self.patterns).await?;
        Ok(link)
    }

    /// Asks whether the connection lives. Answers with the last moment at which it certainly did: what
    /// is read later may have waited for long.
    async fn watch(&self, inbox: &Inbox, link: &Link) -> (Timestamp, Error) {
        let mut sound = self.clock.now();
        loop {
            tokio::select! {
                () = inbox.closed.notified() => {}
                () = sleep(self.dialer.settings.block) => {}
            }
            let (asked, stops) = (self.clock.now(), inbox.stops());
            match link.ping().await {
                Ok(()) => sound = asked,
                // The answer waits behind what is not read.
                Err(Error::Silent(_)) if inbox.is_full() || inbox.stops() != stops => {}
                Err(error) => return (sound, error),
            }
        }
    }
}

/// Hands on what comes.
async fn pump<Sunk: Future<Output = ()>>(inbox: &Inbox, sink: impl Fn(Published) -> Sunk) {
    let mut sinking = FuturesUnordered::new();
    loop {
        while sinking.len() < AT_ONCE
            && let Some(published) = inbox.next()
        {
            let (size, sunk) = (published.size(), sink(published));
            sinking.push(async move {
                sunk.await;
                size
            });
        }
        tokio::select! {
            Some(size) = sinking.next() => inbox.done(size),
            () = inbox.arrived.notified(), if sinking.len() < AT_ONCE => {}
        }
    }
}

impl Published {
    fn size(&self) -> usize {
        self.channel.len() + self.payload.len() + OVERHEAD
    }
}

/// What has come and is not durable.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    closed: Notify,
}

#[derive(Default)]
struct State {
    /// INVARIANT: bounded by the gate, which does not read while `bytes` are too many.
    waiting: VecDeque<Published>,
    bytes: usize,
    /// How often the gate has stopped to read.
    stops: u64,
    reader: Option<Waker>,
}

impl Inbox {
    /// Takes in what the server pushes.
    fn receive(&self, info: PushInfo) {
        if info.kind == PushKind::Disconnection {
            self.closed.notify_one();
            return;
        }
        let mut parts = info.data.into_iter();
        if info.kind == PushKind::PMessage {
            parts.next();
        } else if info.kind != PushKind::Message {
            return;
        }
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
            (parts.next(), parts.next())
        else {
            return;
        };
        let published =
            Published { channel: String::from_utf8_lossy(&channel).into_owned(), payload: payload.into() };
        let mut state = self.state.lock();
        state.bytes += published.size();
        state.waiting.push_back(published);
        drop(state);
        self.arrived.notify_one();
    }

    fn next(&self) -> Option<Published> {
        self.state.lock().waiting.pop_front()
    }

    fn done(&self, size: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(size);
        let reader = if state.bytes < BYTES { state.reader.take() } else { None };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// A new connection has not ended.
    fn opened(&self) {
        use futures::FutureExt;
        let _ = self.closed.notified().now_or_never();
    }

    fn is_full(&self) -> bool {
        self.state.lock().bytes >= BYTES
    }

    fn stops(&self) -> u64 {
        self.state.lock().stops
    }

    /// Whether there is room; if not, the reader is woken when there is.
    fn admits(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        if state.bytes < BYTES {
            return true;
        }
        state.stops += 1;
        state.reader = Some(context.waker().clone());
        false
    }
}

/// A connection that is not read while the inbox is full.
struct Gate<W> {
    wire: W,
    inbox: Arc<Inbox>,
}

impl<W: AsyncRead + Unpin> AsyncRead for Gate<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.inbox.admits(context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.wire).poll_read(context, buffer)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Gate<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
