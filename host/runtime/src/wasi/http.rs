//! `wasi:http`: sends what a guest is granted to send, and hands it the answer. The whole exchange
//! happens in the moment in which the request is complete; what the guest then waits for is there.

use std::{sync::Arc, time::Duration};

use brolly_core::{
    Fault, HostRule, HttpError, HttpFailure, HttpGrant, HttpRequest, HttpResponse, HttpTerms, LogLevel,
};
use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::http::{
        outgoing_handler,
        types::{self, DnsErrorPayload, ErrorCode, Method, Scheme},
    },
    fault::Stop,
    wasi::{
        fields::Entries,
        io::{InputStream, IoError, Pollable},
    },
};

/// Headers.
pub struct Fields {
    pub(super) entries: Entries,
    /// Whether they can be read only.
    pub(super) is_fixed: bool,
}

/// A request that is being made.
pub struct Request {
    pub(super) method: Method,
    pub(super) path: Option<String>,
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<String>,
    pub(super) headers: Fields,
    /// Once it was asked for.
    pub(super) body: Option<Outgoing>,
}

/// The guest's side of a request's body.
pub struct RequestBody {
    pub(super) body: Outgoing,
    /// Whether its stream was asked for.
    pub(super) is_written: bool,
}

/// How long the guest wants to wait.
#[derive(Default)]
pub struct Options {
    pub(super) nanos: Option<u64>,
}

/// What becomes of a request.
pub struct FutureAnswer(Exchange);

/// An answer.
pub struct Answer {
    status: u16,
    headers: Entries,
    body: Option<Bytes>,
}

/// The body of an answer, until its stream is asked for.
pub struct AnswerBody(Option<Bytes>);

/// What follows a body: nothing, once.
pub struct FutureTrailers {
    is_taken: bool,
}

/// The bytes of a request, shared between the handles that lead to them.
#[derive(Clone, Default)]
pub struct Outgoing(Arc<Mutex<Writing>>);

#[derive(Default)]
struct Writing {
    bytes: Vec<u8>,
    progress: Progress,
    /// The exchange that waits for the body.
    exchange: Option<Exchange>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Open,
    Finished,
    /// Dropped before it was finished: nobody knows whether it is whole.
    Abandoned,
}

impl Outgoing {
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), ()> {
        let mut writing = self.0.lock();
        if writing.progress != Progress::Open {
            return Err(());
        }
        writing.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Nothing more comes; answers with the exchange that waited for it, if there is one.
    pub(super) fn finish(&self) -> Option<(Exchange, Bytes)> {
        let mut writing = self.0.lock();
        writing.progress = Progress::Finished;
        let exchange = writing.exchange.take()?;
        Some((exchange, std::mem::take(&mut writing.bytes).into()))
    }

    pub(super) fn abandon(&self) {
        let mut writing = self.0.lock();
        writing.progress = Progress::Abandoned;
        if let Some(exchange) = writing.exchange.take() {
            exchange.answer(Err(unfinished()));
        }
    }

    /// The body, if it is finished; otherwise the exchange waits for it.
    fn bytes_for(&self, exchange: &Exchange) -> Option<Bytes> {
        let mut writing = self.0.lock();
        match writing.progress {
            Progress::Finished => return Some(std::mem::take(&mut writing.bytes).into()),
            Progress::Open => writing.exchange = Some(exchange.clone()),
            Progress::Abandoned => exchange.answer(Err(unfinished())),
        }
        None
    }
}

fn unfinished() -> ErrorCode {
    ErrorCode::InternalError(Some("the body of the request was dropped before it was finished".to_owned()))
}

/// A request on its way, and then its answer.
#[derive(Clone)]
pub struct Exchange(Arc<Mutex<Course>>);

struct Course {
    request: HttpRequest,
    time: Option<Duration>,
    answer: State,
}

enum State {
    Waiting,
    There(Result<HttpResponse, ErrorCode>),
    Taken,
}

impl Exchange {
    fn answer(&self, answer: Result<HttpResponse, ErrorCode>) {
        self.0.lock().answer = State::There(answer);
    }

