//! Serving: connections, how many of them, and how it ends.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1::Builder};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequest;

use crate::{App, session::Peer};

/// How long to wait before accepting again when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener cannot be used.
    #[error("cannot serve HTTP: {0}")]
    Listener(#[from] io::Error),
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
        router,
        permits: Arc::new(Semaphore::new(admin.config.connections)),
        connections: TaskTracker::new(),
        graceful: GracefulShutdown::new(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.accept(&listener) => {}
        () = admin.pulse.keep(&admin.handle) => {}
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
        let service = MapRequest::new(self.router.clone(), move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        self.connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(permit);
        });
    }
}

/// Whether the client gave up before its connection was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
