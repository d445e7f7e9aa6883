//! Traces in the form of OpenTelemetry: a span for each publish and each attempt, tied together by the
//! message header `traceparent` (W3C Trace Context), whichever broker brings it.
//!
//! Called by the worker around an attempt and by the `Handle` around a publish. Knows no exporter: the
//! binary hands in a [`Tracer`], or none. Without one no span is made, and what a handler publishes carries
//! the `traceparent` of the message that it came from on, so that a trace does not end here.

use std::{collections::BTreeMap, sync::Arc};

use brolly_core::{Message, Name, NewMessage, Outgoing, message_limits as limits};
use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _},
};

/// Where a trace goes on; a message header as well as one of HTTP.
const TRACEPARENT: &str = "traceparent";
/// What vendors have to say of it.
const TRACESTATE: &str = "tracestate";

/// The place of something in a trace: the headers `traceparent` and `tracestate`, if any.
pub type TraceContext = BTreeMap<String, String>;

/// Makes spans. Cheap to clone.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    tracer: BoxedTracer,
    propagator: Box<dyn TextMapPropagator + Send + Sync>,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tracer")
    }
}

/// What an attempt is at, as spans name it.
pub(crate) struct Place<'a> {
    pub system: &'static str,
    pub queue: &'a Name,
    pub subscription: &'a Name,
}

/// The span of something that goes on; ends when it is dropped.
pub(crate) struct Span(Option<BoxedSpan>);

impl Tracer {
    /// Makes spans with a tracer, and writes contexts with a propagator.
    pub fn new(tracer: BoxedTracer, propagator: impl TextMapPropagator + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { tracer, propagator: Box::new(propagator) }))
    }

    /// One attempt to handle a message, as the continuation of what its headers say.
    pub(crate) fn attempt(&self, place: &Place<'_>, message: &Message, attempt: u32) -> Span {
        let parent = self.0.propagator.extract_with_context(&Context::new(), &Headers(&message.headers));
        let attributes = vec![
            KeyValue::new("messaging.system", place.system),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", place.queue.to_string()),
            KeyValue::new("messaging.destination_publish.name", message.topic.to_string()),
            KeyValue::new("messaging.consumer.group.name", place.subscription.to_string()),
            KeyValue::new("messaging.message.id", message.id.clone()),
            KeyValue::new("messaging.message.body.size", whole(message.payload.len())),
            KeyValue::new("brolly.attempt", i64::from(attempt)),
        ];
        let span = self.0.tracer.span_builder(format!("process {}", place.queue));
        let span = span.with_kind(SpanKind::Consumer).with_attributes(attributes);
        Span(Some(self.0.tracer.build_with_context(span, &parent)))
    }

    /// A publish, as the continuation of what its request says.
    pub(crate) fn publish(
        &self,
        system: &'static str,
        topic: &Name,
        messages: &[NewMessage],
        context: &TraceContext,
    ) -> Span {
        let parent = self.0.propagator.extract_with_context(&Context::new(), &Headers(context));
        let mut attributes = vec![
            KeyValue::new("messaging.system", system),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", topic.to_string()),
        ];
        match messages {
            [NewMessage { id: Some(id), .. }] => {
                attributes.push(KeyValue::new("messaging.message.id", id.clone()));
            }
            [_] => {}
            many => attributes.push(KeyValue::new("messaging.batch.message_count", whole(many.len()))),
        }
        let span = self.0.tracer.span_builder(format!("publish {topic}"));
        let span = span.with_kind(SpanKind::Producer).with_attributes(attributes);
        Span(Some(self.0.tracer.build_with_context(span, &parent)))
    }

    /// What goes on from a span.
    fn context(&self, span: &Span) -> TraceContext {
        let mut context = TraceContext::new();
        if let Some(span) = &span.0 {
            let current = Context::new().with_remote_span_context(span.span_context().clone());
            self.0.propagator.inject_context(&current, &mut Writer(&mut context));
        }
        context
    }
}

impl Span {
    /// No span.
    pub(crate) const NONE: Self = Self(None);

    /// Says what came of it; `error` is a word of few, `why` is for people.
    pub(crate) fn outcome(&mut self, outcome: &'static str, error: Option<(&'static str, &str)>) {
        let Some(span) = &mut self.0 else { return };
        span.set_attribute(KeyValue::new("brolly.outcome", outcome));
        if let Some((kind, why)) = error {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(why.to_owned()));
        }
    }
}

