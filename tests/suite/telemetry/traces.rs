//! Traces end to end: from the producer's context over the attempt to what its handler published, whichever
//! broker lies between, as a collector sees it. And nothing of it where nobody wants it.

use std::{collections::BTreeMap, path::Path};

use brolly_tests::{
    collector::Collector,
    eventually,
    rabbit::Rabbit,
    redis::RedisServer,
    server::{PATIENCE, Server, plugin_bytes},
    skip,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as Attribute,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PRODUCER: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sampled() -> String {
    format!("00-{TRACE}-{PRODUCER}-01")
}

/// The spans that have come, by name.
fn spans(collector: &Collector) -> BTreeMap<String, Vec<Span>> {
    let mut found: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for body in collector.bodies() {
        for resource in ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let value = service.value.clone().unwrap().value.unwrap();
            assert_eq!(value, Attribute::StringValue("brolly".to_owned()));
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                found.entry(span.name.clone()).or_default().push(span);
            }
        }
    }
    found
}

/// The only span of this name in a trace, once it has come.
async fn span(collector: &Collector, name: &str, trace: &str) -> Span {
    eventually(&format!("the span {name} of {trace} comes"), PATIENCE, || {
        let spans = spans(collector).remove(name).unwrap_or_default();
        let of: Vec<Span> = spans.into_iter().filter(|span| hex(&span.trace_id) == trace).collect();
        assert!(of.len() <= 1, "{name} is there {} times", of.len());
        std::future::ready(of.into_iter().next())
    })
    .await
}

