//! One exchange with a server: addresses checked, no redirect followed, no proxy asked, cut off at its
//! limits of time and size.

use std::{error::Error as StdError, net::SocketAddr};

use brolly_core::{HttpError, HttpFailure, HttpRequest, HttpResponse, HttpTerms};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use url::Host;

use crate::address::{Reach, reach};

/// A client that connects to addresses of the public internet only, or to private ones as well.
pub(crate) fn build(private: bool) -> reqwest::Result<Client> {
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .dns_resolver(Checked { private })
        .build()
}

/// Why no connection goes to an address.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("{host} is {address}, an address that leads to nobody in particular")]
    Never { host: String, address: SocketAddr },
    #[error(
        "{host} is {address}, on this machine or in its own network; the grant must say so \
         (grants.http.private)"
    )]
    Private { host: String, address: SocketAddr },
}

/// Nobody knows a name.
#[derive(Debug, thiserror::Error)]
#[error("{host} cannot be looked up: {why}")]
struct Unknown {
    host: String,
    why: String,
}

fn check(host: &str, address: SocketAddr, private: bool) -> Result<(), Closed> {
    let host = host.to_owned();
    match reach(address.ip()) {
        Reach::Public => Ok(()),
        Reach::Private if private => Ok(()),
        Reach::Private => Err(Closed::Private { host, address }),
        Reach::Never => Err(Closed::Never { host, address }),
    }
}

/// Checks a host that is an address: it is connected to without being looked up.
pub(crate) fn check_literal(host: &Host, private: bool) -> Result<(), HttpError> {
    let address = match host {
        Host::Domain(_) => return Ok(()),
        Host::Ipv4(address) => SocketAddr::from((*address, 0)),
        Host::Ipv6(address) => SocketAddr::from((*address, 0)),
    };
    check(&host.to_string(), address, private).map_err(|closed| HttpError::NotGranted(closed.to_string()))
}

/// Looks a name up, and gives out its addresses only if all of them may be connected to.
struct Checked {
    private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let host = name.as_str();
            let unknown = |why: String| Unknown { host: host.to_owned(), why };
            let found =
                tokio::net::lookup_host((host, 0)).await.map_err(|error| unknown(error.to_string()))?;
            let found: Vec<SocketAddr> = found.collect();
            if found.is_empty() {
                return Err(unknown("it has no address".to_owned()).into());
            }
            for address in &found {
                check(host, *address, private)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Sends a request and takes the whole answer.
pub(crate) async fn exchange(
    client: &Client,
    request: &HttpRequest,
    terms: HttpTerms,
) -> Result<HttpResponse, HttpError> {
    let sent = send(client, request)?;
    let answer = async {
        let response = sent.send().await.map_err(|error| failed(&error))?;
        whole(response, terms.response_bytes).await
    };
    tokio::time::timeout(terms.time, answer).await.unwrap_or_else(|_| {
        Err(HttpError::Failed {
            failure: HttpFailure::TimedOut,
            detail: format!("no whole answer within {} ms", terms.time.as_millis()),
        })
    })
}

fn send(client: &Client, request: &HttpRequest) -> Result<reqwest::RequestBuilder, HttpError> {
    let bad = |detail: String| HttpError::Failed { failure: HttpFailure::Protocol, detail };
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| bad(format!("{:?} is no method", request.method)))?;
    let url = url::Url::parse(&request.url()).map_err(|error| bad(format!("it has no URL: {error}")))?;
    // INVARIANT: what was checked is what is called, whatever a path looks like.
    if url.host().map(|host| host.to_owned()).as_ref() != Some(request.target.host())
        || url.port_or_known_default() != Some(request.target.port())
        || !url.username().is_empty()
    {
        return Err(bad(format!("the path {:?} is none", request.path)));
    }
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        let pair = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_bytes(value).ok());
        let (name, value) = pair.ok_or_else(|| bad(format!("the header {name:?} is none")))?;
        headers.append(name, value);
    }
    Ok(client.request(method, url).headers(headers).body(request.body.clone()))
}

/// The whole answer, if it keeps within its limit; what is beyond is never read.
async fn whole(mut response: Response, limit: u64) -> Result<HttpResponse, HttpError> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    };
    let headers: Vec<(String, Bytes)> = response.headers().iter().map(header).collect();
    let of_headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut room = room.checked_sub(of_headers).ok_or(HttpError::TooLarge)?;
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        room = room.checked_sub(chunk.len()).ok_or(HttpError::TooLarge)?;
        body.extend_from_slice(&chunk);
    }
    Ok(HttpResponse { status: response.status().as_u16(), headers, body: body.freeze() })
}

/// Whose fault it is, told from the error and its causes.
fn failed(error: &reqwest::Error) -> HttpError {
    let mut causes = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    if let Some(closed) = causes.iter().find_map(|cause| cause.downcast_ref::<Closed>()) {
        return HttpError::NotGranted(closed.to_string());
    }
    let failure = if causes.iter().any(|cause| cause.is::<Unknown>()) {
        HttpFailure::Dns
    } else if causes.iter().any(|cause| is_tls(*cause)) {
        HttpFailure::Tls
    } else if error.is_timeout() {
        HttpFailure::TimedOut
    } else if error.is_connect() {
        HttpFailure::Connect
    } else {
        HttpFailure::Protocol
    };
    let words: Vec<String> = causes.iter().map(ToString::to_string).collect();
    HttpError::Failed { failure, detail: words.join(": ") }
}

/// An error of I/O leaves out what it wraps when it is asked for its cause, and here one may wrap another.
fn is_tls(cause: &(dyn StdError + 'static)) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}