/// Gives what a handler publishes its place in the trace of the message that it came from. What the
/// handler itself has written stays.
pub(crate) fn hand_on(tracer: Option<&Tracer>, span: &Span, message: &Message, outgoing: &mut [Outgoing]) {
    if outgoing.is_empty() {
        return;
    }
    let context = match tracer {
        Some(tracer) => tracer.context(span),
        None => passed_on(&message.headers),
    };
    for outgoing in outgoing {
        complete(&mut outgoing.message, &context);
    }
}

/// Gives messages that are published their place in a trace.
pub(crate) fn begin(
    tracer: Option<&Tracer>,
    span: &Span,
    context: &TraceContext,
    messages: &mut [NewMessage],
) {
    let begun;
    let context = match tracer {
        Some(tracer) => {
            begun = tracer.context(span);
            &begun
        }
        None => context,
    };
    for message in messages {
        complete(message, context);
    }
}

fn passed_on(headers: &BTreeMap<String, String>) -> TraceContext {
    let Some(parent) = headers.get(TRACEPARENT) else { return TraceContext::new() };
    let mut context = TraceContext::from([(TRACEPARENT.to_owned(), parent.clone())]);
    if let Some(state) = headers.get(TRACESTATE) {
        context.insert(TRACESTATE.to_owned(), state.clone());
    }
    context
}

/// Adds a context to a message that has none, as long as its headers stay within their limits: a trace is
/// not worth a refused message.
fn complete(message: &mut NewMessage, context: &TraceContext) {
    if context.is_empty() || message.headers.contains_key(TRACEPARENT) {
        return;
    }
    let bytes = |headers: &BTreeMap<String, String>| -> usize {
        headers.iter().map(|(name, value)| name.len() + value.len()).sum()
    };
    let fits = message.headers.len() + context.len() <= limits::HEADERS
        && bytes(&message.headers) + bytes(context) <= limits::HEADER_BYTES;
    if fits {
        message.headers.extend(context.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

struct Headers<'a>(&'a BTreeMap<String, String>);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

struct Writer<'a>(&'a mut TraceContext);

impl Injector for Writer<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate says nothing.
        if !value.is_empty() {
            self.0.insert(key.to_owned(), value);
        }
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context() -> TraceContext {
        TraceContext::from([(TRACEPARENT.into(), PARENT.into()), (TRACESTATE.into(), "v=1".into())])
    }

    #[test]
    fn without_a_tracer_a_context_is_passed_on_as_it_is() {
        let mut messages = [NewMessage::default()];
        begin(None, &Span::NONE, &TraceContext::new(), &mut messages);
        assert!(messages[0].headers.is_empty(), "nothing is added where there is nothing");
        begin(None, &Span::NONE, &context(), &mut messages);
        assert_eq!(messages[0].headers, context());
        assert_eq!(passed_on(&messages[0].headers), context());
        assert!(passed_on(&TraceContext::from([(TRACESTATE.into(), "v=1".into())])).is_empty());
    }

    #[test]
    fn what_a_message_says_itself_stays() {
        let own = BTreeMap::from([(TRACEPARENT.to_owned(), "own".to_owned())]);
        let mut messages = [NewMessage { headers: own.clone(), ..NewMessage::default() }];
        begin(None, &Span::NONE, &context(), &mut messages);
        assert_eq!(messages[0].headers, own);
    }

    #[test]
    fn a_context_never_takes_a_message_over_its_limits() {
        let room = limits::HEADERS - context().len();
        let bytes: usize = context().iter().map(|(name, value)| name.len() + value.len()).sum();
        let left = limits::HEADER_BYTES - bytes - "0000".len();
        for (count, size, fits) in
            [(room, 1, true), (room + 1, 1, false), (1, left, true), (1, left + 1, false)]
        {
            let headers = (0..count).map(|at| (format!("{at:04}"), "v".repeat(size))).collect();
            let mut messages = [NewMessage { headers, ..NewMessage::default() }];
            begin(None, &Span::NONE, &context(), &mut messages);
            assert_eq!(messages[0].headers.contains_key(TRACEPARENT), fits, "{count} {size}");
            messages[0].check().unwrap();
        }
    }
}
