//! Serving: connections, how many of them, and how it ends.

use std::{future::pending, io, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1::Builder};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequest;

use crate::{App, Tls, session::Peer};

/// How long to wait before accepting again when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener cannot be used.
    #[error("cannot serve HTTP: {0}")]
    Listener(#[from] io::Error),
    /// A file with a certificate or a key is no good.
    #[error("TLS (admin.tls): {}: {why}", file.display())]
    Tls {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Serves the API until it is told to stop; then no request is accepted any more, and those that
/// are being handled have [`crate::Config::drain_ms`] to finish.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: TcpListener, app: App, stop: CancellationToken) -> Result<(), Error> {
    listener.local_addr()?;
    let App { router, admin } = app;
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(admin.config.idle_ms));
    let server = Server {
        builder,
        tls: admin.tls.clone(),
        handshake: Duration::from_millis(admin.config.idle_ms),
        stopping: admin.stopping.clone(),
        router,
        permits: Arc::new(Semaphore::new(admin.config.connections)),
        connections: TaskTracker::new(),
        graceful: GracefulShutdown::new(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.accept(&listener) => {}
        () = admin.pulse.keep(&admin.handle) => {}
        () = async { if let Some(tls) = &admin.tls { tls.keep().await } else { pending().await } } => {}
    }
    admin.stopping.cancel();
    drop(listener);
    admin.changes.close();
    let rest = async { tokio::join!(server.graceful.shutdown(), admin.changes.wait()) };
    if tokio::time::timeout(Duration::from_millis(admin.config.drain_ms), rest).await.is_err() {
        let changes = admin.changes.len();
        tracing::warn!(changes, "not every request was finished when the host stopped");
    }
    Ok(())
}

struct Server {
    builder: Builder,
    tls: Option<Tls>,
    /// How long agreeing on keys may take.
    handshake: Duration,
    stopping: CancellationToken,
    router: Router,
    /// Room for connections.
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    graceful: GracefulShutdown,
}

impl Server {
    /// Accepts connections, no more than there are permits, for as long as it is polled.
    async fn accept(&self, listener: &TcpListener) {
        while let Ok(permit) = self.permits.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, from)) => self.start(stream, Peer(from.ip()), permit),
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(NO_ROOM).await;
                }
            }
        }
    }

    fn start(&self, stream: TcpStream, peer: Peer, permit: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers on this connection may be late");
        }
        let line = Line {
            builder: self.builder.clone(),
            watcher: self.graceful.watcher(),
            router: self.router.clone(),
            peer,
        };
        let Some(tls) = self.tls.clone() else {
            self.connections.spawn(async move {
                line.converse(stream).await;
                drop(permit);
            });
            return;
        };
        let (limit, stopping) = (self.handshake, self.stopping.clone());
        self.connections.spawn(async move {
            let agreed = tokio::time::timeout(limit, tls.accept(stream));
            match stopping.run_until_cancelled(agreed).await {
                Some(Ok(Ok(stream))) => line.converse(stream).await,
                Some(Ok(Err(error))) => tracing::debug!(%error, "a client and the host agreed on no keys"),
                Some(Err(_)) | None => tracing::debug!("a client did not agree on keys in time"),
            }
            drop(permit);
        });
    }
}

/// What the requests of one connection are answered with.
struct Line {
    builder: Builder,
    watcher: Watcher,
    router: Router,
    peer: Peer,
}

impl Line {
    /// Answers them, until either side has enough.
    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let Self { builder, watcher, router, peer } = self;
        let service = MapRequest::new(router, move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// Whether the client gave up before its connection was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
