//! Pub/sub as a feed of a topic. Redis keeps nothing of what it publishes: no acknowledgement, no
//! redelivery, no count. What is published while nobody listens is lost, so each message is handed on to
//! something durable at once, and it is said when nobody was listening ([`Gap`]).
//!
//! Of the hosts of a group one listens; the others watch its seat, a key that it renews, and take it when
//! it has been silent for `worker_timeout_ms`.
//!
//! When what is durable is slow, the listener stops to read; what then waits at the server is bounded
//! there (`client-output-buffer-limit pubsub`, by default 32 MiB, or 8 MiB for a minute), and a subscriber
//! beyond it is disconnected: a gap like any other.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use brolly_core::{Clock, Feed, Gap, Listener, Name, NewMessage, Seat, Standing, Stop, Timestamp};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::sleep,
};
use uuid::Uuid;

use crate::{
    Inner,
    connect::{Dialer, Link},
    error::Error,
    exchange::ms,
    scripts,
};

/// Bytes that are received and not durable; then no more is read.
const BYTES: usize = 16 << 20;

/// Messages that are being made durable.
const AT_ONCE: usize = 1_024;

/// What a message takes beside its payload and channel, about.
const OVERHEAD: usize = 64;

/// A message as it was published.
struct Published {
    channel: String,
    payload: Bytes,
}

/// Listens to one channel, or a pattern of channels.
struct Subscriber {
    broker: Name,
    dialer: Dialer,
    clock: Arc<dyn Clock>,
    channel: String,
    /// The key of the group's seat, and who wants to sit there.
    seat: String,
    host: String,
    listener: Arc<dyn Listener>,
}

/// When it was last known to be heard, and why it is not heard now.
type Lost = Option<(Timestamp, String)>;

/// Listens until it is told to stop, or the broker is closed.
pub(crate) async fn listen(
    inner: &Inner,
    feed: &Feed,
    seat: Seat<'_>,
    listener: Arc<dyn Listener>,
    stop: Stop,
) {
    let subscriber = Subscriber {
        broker: inner.name.clone(),
        dialer: inner.dialer.clone(),
        clock: inner.status.clock(),
        channel: feed.channel.clone(),
        seat: format!("brolly:feed:{}", seat.group),
        host: seat.host.to_owned(),
        listener,
    };
    let lost = seat.heard.map(|heard| (heard, "this host was not listening".to_owned()));
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = inner.stop.cancelled() => {}
        }
    };
    subscriber.run(lost, stop).await;
}

impl Subscriber {
    async fn run(&self, lost: Lost, stop: impl Future<Output = ()>) {
        let inbox = Arc::new(Inbox::default());
        let mut sinking = FuturesUnordered::new();
        tokio::select! {
            () = self.pump(&inbox, &mut sinking) => {}
            () = self.listen(&inbox, lost) => {}
            () = stop => {}
        }
        // Nothing more comes; what has come is handed on all the same.
        loop {
            self.fill(&inbox, &mut sinking);
            let Some(size) = sinking.next().await else { return };
            inbox.done(size);
        }
    }