/// What a span says under a name, as text.
fn said(span: &Span, name: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.clone()?.value? {
        Attribute::StringValue(text) => Some(text),
        Attribute::IntValue(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

#[track_caller]
fn check(span: &Span, kind: SpanKind, parent: &str, attributes: &[(&str, &str)]) {
    assert_eq!(span.kind(), kind, "{}", span.name);
    assert_eq!(hex(&span.parent_span_id), parent, "the parent of {}", span.name);
    for (name, value) in attributes {
        assert_eq!(said(span, name).as_deref(), Some(*value), "{name} of {}", span.name);
    }
}

/// A host that sends its traces to a collector, soon.
async fn traced(data: &Path, collector: &Collector, sampling: &str) -> Server {
    let settings = [
        ("BROLLY_TELEMETRY__OTLP__ENDPOINT", &*collector.url),
        ("BROLLY_TELEMETRY__OTLP__SAMPLING", sampling),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    Server::start_with(data, &[], &settings).await
}

/// The topic `t`, whose handler publishes what it gets to `next`, whose handler acknowledges.
async fn relay(server: &Server) {
    let topic = server.home.get("broker").map_or(json!({}), |broker| json!({"broker": broker}));
    for name in ["t", "next"] {
        server.put(&format!("/topics/{name}"), topic.clone()).await;
    }
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let echo = json!({"config": {"mode": "echo", "topic": "next"}});
    server.subscribe("first", "t", "hostile", &version, echo).await;
    server.subscribe("second", "next", "hostile", &version, json!({"config": {"mode": "ok"}})).await;
}

async fn publish(server: &Server, id: &str, traceparent: Option<&str>) {
    let mut request = server.request(Method::POST, "/topics/t/messages").query(&[("id", id)]);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent).header("tracestate", "shop=1");
    }
    server.send(request.body("{}")).await.ok();
}

/// The headers of the message that the handler of this one published.
async fn headers_of_child(server: &Server, id: &str) -> Value {
    eventually(&format!("the child of {id}"), PATIENCE, || async {
        let children = server.all("/messages?topic=next").await;
        for child in children {
            let child = server.get(&format!("/messages/{}", child["id"].as_str()?.replace('/', "%2F"))).await;
            if child["message"]["parent"]["id"] == id {
                return Some(child["message"]["headers"].clone());
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_producer_to_what_its_message_led_to() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = traced(dir.path(), &collector, "1.0").await;
    relay(&server).await;
    publish(&server, "m1", Some(&sampled())).await;
    server.idle(&["first", "second"]).await;

    let published = span(&collector, "publish t", TRACE).await;
    let system = ("messaging.system", "brolly");
    let by_name = ("messaging.destination.name", "t");
    let sent = [system, by_name, ("messaging.operation.type", "send"), ("messaging.message.id", "m1")];
    check(&published, SpanKind::Producer, PRODUCER, &sent);
    let first = span(&collector, "process first", TRACE).await;
    let of_first = [
        system,
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "process"),
        ("messaging.destination.name", "first"),
        ("messaging.destination_publish.name", "t"),
        ("messaging.consumer.group.name", "first"),
        ("messaging.message.id", "m1"),
        ("messaging.message.body.size", "2"),
        ("brolly.attempt", "1"),
        ("brolly.outcome", "ack"),
    ];
    check(&first, SpanKind::Consumer, &hex(&published.span_id), &of_first);
    assert_eq!(first.trace_state, "shop=1");
    let second = span(&collector, "process second", TRACE).await;
    check(&second, SpanKind::Consumer, &hex(&first.span_id), &[("messaging.destination.name", "second")]);
    let expect =
        json!({"traceparent": format!("00-{TRACE}-{}-01", hex(&first.span_id)), "tracestate": "shop=1"});
    assert_eq!(headers_of_child(&server, "m1").await, expect);

    // A line of a bulk publish may have a place of its own; who has none begins a trace.
    let own = "4bf92f3577b34da6a3ce929d0e0e4736";
    let line = |id: &str, headers: Value| json!({"id": id, "payload": 1, "headers": headers}).to_string();
    let with = line("m2", json!({"traceparent": format!("00-{own}-00f067aa0ba902b7-01")}));
    server.bulk("t", format!("{with}\n{}\n", line("m3", json!({})))).await.unwrap().ok();
    server.idle(&["first", "second"]).await;
    check(&span(&collector, "process first", own).await, SpanKind::Consumer, "00f067aa0ba902b7", &[]);
    let begun = eventually("the bulk publish comes", PATIENCE, || {
        let all = spans(&collector).remove("publish t").unwrap_or_default();
        std::future::ready(all.into_iter().find(|span| hex(&span.trace_id) != TRACE))
    })
    .await;
    check(&begun, SpanKind::Producer, "", &[("messaging.batch.message_count", "2")]);
    let third = span(&collector, "process first", &hex(&begun.trace_id)).await;
    check(&third, SpanKind::Consumer, &hex(&begun.span_id), &[("messaging.message.id", "m3")]);

    // What nobody samples is not sent, and is passed on as such.
    let quiet = "11111111111111111111111111111111";
    publish(&server, "m4", Some(&format!("00-{quiet}-{PRODUCER}-00"))).await;
    let headers = headers_of_child(&server, "m4").await;
    let passed = headers["traceparent"].as_str().unwrap();
    assert!(passed.starts_with(&format!("00-{quiet}-")) && passed.ends_with("-00"), "{passed}");
    assert_eq!(server.terminate().await, Some(0));
    let all = spans(&collector);
    assert!(all.values().flatten().all(|span| hex(&span.trace_id) != quiet), "{all:?}");
    assert_eq!(all["process second"].len(), 3, "at the end everything was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_is_a_span_that_says_what_became_of_it() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = traced(dir.path(), &collector, "0.0").await;
    server.put("/topics/t", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1});
    let more = json!({"config": {"mode": "trap"}, "retry": retry});
    server.subscribe("bad", "t", "hostile", &version, more).await;
    // With no sampling of our own, only traces that others sample.
    publish(&server, "m1", None).await;
    publish(&server, "m2", Some(&sampled())).await;
    server.idle(&["bad"]).await;
    assert_eq!(server.terminate().await, Some(0));
    let mut attempts = spans(&collector).remove("process bad").unwrap();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    let told = attempts.iter().map(|span| {
        let status = span.status.clone().unwrap();
        assert!(status.message.contains("trap"), "{status:?}");
        assert_eq!(hex(&span.trace_id), TRACE);
        let of = |name: &str| said(span, name).unwrap();
        (of("brolly.attempt"), of("brolly.outcome"), of("error.type"), status.code)
    });
    let expect =
        |attempt: &str, outcome: &str| (attempt.to_owned(), outcome.to_owned(), "fault".to_owned(), 2);
    assert_eq!(told.collect::<Vec<_>>(), [expect("1", "retry"), expect("2", "dead_letter")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_nothing_is_added_and_what_there_is_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    relay(&server).await;
    publish(&server, "m1", None).await;
    publish(&server, "m2", Some(&sampled())).await;
    assert_eq!(headers_of_child(&server, "m1").await, json!({}));
    let expect = json!({"traceparent": sampled(), "tracestate": "shop=1"});
    assert_eq!(headers_of_child(&server, "m2").await, expect);
    assert_eq!(server.get("/messages/m1").await["message"]["headers"], json!({}));
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        [("BROLLY_TELEMETRY__OTLP__ENDPOINT", "http://127.0.0.1:9"), ("OTEL_BSP_SCHEDULE_DELAY", "10")];
    let server = Server::start_with(dir.path(), &[], &settings).await;
    relay(&server).await;
    for at in 0..200 {
        publish(&server, &format!("m{at}"), None).await;
    }
    server.idle(&["first", "second"]).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// Over a broker elsewhere, both on the way in and between the handlers.
async fn over(kind: &str, system: &str, definition: Value, home: Value) {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let mut server = traced(dir.path(), &collector, "1.0").await;
    server.put("/brokers/far", definition).await;
    brolly_tests::flow::broker_is(&server, "far", "connected").await;
    server.home = home;
    relay(&server).await;
    publish(&server, "m1", Some(&sampled())).await;
    let published = span(&collector, "publish t", TRACE).await;
    check(&published, SpanKind::Producer, PRODUCER, &[("messaging.system", system)]);
    let first = span(&collector, "process first", TRACE).await;
    check(&first, SpanKind::Consumer, &hex(&published.span_id), &[("messaging.system", system)]);
    let second = span(&collector, "process second", TRACE).await;
    check(&second, SpanKind::Consumer, &hex(&first.span_id), &[("messaging.system", system)]);
    assert_eq!(server.terminate().await, Some(0), "{kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_over_rabbitmq() {
    if let Err(why) = Rabbit::available() {
        return skip("traces over RabbitMQ", &why);
    }
    let rabbit = Rabbit::start().await;
    let vhost = rabbit.vhost().await;
    over("amqp", "rabbitmq", json!({"kind": "amqp", "url": vhost.url}), json!({"broker": "far"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_over_redis() {
    if let Err(why) = RedisServer::available() {
        return skip("traces over Redis", &why);
    }
    let redis = RedisServer::start().await;
    for kind in ["list", "stream"] {
        redis.cli(&["FLUSHALL"]).await;
        let definition = json!({"kind": "redis", "url": redis.url()});
        over(kind, "redis", definition, json!({"broker": "far", "type": kind})).await;
    }
}