    /// Whether asking for the answer gives one.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.0.lock().answer, State::Waiting)
    }
}

impl Guest {
    pub(super) fn http_grant(&self) -> Result<&HttpGrant, Stop> {
        let grant = self.terms.grants.http.as_ref();
        grant.ok_or_else(|| self.not_granted("to send requests", "grants.http"))
    }

    /// Checks a request against the grant and counts it.
    fn admit(&mut self, request: &HttpRequest) -> Result<(), Stop> {
        let limit = self.http_grant()?.requests;
        let target = &request.target;
        if !self.terms.hosts.iter().any(|rule: &HostRule| rule.allows(target)) {
            let what = format!("to send requests to {target}");
            return Err(self.not_granted(&what, &format!("{:?} in grants.http.hosts", target.rule())));
        }
        let requests = self.attempt.http.requests + 1;
        if requests > limit {
            return Err(Stop::Fault(Fault::Limit {
                what: format!("{requests} requests"),
                limit: limit.into(),
                setting: "grants.http.requests",
            }));
        }
        self.attempt.http.requests = requests;
        let headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.count_request_bytes((request.path.len() + headers) as u64)
    }

    /// Sends a request that is complete, and notes the answer.
    pub(super) fn send(&mut self, exchange: &Exchange, body: Bytes) -> Result<(), Stop> {
        let grant = self.http_grant()?;
        let limit = grant.response_bytes;
        let mut terms = HttpTerms {
            time: Duration::from_millis(grant.time_ms).min(self.time_left()),
            response_bytes: limit.saturating_sub(self.attempt.http.response_bytes),
            private: grant.private,
        };
        let request = {
            let course = exchange.0.lock();
            terms.time = course.time.map_or(terms.time, |time| time.min(terms.time));
            HttpRequest { body, ..course.request.clone() }
        };
        let answer = match self.outside().http(&request, terms) {
            Ok(response) => {
                let headers: usize =
                    response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                self.attempt.http.response_bytes += (headers + response.body.len()) as u64;
                Ok(response)
            }
            Err(HttpError::Failed { failure, detail }) => {
                let text = format!("{} {}: {detail}", request.method, request.url());
                self.attempt.log(LogLevel::Warn, text, self.terms.limits.log_bytes);
                Err(code_of(failure))
            }
            Err(HttpError::NotGranted(what)) => return Err(self.not_granted(&what, "grants.http")),
            Err(HttpError::TooLarge) => {
                return Err(Stop::Fault(Fault::Limit {
                    what: format!("the answer of {} is larger than what is left for answers", request.target),
                    limit,
                    setting: "grants.http.response_bytes",
                }));
            }
            Err(HttpError::Unreachable(unreachable)) => return Err(unreachable.into()),
        };
        exchange.answer(answer);
        self.check_time()
    }
}

/// What a guest is told.
fn code_of(failure: HttpFailure) -> ErrorCode {
    match failure {
        HttpFailure::Dns => ErrorCode::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
        HttpFailure::Connect => ErrorCode::ConnectionRefused,
        HttpFailure::TimedOut => ErrorCode::HttpResponseTimeout,
        HttpFailure::Tls => ErrorCode::TlsCertificateError,
        HttpFailure::Protocol => ErrorCode::HttpProtocolError,
    }
}

impl outgoing_handler::Host for Guest {
    fn handle(
        &mut self,
        request: Resource<Request>,
        options: Option<Resource<Options>>,
    ) -> wasmtime::Result<Result<Resource<FutureAnswer>, ErrorCode>> {
        let request = self.handles().delete(request)?;
        let options = options.map(|options| self.handles().delete(options)).transpose()?;
        self.http_grant()?;
        let key = self.lent.idempotency_key().unwrap_or_default().to_owned();
        let checked = match request.checked(&key) {
            Ok(checked) => checked,
            Err(code) => return Ok(Err(code)),
        };
        self.admit(&checked)?;
        let time = options.and_then(|options| options.nanos).map(Duration::from_nanos);
        let course = Course { request: checked, time, answer: State::Waiting };
        let exchange = Exchange(Arc::new(Mutex::new(course)));
        let body = request.body.map_or_else(|| Some(Bytes::new()), |body| body.bytes_for(&exchange));
        if let Some(body) = body {
            self.send(&exchange, body)?;
        }
        Ok(Ok(self.handles().push(FutureAnswer(exchange))?))
    }
}

