//! Requests of `wasi:http` as a guest makes them: method, address, headers, and a body that it writes.

use brolly_core::{Fault, HttpRequest, HttpTarget};
use bytes::Bytes;
use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::http::types::{self, ErrorCode, Method, Scheme},
    fault::Stop,
    wasi::{
        fields::is_hosts_own,
        http::{Fields, Options, Outgoing, Request, RequestBody},
        io::OutputStream,
    },
};

/// Bytes of a path with its query.
const MAX_PATH_BYTES: usize = 8 * 1024;
/// The header by which the other side recognises a repetition.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

impl Request {
    fn new(headers: Fields) -> Self {
        Self { method: Method::Get, path: None, scheme: None, authority: None, headers, body: None }
    }

    /// The request in the host's words, without its body.
    pub(crate) fn checked(&self, idempotency_key: &str) -> Result<HttpRequest, ErrorCode> {
        let https = match &self.scheme {
            None | Some(Scheme::Https) => true,
            Some(Scheme::Http) => false,
            Some(Scheme::Other(_)) => return Err(ErrorCode::HttpRequestUriInvalid),
        };
        let authority = self.authority.as_deref().ok_or(ErrorCode::HttpRequestUriInvalid)?;
        let target = HttpTarget::parse(https, authority).map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        let path = self.path.clone().unwrap_or_else(|| "/".to_owned());
        if path.len() > MAX_PATH_BYTES {
            return Err(ErrorCode::HttpRequestUriTooLong);
        }
        let method = method_name(&self.method).ok_or(ErrorCode::HttpRequestMethodInvalid)?;
        let entries = self.headers.entries();
        let own = entries.iter().filter(|(name, _)| !is_hosts_own(name)).cloned();
        let mut headers: Vec<(String, Bytes)> = own.collect();
        if !headers.iter().any(|(name, _)| name == IDEMPOTENCY_KEY) {
            let key = Bytes::copy_from_slice(idempotency_key.as_bytes());
            headers.push((IDEMPOTENCY_KEY.to_owned(), key));
        }
        Ok(HttpRequest { method, target, path, headers, body: Bytes::new() })
    }
}

/// The name of a method; none for one that is no request to a server of a handler's.
fn method_name(method: &Method) -> Option<String> {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Patch => "PATCH",
        Method::Connect | Method::Trace => return None,
        Method::Other(name) => name,
    };
    let is_method = !name.is_empty() && name.len() <= 32 && name.bytes().all(|c| c.is_ascii_uppercase());
    let is_open = is_method && name != "CONNECT" && name != "TRACE";
    is_open.then(|| name.to_owned())
}

/// A path and query that leave no doubt where the host ends.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|c| c.is_ascii_graphic() && c != b'#' && c != b'\\')
}

impl Guest {
    /// Counts what goes into a request. Without the grant no request is sent, and nothing is kept.
    pub(crate) fn count_request_bytes(&mut self, bytes: u64) -> Result<(), Stop> {
        let limit = self.http_grant()?.request_bytes;
        let sum = self.attempt.http.request_bytes.saturating_add(bytes);
        if sum > limit {
            return Err(Stop::Fault(Fault::Limit {
                what: format!("{sum} bytes of requests"),
                limit,
                setting: "grants.http.request_bytes",
            }));
        }
        self.attempt.http.request_bytes = sum;
        Ok(())
    }
}

impl types::HostOutgoingRequest for Guest {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<Request>> {
        let headers = self.handles().delete(headers)?;
        self.handles().push(Request::new(headers))
    }

    fn body(&mut self, this: Resource<Request>) -> wasmtime::Result<Result<Resource<RequestBody>, ()>> {
        let request = self.handles().get_mut(&this)?;
        if request.body.is_some() {
            return Ok(Err(()));
        }
        let body = request.body.insert(Outgoing::default()).clone();
        Ok(Ok(self.handles().push(RequestBody { body, is_written: false })?))
    }

    fn method(&mut self, this: Resource<Request>) -> wasmtime::Result<Method> {
        Ok(self.handles().get(&this)?.method.clone())
    }

    fn set_method(&mut self, this: Resource<Request>, method: Method) -> wasmtime::Result<Result<(), ()>> {
        if method_name(&method).is_none() {
            return Ok(Err(()));
        }
        self.handles().get_mut(&this)?.method = method;
        Ok(Ok(()))
    }

    fn path_with_query(&mut self, this: Resource<Request>) -> wasmtime::Result<Option<String>> {
        Ok(self.handles().get(&this)?.path.clone())
    }

    fn set_path_with_query(
        &mut self,
        this: Resource<Request>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        // Some libraries say the query alone where the path is the root.
        let path = path.map(|path| match path.as_bytes().first() {
            None | Some(b'?') => format!("/{path}"),
            Some(_) => path,
        });
        if path.as_ref().is_some_and(|path| !is_path(path)) {
            return Ok(Err(()));
        }
        self.handles().get_mut(&this)?.path = path;
        Ok(Ok(()))
    }