    /// Listens whenever the seat is free, connecting again for ever.
    async fn listen(&self, inbox: &Arc<Inbox>, mut lost: Lost) {
        let pauses = || {
            let pauses = ExponentialBuilder::new().with_jitter().without_max_times();
            pauses.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(5)).build()
        };
        let mut pause = pauses();
        loop {
            let error = match self.sit(&mut lost).await {
                Ok(()) => match self.subscribe(inbox).await {
                    Ok(link) => {
                        pause = pauses();
                        self.stands(&mut lost);
                        let (sound, error) = self.watch(inbox, &link).await;
                        lost = Some((sound, error.to_string()));
                        error
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.listener.stands(Standing::Lost(error.to_string()));
            tracing::warn!(broker = %self.broker, channel = self.channel, %error, "not subscribed; what is published now is lost");
            sleep(pause.next().unwrap_or_default()).await;
        }
    }

    /// Waits until the seat is this host's.
    async fn sit(&self, lost: &mut Lost) -> Result<(), Error> {
        let link = self.dialer.dial(Duration::ZERO).await?;
        loop {
            let Some(silent) = self.claim(&link).await? else { return Ok(()) };
            let heard = self.clock.now().before(silent);
            *lost = Some((heard, "the host that listened is gone".to_owned()));
            self.listener.stands(Standing::Standby);
            sleep(self.renewal()).await;
        }
    }

    /// Takes or keeps the seat. If another host has it, answers for how long that has been silent.
    async fn claim(&self, link: &Link) -> Result<Option<Duration>, Error> {
        let patience = self.dialer.settings.worker_timeout;
        let mut call = scripts::LISTEN.call(&[&self.seat]);
        let (mine, left): (bool, i64) =
            scripts::LISTEN.run(link, call.arg(&self.host).arg(ms(patience))).await?;
        let left = Duration::from_millis(left.try_into().unwrap_or(0));
        Ok((!mine).then(|| patience.saturating_sub(left)))
    }

    fn renewal(&self) -> Duration {
        self.dialer.settings.heartbeat()
    }

    fn stands(&self, lost: &mut Lost) {
        tracing::info!(broker = %self.broker, channel = self.channel, "subscribed");
        if let Some((from, reason)) = lost.take() {
            self.listener.missed(Gap { from, to: self.clock.now(), reason });
        }
        self.listener.stands(Standing::Listening);
    }

    async fn subscribe(&self, inbox: &Arc<Inbox>) -> Result<Link, Error> {
        let (receiver, gate) = (inbox.clone(), inbox.clone());
        let receive = move |info: PushInfo| -> Result<(), ()> {
            receiver.receive(info);
            Ok(())
        };
        inbox.opened();
        let link = self.dialer.dial_pushed(receive, |wire| Gate { wire, inbox: gate }).await?;
        link.subscribe(&self.channel, self.channel.contains(['*', '?', '[', '\\'])).await?;
        Ok(link)
    }

    /// Keeps the seat, and so sees whether the connection lives. Answers with the last moment at which it
    /// certainly did: what is read later may have waited for long.
    async fn watch(&self, inbox: &Inbox, link: &Link) -> (Timestamp, Error) {
        let mut sound = self.clock.now();
        loop {
            tokio::select! {
                () = inbox.closed.notified() => {}
                () = sleep(self.renewal()) => {}
            }
            let (asked, stops) = (self.clock.now(), inbox.stops());
            match self.claim(link).await {
                Ok(None) => {
                    sound = asked;
                    self.listener.stands(Standing::Listening);
                }
                Ok(Some(_)) => return (sound, Error::Disconnected("another host listens".to_owned())),
                // The answer waits behind what is not read.
                Err(Error::Silent(_)) if inbox.is_full() || inbox.stops() != stops => {}
                Err(error) => return (sound, error),
            }
        }
    }

    /// Hands on what comes.
    async fn pump(&self, inbox: &Inbox, sinking: &mut FuturesUnordered<BoxFuture<'static, usize>>) {
        loop {
            self.fill(inbox, sinking);
            tokio::select! {
                Some(size) = sinking.next() => inbox.done(size),
                () = inbox.arrived.notified(), if sinking.len() < AT_ONCE => {}
            }
        }
    }

    fn fill(&self, inbox: &Inbox, sinking: &mut FuturesUnordered<BoxFuture<'static, usize>>) {
        while sinking.len() < AT_ONCE
            && let Some(published) = inbox.next()
        {
            let (size, listener) = (published.size(), self.listener.clone());
            let hearing = async move {
                listener.hear(published.into()).await;
                size
            };
            sinking.push(hearing.boxed());
        }
    }
}

impl From<Published> for NewMessage {
    /// It gets its id here, so that it is one message however often it is handed on.
    fn from(Published { channel, payload }: Published) -> Self {
        Self { id: Some(Uuid::now_v7().to_string()), key: channel, payload, ..Self::default() }
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
