//! Requests: to whom, how many, how large, how long; and every way to reach somebody else.

use std::net::{IpAddr, Ipv6Addr};

use brolly_capture::{CapturedAnswer, Read};
use brolly_tests::web::Web;
use serde_json::{Value, json};

use super::{NoState, Rig, Run, attempt};

/// A subscription that sends a request to `url` and may do so to `hosts`.
fn asks(url: &str, hosts: &[String], grant: Value, config: Value) -> Value {
    let mut http = json!({"hosts": hosts, "private": true});
    http.as_object_mut().unwrap().extend(grant.as_object().unwrap().clone());
    let mut all = json!({"mode": "request", "url": url, "topic": "out"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    json!({"config": all, "grants": {"http": http}})
}

fn none() -> Value {
    json!({})
}

/// The exchanges that an attempt had: bytes of the request, and of the answer.
fn sizes(run: &Run) -> Vec<(usize, usize)> {
    let exchanges = run.capture.reads.iter().filter_map(|read| match read {
        Read::Http { request, answer } => Some((request, answer)),
        _ => None,
    });
    let pairs = |pairs: &[(String, brolly_capture::Blob)]| -> usize {
        pairs.iter().map(|(name, value)| name.len() + value.0.len()).sum()
    };
    exchanges
        .map(|(request, answer)| {
            let path = &request.url[request.url.rfind(':').unwrap()..];
            let path = path.find('/').map_or(1, |at| path.len() - at);
            let answered = match answer {
                CapturedAnswer::Response { headers, body, .. } => pairs(headers) + body.0.len(),
                _ => 0,
            };
            (path + pairs(&request.headers) + request.body.0.len(), answered)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_host_is_reached_with_the_key_of_the_delivery() {
    let (rig, web) = (Rig::new(), Web::start().await);
    let hosts = [web.address.to_string()];
    let run = rig.run("hostile", &asks(&web.url("/ok?a=b"), &hosts, none(), none()));
    assert_eq!(run.told(), "200\n\nhello");
    let own = json!({"header": "Idempotency-Key: s/in/m1/refund", "method": "POST", "bytes": "5000"});
    rig.run("hostile", &asks(&web.url("/ok"), &hosts, none(), own)).is("ack", "");
    let asked = web.asked();
    assert_eq!(asked.len(), 2, "making an attempt again from its capture sends nothing");
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("GET", "/ok?a=b"));
    assert_eq!(asked[0].headers["idempotency-key"], "s/in/m0");
    assert_eq!(asked[0].headers["host"], web.address.to_string());
    assert_eq!((asked[1].method.as_str(), asked[1].body), ("POST", 5_000));
    assert_eq!(asked[1].headers["idempotency-key"], "s/in/m1/refund", "the handler's own is kept");
    let missing = rig.run("hostile", &asks(&web.url("/nowhere"), &hosts, none(), none()));
    assert_eq!(missing.told().lines().next(), Some("404"), "any status is an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_reached() {
    let (rig, web, other) = (Rig::new(), Web::start().await, Web::start().await);
    let hosts = [web.address.to_string(), "*.example.com".to_owned()];
    let unlisted = asks(&other.url("/ok"), &hosts, none(), none());
    let wanted = format!(
        "not granted: to send requests to {} (\"{}\" in grants.http.hosts",
        other.url(""),
        other.address
    );
    rig.run("hostile", &unlisted).is("fault", &wanted);
    let ungranted = json!({"config": {"mode": "request", "url": web.url("/ok")}});
    rig.run("hostile", &ungranted)
        .is("fault", "not granted: to send requests (grants.http of the subscription s)");

    // A redirect is an answer; nobody follows it, and its target is a host like any other.
    let redirect =
        asks(&web.url(&format!("/to/{}", other.url("/ok"))), &hosts, none(), json!({"show": "location"}));
    assert_eq!(rig.run("hostile", &redirect).told(), format!("302\n{}\n", other.url("/ok")));
    assert!(other.asked().is_empty(), "{:?}", other.asked());
}

/// Ways to write the address of a server on this machine.
fn tricks(port: u16) -> Vec<String> {
    [
        "127.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.1",
        "127.0.1",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "0",
        "[::]",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ]
    .map(|host| format!("{host}:{port}"))
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_private_address_leads_there() {
    let (rig, web) = (Rig::new(), Web::start().await);
    let public_only = json!({"private": false});
    for host in tricks(web.address.port()) {
        let url = format!("http://{host}/ok");
        // Not listed: another name is another host.
        let unlisted = asks(&url, &["example.com".to_owned()], none(), none());
        let run = rig.run("hostile", &unlisted);
        assert_ne!(run.happened.outcome, "ack", "{url}");
        // Listed, but it lies on this machine.
        let Ok(rule) = brolly_core::HttpTarget::parse(false, &host) else { continue };
        let listed = asks(&url, &[rule.rule()], public_only.clone(), none());
        let run = rig.run("hostile", &listed);
        assert_eq!(run.happened.outcome, "fault", "{url}: {:?}", run.happened);
        let reason = run.happened.reason.clone().unwrap();
        let is_said =
            reason.contains("grants.http.private") || reason.contains("leads to nobody in particular");
        assert!(is_said, "{url}: {reason}");
    }
    let port = web.address.port();
    for url in [
        format!("http://example.com@127.0.0.1:{port}/ok"),
        format!("http://127.0.0.1:{port}\\@example.com/ok"),
        format!("http://127.0.0.1:{port}#@example.com/ok"),
        format!("http://127.0.0.1:{port}?@example.com/ok"),
        format!("http://example.com:{port}@127.0.0.1:{port}/ok"),
        format!("http://127.0.0.1%2fexample.com:{port}/ok"),
        format!("ftp://127.0.0.1:{port}/ok"),
        format!("//127.0.0.1:{port}/ok"),
    ] {
        let run = rig.run("hostile", &asks(&url, &["example.com".to_owned()], none(), none()));
        assert_ne!(run.happened.outcome, "ack", "{url}");
    }
    assert!(web.asked().is_empty(), "{:?}", web.asked());

    // With `private`, a listed name and a listed address are reached, and no other.
    let by_name =
        asks(&format!("http://localhost:{port}/ok"), &[format!("localhost:{port}")], none(), none());
    rig.run("hostile", &by_name).is("ack", "");
    let nobody = asks(&format!("http://0.0.0.0:{port}/ok"), &[format!("0.0.0.0:{port}")], none(), none());
    rig.run("hostile", &nobody).is("fault", "leads to nobody in particular");
    if let Some(web) = Web::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST)).await {
        let host = web.address.to_string();
        rig.run("hostile", &asks(&web.url("/ok"), std::slice::from_ref(&host), none(), none())).is("ack", "");
        let refused = asks(&web.url("/ok"), &[host], public_only, none());
        rig.run("hostile", &refused).is("fault", "grants.http.private");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_and_measured() {
    let (rig, web) = (Rig::new(), Web::start().await);
    let hosts = [web.address.to_string()];
    let run = |url: &str, grant: Value, config: Value| rig.run("hostile", &asks(url, &hosts, grant, config));
    let two = || json!({"count": "2"});
    run(&web.url("/ok"), json!({"requests": 2}), two()).is("ack", "");
    run(&web.url("/ok"), json!({"requests": 1}), two())
        .is("fault", "over its limit: 2 requests, the limit is 1 (grants.http.requests)");

    let body = || json!({"method": "POST", "bytes": "3000", "count": "2"});
    let free = run(&web.url("/bytes/700"), none(), body());
    let sum = sizes(free.is("ack", "")).into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(sum.0 > 6_000 && sum.1 > 1_400, "{sum:?}");
    // Keys of deliveries are of the same length here, and so are dates.
    run(&web.url("/bytes/700"), json!({"request_bytes": sum.0}), body()).is("ack", "");
    run(&web.url("/bytes/700"), json!({"request_bytes": sum.0 - 1}), body())
        .is("fault", "(grants.http.request_bytes)");
    run(&web.url("/bytes/700"), json!({"response_bytes": sum.1}), body()).is("ack", "");
    run(&web.url("/bytes/700"), json!({"response_bytes": sum.1 - 1}), body())
        .is("fault", "(grants.http.response_bytes)");
    run(&web.url("/bytes/3000000"), none(), none())
        .is("fault", "the limit is 1048576 (grants.http.response_bytes)");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_is_told_and_one_that_comes_late_is_not_waited_for() {
    let (rig, web) = (Rig::new(), Web::start().await);
    let hosts = [web.address.to_string(), "127.0.0.1:1".to_owned(), "nobody.invalid".to_owned()];
    let run = |url: &str, grant: Value, config: Value| rig.run("hostile", &asks(url, &hosts, grant, config));
    run(&web.url("/slow/20"), json!({"time_ms": 5_000}), none()).is("ack", "");
    let late = run(&web.url("/slow/5000"), json!({"time_ms": 50}), none());
    late.is("retry", "no answer to a request: ErrorCode::HttpResponseTimeout");
    assert!(late.logs()[0].contains("no whole answer within 50 ms"), "{:?}", late.logs());
    run(&web.url("/slow/5000"), none(), json!({"timeout_ms": "50"})).is("retry", "HttpResponseTimeout");
    let mut soon = asks(&web.url("/slow/5000"), &hosts, none(), none());
    soon["limits"] = json!({"time_ms": 100});
    rig.run_once("hostile", &soon).is("fault", "(limits.time_ms)");

    let closed = run("http://127.0.0.1:1/", none(), none());
    closed.is("retry", "ConnectionRefused");
    assert!(closed.logs()[0].starts_with("Warn GET http://127.0.0.1:1/: "), "{:?}", closed.logs());
    run("https://nobody.invalid/", none(), none()).is("retry", "DnsError");
    let plain = format!("https://{}/ok", web.address);
    run(&plain, none(), none()).is("retry", "no answer to a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_used_again_sends_as_much_each_time() {
    let (rig, web) = (Rig::new(), Web::start().await);
    let mut more = asks(&web.url("/ok"), &[web.address.to_string()], json!({"requests": 1}), none());
    more["instances"] = json!("reuse");
    let (handler, _) = rig.handler("hostile", &more);
    for number in 0..3 {
        let handled = tokio::task::block_in_place(|| attempt(&*handler, number, &NoState, &rig.outside));
        assert_eq!(handled.effects.publish.len(), 1, "{:?}", handled.verdict);
    }
    let keys: Vec<_> = web.asked().iter().map(|asked| asked.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys, ["s/in/m0", "s/in/m1", "s/in/m2"]);
}