    fn scheme(&mut self, this: Resource<Request>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.handles().get(&this)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        this: Resource<Request>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if matches!(scheme, Some(Scheme::Other(_))) {
            return Ok(Err(()));
        }
        self.handles().get_mut(&this)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn authority(&mut self, this: Resource<Request>) -> wasmtime::Result<Option<String>> {
        Ok(self.handles().get(&this)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        this: Resource<Request>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if authority.as_ref().is_some_and(|authority| HttpTarget::parse(true, authority).is_err()) {
            return Ok(Err(()));
        }
        self.handles().get_mut(&this)?.authority = authority;
        Ok(Ok(()))
    }

    fn headers(&mut self, this: Resource<Request>) -> wasmtime::Result<Resource<Fields>> {
        let entries = self.handles().get(&this)?.headers.entries();
        self.handles().push(Fields::of(entries, true))
    }

    fn drop(&mut self, this: Resource<Request>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl types::HostOutgoingBody for Guest {
    fn write(&mut self, this: Resource<RequestBody>) -> wasmtime::Result<Result<Resource<OutputStream>, ()>> {
        let body = self.handles().get_mut(&this)?;
        if std::mem::replace(&mut body.is_written, true) {
            return Ok(Err(()));
        }
        let stream = OutputStream::Body(body.body.clone());
        Ok(Ok(self.handles().push(stream)?))
    }

    fn finish(
        &mut self,
        this: Resource<RequestBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let RequestBody { body, .. } = self.handles().delete(this)?;
        if let Some(trailers) = trailers {
            self.handles().delete(trailers)?;
            body.abandon();
            let detail = "trailers are not sent".to_owned();
            return Ok(Err(ErrorCode::InternalError(Some(detail))));
        }
        if let Some((exchange, bytes)) = body.finish() {
            self.send(&exchange, bytes)?;
        }
        Ok(Ok(()))
    }

    fn drop(&mut self, this: Resource<RequestBody>) -> wasmtime::Result<()> {
        // One that was finished has no handle any more.
        self.handles().delete(this)?.body.abandon();
        Ok(())
    }
}

impl types::HostRequestOptions for Guest {
    fn new(&mut self) -> wasmtime::Result<Resource<Options>> {
        self.handles().push(Options::default())
    }

    fn connect_timeout(&mut self, _: Resource<Options>) -> wasmtime::Result<Option<u64>> {
        Ok(None)
    }

    fn set_connect_timeout(
        &mut self,
        _: Resource<Options>,
        nanos: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        Ok(nanos.map_or(Ok(()), |_| Err(())))
    }

    fn first_byte_timeout(&mut self, this: Resource<Options>) -> wasmtime::Result<Option<u64>> {
        Ok(self.handles().get(&this)?.nanos)
    }

    fn set_first_byte_timeout(
        &mut self,
        this: Resource<Options>,
        nanos: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.handles().get_mut(&this)?.nanos = nanos;
        Ok(Ok(()))
    }

    fn between_bytes_timeout(&mut self, _: Resource<Options>) -> wasmtime::Result<Option<u64>> {
        Ok(None)
    }

    fn set_between_bytes_timeout(
        &mut self,
        _: Resource<Options>,
        nanos: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        Ok(nanos.map_or(Ok(()), |_| Err(())))
    }

    fn drop(&mut self, this: Resource<Options>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_path_cannot_move_the_end_of_the_host() {
        for path in ["/", "/a?b=c", "/a/../b", "/@evil.example/", "/a//b", "/%20"] {
            assert!(is_path(path), "{path}");
        }
        for path in
            ["", "a", "@evil.example/", "\\evil", "/a\\b", "/a b", "/a\r\nHost: x", "/a#b", "/é", "?a"]
        {
            assert!(!is_path(path), "{path}");
        }
    }

    #[test]
    fn only_methods_for_servers_are_sent() {
        assert_eq!(method_name(&Method::Post).as_deref(), Some("POST"));
        assert_eq!(method_name(&Method::Other("PURGE".into())).as_deref(), Some("PURGE"));
        for other in ["CONNECT", "TRACE", "", "get", "A B", "A\r\n"] {
            assert_eq!(method_name(&Method::Other(other.into())), None, "{other:?}");
        }
        assert_eq!((method_name(&Method::Connect), method_name(&Method::Trace)), (None, None));
    }
    #[test]
    fn a_path_has_at_most_8_kib() {
        let asked = |bytes: usize| {
            let mut request = Request::new(Fields::of(Arc::default(), true));
            request.authority = Some("a.example".into());
            request.path = Some(format!("/{}", "p".repeat(bytes - 1)));
            request.checked("s/t/m").map(|request| request.path.len())
        };
        assert!(matches!(asked(8_192), Ok(8_192)));
        assert!(matches!(asked(8_193), Err(ErrorCode::HttpRequestUriTooLong)));
    }
}
