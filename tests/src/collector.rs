//! A collector of traces for tests: takes what is exported by OTLP over HTTP, and keeps the bodies.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// What was sent to the collector.
type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// A collector that listens until it is dropped.
pub struct Collector {
    /// Its address, without a path.
    pub url: String,
    bodies: Bodies,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let bodies = Bodies::default();
        let kept = bodies.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = service_fn(move |request| take(request, kept.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, bodies, task }
    }

    /// The bodies that came.
    #[must_use]
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes what is sent in protobuf to where collectors take traces, and nothing else.
async fn take(request: Request<Incoming>, kept: Bodies) -> Result<Response<String>, Infallible> {
    let media = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    let status = match (request.uri().path(), media) {
        ("/v1/traces", Some("application/x-protobuf")) => 200,
        ("/v1/traces", _) => 415,
        _ => 404,
    };
    let mut bytes = Vec::new();
    let mut body = request.into_body();
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    if status == 200 {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
    let mut response = Response::new(String::new());
    *response.status_mut() = status.try_into().expect("a status");
    Ok(response)
}
