//! The guest's side of the standard interfaces that a subscription can grant. Only this file knows their
//! generated types; what a handler does not call is not imported.

use std::time::Duration;

use crate::http::{Error, Request, Response};

#[allow(unsafe_code, missing_docs, clippy::all, reason = "generated: calls across the sandbox's border")]
mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "granted", generate_all });
}

use bindings::wasi::{
    clocks::{monotonic_clock, wall_clock},
    http::{
        outgoing_handler,
        types::{Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme},
    },
    io::streams::StreamError,
    random::random as wasi_random,
};

const NANOS_PER_MS: u64 = 1_000_000;
/// What the standard allows to be written in one blocking call.
const WRITE_BYTES: usize = 4_096;
/// What is read at once.
const READ_BYTES: u64 = 65_536;

pub(crate) fn clock_now_ms() -> u64 {
    let now = wall_clock::now();
    now.seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / NANOS_PER_MS)
}

pub(crate) fn clock_monotonic_ms() -> u64 {
    monotonic_clock::now() / NANOS_PER_MS
}

pub(crate) fn clock_sleep(duration: Duration) {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    monotonic_clock::subscribe_duration(nanos).block();
}

pub(crate) fn random(count: usize) -> Vec<u8> {
    wasi_random::get_random_bytes(count as u64)
}

pub(crate) fn http(request: Request) -> Result<Response, Error> {
    let (outgoing, options) = outgoing(&request)?;
    // The body is asked for before the request is handed over, and written after it.
    let body =
        if request.body.is_empty() { None } else { Some(outgoing.body().map_err(|()| because("no body"))?) };
    let future = outgoing_handler::handle(outgoing, options).map_err(because)?;
    if let Some(body) = body {
        write(body, &request.body)?;
    }
    loop {
        if let Some(answer) = future.get() {
            let answer = answer.map_err(|()| because("the answer is gone"))?;
            return answer.map_err(because).and_then(|answer| read(&answer));
        }
        future.subscribe().block();
    }
}

fn because(why: impl std::fmt::Debug) -> Error {
    Error { why: format!("{why:?}").trim_matches('"').to_owned() }
}

fn outgoing(request: &Request) -> Result<(OutgoingRequest, Option<RequestOptions>), Error> {
    let entries: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let fields = Fields::from_list(&entries).map_err(because)?;
    let outgoing = OutgoingRequest::new(fields);
    let bad = |what: &str| because(format!("{what} of {} {}", request.method, request.url));
    let (scheme, rest) = request.url.split_once("://").ok_or_else(|| bad("the scheme"))?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(bad("the scheme")),
    };
    let rest = rest.split('#').next().unwrap_or(rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    outgoing.set_method(&method(&request.method)).map_err(|()| bad("the method"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| bad("the scheme"))?;
    outgoing.set_authority(Some(authority)).map_err(|()| bad("the host"))?;
    outgoing.set_path_with_query(Some(&path)).map_err(|()| bad("the path"))?;
    let options = match request.timeout {
        None => None,
        Some(timeout) => {
            let options = RequestOptions::new();
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            options.set_first_byte_timeout(Some(nanos)).map_err(|()| bad("the time-out"))?;
            Some(options)
        }
    };
    Ok((outgoing, options))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), Error> {
    let stream = body.write().map_err(|()| because("the body cannot be written"))?;
    for part in bytes.chunks(WRITE_BYTES) {
        stream.blocking_write_and_flush(part).map_err(because)?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(because)
}

fn read(answer: &IncomingResponse) -> Result<Response, Error> {
    let text = |(name, value): (String, Vec<u8>)| (name, String::from_utf8_lossy(&value).into_owned());
    let headers = answer.headers().entries().into_iter().map(text).collect();
    let body = answer.consume().map_err(|()| because("the body is gone"))?;
    let stream = body.stream().map_err(|()| because("the body is gone"))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(part) => bytes.extend(part),
            Err(StreamError::Closed) => break,
            Err(error @ StreamError::LastOperationFailed(_)) => return Err(because(error)),
        }
    }
    Ok(Response { status: answer.status(), headers, body: bytes })
}