impl types::Host for Guest {
    fn http_error_code(&mut self, _: Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
        // What goes wrong is told where the answer is asked for; streams of ours do not fail.
        Ok(None)
    }
}

impl types::HostFutureIncomingResponse for Guest {
    fn subscribe(&mut self, this: Resource<FutureAnswer>) -> wasmtime::Result<Resource<Pollable>> {
        let exchange = self.handles().get(&this)?.0.clone();
        self.handles().push(Pollable::Answer(exchange))
    }

    #[allow(clippy::type_complexity, reason = "the type that the standard gives it")]
    fn get(
        &mut self,
        this: Resource<FutureAnswer>,
    ) -> wasmtime::Result<Option<Result<Result<Resource<Answer>, ErrorCode>, ()>>> {
        let exchange = self.handles().get(&this)?.0.clone();
        let state = {
            let mut course = exchange.0.lock();
            if matches!(course.answer, State::Waiting) {
                return Ok(None);
            }
            std::mem::replace(&mut course.answer, State::Taken)
        };
        Ok(Some(match state {
            State::Waiting | State::Taken => Err(()),
            State::There(Err(code)) => Ok(Err(code)),
            State::There(Ok(HttpResponse { status, headers, body })) => {
                let answer = Answer { status, headers: Arc::new(headers), body: Some(body) };
                Ok(Ok(self.handles().push(answer)?))
            }
        }))
    }

    fn drop(&mut self, this: Resource<FutureAnswer>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl types::HostIncomingResponse for Guest {
    fn status(&mut self, this: Resource<Answer>) -> wasmtime::Result<u16> {
        Ok(self.handles().get(&this)?.status)
    }

    fn headers(&mut self, this: Resource<Answer>) -> wasmtime::Result<Resource<Fields>> {
        let entries = Arc::clone(&self.handles().get(&this)?.headers);
        self.handles().push(Fields::of(entries, true))
    }

    fn consume(&mut self, this: Resource<Answer>) -> wasmtime::Result<Result<Resource<AnswerBody>, ()>> {
        let Some(body) = self.handles().get_mut(&this)?.body.take() else { return Ok(Err(())) };
        Ok(Ok(self.handles().push(AnswerBody(Some(body)))?))
    }

    fn drop(&mut self, this: Resource<Answer>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl types::HostIncomingBody for Guest {
    fn stream(&mut self, this: Resource<AnswerBody>) -> wasmtime::Result<Result<Resource<InputStream>, ()>> {
        let Some(body) = self.handles().get_mut(&this)?.0.take() else { return Ok(Err(())) };
        Ok(Ok(self.handles().push(InputStream(body))?))
    }

    fn finish(&mut self, this: Resource<AnswerBody>) -> wasmtime::Result<Resource<FutureTrailers>> {
        self.handles().delete(this)?;
        self.handles().push(FutureTrailers { is_taken: false })
    }

    fn drop(&mut self, this: Resource<AnswerBody>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl types::HostFutureTrailers for Guest {
    fn subscribe(&mut self, _: Resource<FutureTrailers>) -> wasmtime::Result<Resource<Pollable>> {
        self.handles().push(Pollable::Ready)
    }

    #[allow(clippy::type_complexity, reason = "the type that the standard gives it")]
    fn get(
        &mut self,
        this: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Option<Result<Result<Option<Resource<Fields>>, ErrorCode>, ()>>> {
        let was_taken = std::mem::replace(&mut self.handles().get_mut(&this)?.is_taken, true);
        Ok(Some(if was_taken { Err(()) } else { Ok(Ok(None)) }))
    }

    fn drop(&mut self, this: Resource<FutureTrailers>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}
