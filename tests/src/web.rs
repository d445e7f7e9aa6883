//! A server on the web for tests: answers as its paths say, and keeps what it was asked.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// What the server was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// In lower case.
    pub headers: HashMap<String, String>,
    /// Bytes of the body.
    pub body: usize,
}

type AllAsked = Arc<Mutex<Vec<Asked>>>;

/// A server that listens until it is dropped.
///
/// | path | answers |
/// | --- | --- |
/// | `/ok` | 200, `hello` |
/// | `/status/N` | that status |
/// | `/bytes/N` | as many bytes |
/// | `/slow/N` | `late`, after as many milliseconds |
/// | `/to/URL` | 302 to the rest of the path |
/// | `/count` | how many requests have come |
pub struct Web {
    /// Its address.
    pub address: SocketAddr,
    asked: AllAsked,
    task: JoinHandle<()>,
}

impl Web {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await.expect("a free port")
    }

    /// Starts one on a free port of an address, if the machine has it.
    pub async fn start_on(address: IpAddr) -> Option<Self> {
        let listener = TcpListener::bind((address, 0)).await.ok()?;
        let address = listener.local_addr().ok()?;
        let asked = AllAsked::default();
        let kept = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = service_fn(move |request| answer(request, kept.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Some(Self { address, asked, task })
    }

    /// The address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request<Incoming>, kept: AllAsked) -> Result<Response<String>, hyper::Error> {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        bytes += frame?.into_data().map_or(0, |data| data.len());
    }
    let count = {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(Asked { method, path: path.clone(), headers, body: bytes });
        kept.len()
    };
    Ok(response(&path, count).await)
}

async fn response(path: &str, count: usize) -> Response<String> {
    let path = path.split('?').next().unwrap_or(path);
    let (kind, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], ""));
    let number = || rest.parse::<u64>().unwrap_or(0);
    let new = |status: u64, body: String| {
        let mut response = Response::new(body);
        *response.status_mut() = u16::try_from(status).unwrap_or(0).try_into().expect("a status");
        response
    };
    match kind {
        "ok" => new(200, "hello".to_owned()),
        "status" => new(number(), String::new()),
        "bytes" => new(200, "x".repeat(usize::try_from(number()).unwrap_or(0))),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number())).await;
            new(200, "late".to_owned())
        }
        "to" => {
            let mut response = new(302, String::new());
            response.headers_mut().insert("location", rest.parse().expect("a header"));
            response
        }
        "count" => new(200, count.to_string()),
        _ => new(404, String::new()),
    }
}
