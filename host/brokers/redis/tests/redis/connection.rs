//! The way to the server: what cannot be used says why, what breaks is made again, nothing is lost by it.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use brolly_core::{Broker, BrokerDefinition, NewMessage, Order};
use serde_json::{Value as Json, json};

use crate::{
    host::{Host, ids, message, name, quick},
    server::Server,
};

fn wanted() -> Json {
    json!({
        "topics": {"t": {"address": "events"}, "l": {}},
        "queues": {"list": {}, "group": {"type": "stream"}},
        "routes": [["t", "group"], ["l", "list"]],
    })
}

/// Waits until the broker says why it is not connected.
fn why(definition: &Json) -> String {
    let host = Host::start_anyhow(definition, &wanted());
    host.until("it has failed", || host.broker.health().state.as_str() == "failed");
    let error = host.try_publish("l", [message("1", "", "x")]).unwrap_err().to_string();
    let detail = host.broker.health().detail.unwrap();
    assert!(error.contains(&detail), "{error}, {detail}");
    for text in [&error, &detail] {
        assert!(!text.contains("secret") && !text.contains("wrong-word"), "{text}");
    }
    assert!(host.try_consume("list", Order::None, 1).is_err());
    detail
}

#[test]
fn what_cannot_be_used_says_why_without_the_password() {
    let server = Server::with(&["--requirepass", "secret"]);
    let at = |url: String| json!({"kind": "redis", "url": url, "connect_timeout_ms": 2_000});
    let port = server.port;
    assert!(
        why(&at(format!("redis://:wrong-word@127.0.0.1:{port}")))
            .contains("refuses the user or the password")
    );
    assert!(
        why(&at(format!("redis://me:wrong-word@127.0.0.1:{port}")))
            .contains("refuses the user or the password")
    );
    assert!(why(&at(format!("redis://127.0.0.1:{port}"))).contains("refuses the user or the password"));
    assert!(why(&at(format!("redis://:secret@127.0.0.1:{port}/99"))).contains("database cannot be selected"));
    assert!(why(&at("redis://127.0.0.1:1".into())).contains("127.0.0.1:1 cannot be reached"));
    assert!(
        why(&at("redis://no-such-host.invalid".into())).contains("host no-such-host.invalid is not known")
    );
    assert!(why(&at(format!("rediss://:secret@127.0.0.1:{port}"))).contains("no answer within"));
    // A user who may do nothing of what is needed.
    server.ask::<String>(&["ACL", "SETUSER", "low", "on", ">secret", "+hello", "+ping", "~*"]);
    let host = Host::start_anyhow(&at(format!("redis://low:secret@127.0.0.1:{port}")), &wanted());
    host.until("it is connected", || host.broker.health().state.as_str() == "connected");
    let error = host.try_publish("l", [message("1", "", "x")]).unwrap_err().to_string();
    assert!(error.contains("may not do that"), "{error}");
    let trouble = host.broker.trouble(brolly_core::Thing::Queue(&name("list"))).unwrap();
    assert!(trouble.contains("may not do that"), "{trouble}");
}

#[test]
fn replicas_and_clusters_are_told_apart() {
    let replica = Server::with(&["--replicaof", "127.0.0.1", "1"]);
    assert!(why(&replica.definition(json!({}))).contains("replica"));
    let cluster = Server::with(&["--cluster-enabled", "yes"]);
    assert!(why(&cluster.definition(json!({}))).contains("Cluster"));
}

#[test]
fn what_messages_are_exposed_to_shows_and_follows_the_server() {
    let server = Server::with(&["--maxmemory-policy", "allkeys-lru"]);
    let host = Host::start(&server, json!({}), &wanted());
    let detail = || host.broker.health().detail.unwrap_or_default();
    assert!(
        detail().contains("maxmemory-policy is allkeys-lru") && detail().contains("persistence is off"),
        "{}",
        detail()
    );
    assert!(
        host.broker
            .health()
            .server
            .is_some_and(|server| server.starts_with("Redis ") || server.starts_with("Valkey "))
    );
    server.ask::<String>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.ask::<String>(&["CONFIG", "SET", "appendonly", "yes"]);
    host.until("it is seen", || detail().is_empty());
}

#[test]
fn a_definition_is_checked_without_a_server() {
    let check = |json: Json| brolly_redis::check(&serde_json::from_value::<BrokerDefinition>(json).unwrap());
    assert!(check(json!({"kind": "redis", "url": "redis://nowhere.invalid/2", "block_ms": 500})).is_ok());
    assert!(check(json!({"kind": "redis", "url": "redis://nowhere.invalid", "blok_ms": 500})).is_err());
}

/// Publishes and handles while `trouble` happens; each message is handled once, no id is missing.
fn survives(server: &mut Server, trouble: impl Fn(&mut Server, usize)) {
    let host = Host::start(server, quick(), &wanted());
    for queue in ["list", "group"] {
        let topic = if queue == "list" { "l" } else { "t" };
        let mut published = 0;
        let mut handled: BTreeSet<String> = BTreeSet::new();
        for round in 0..3 {
            while published < (round + 1) * 200 {
                let next = published + 50;
                let batch = (published..next).map(|number| message(&format!("{queue}-{number}"), "", "x"));
                // A publish that was not confirmed is tried again with the same ids.
                if host.try_publish(topic, batch).is_ok() {
                    published = next;
                }
            }
            let mut taking = host.consume(queue, Order::None, 64);
            let mut failed = false;
            while handled.len() < (round + 1) * 200 - 30 {
                let source = taking.source.clone();
                match host.run(async { source.ready().await }) {
                    Ok(()) => {}
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        failed = true;
                        taking.source.close();
                        taking = host.consume(queue, Order::None, 64);
                        continue;
                    }
                }
                while let Some(delivery) = taking.source.take().unwrap() {
                    // What the ledger does: a message that is decided is settled again and not handled.
                    handled.insert(delivery.message.id.clone());
                    taking.ack(delivery.lease);
                }
                if handled.len() > round * 200 + 40 && !failed {
                    trouble(server, round);
                    host.until("it is noticed", || {
                        host.run(async {
                            tokio::time::timeout(Duration::from_millis(1), taking.source.ready())
                                .await
                                .is_ok_and(|ready| ready.is_err())
                        })
                    });
                }
            }
            taking.source.close();
        }
        let taking = host.consume(queue, Order::None, 64);
        while handled.len() < published {
            let delivery = host.next(&taking);
            handled.insert(delivery.message.id.clone());
            taking.ack(delivery.lease);
        }
        host.until("all is settled", || {
            while let Some(delivery) = taking.source.take().unwrap() {
                assert!(handled.contains(&delivery.message.id));
                taking.ack(delivery.lease);
            }
            host.try_counts(queue).is_ok_and(|counts| counts == [Some(0), Some(0), Some(0)])
        });
        taking.source.close();
    }
}

#[test]
fn connections_that_are_closed_are_made_again() {
    let mut server = Server::start();
    survives(&mut server, |server, _| assert!(server.kill_clients("normal") >= 3));
}

#[test]
fn a_crash_of_the_server_is_survived() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    survives(&mut server, |server, _| {
        server.kill();
        server.revive();
    });
}

#[test]
fn equal_plain_payloads_are_each_one_message_through_every_crash() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let wanted = json!({"queues": {"old": {"address": "orders:list", "adopt": true}}});
    server.push("orders:list", vec!["same"; 400]);
    let mut handled: BTreeSet<String> = BTreeSet::new();
    for round in 0..8 {
        let host = Host::start(&server, quick(), &wanted);
        let taking = host.consume("old", Order::None, 60);
        let mut left = Vec::new();
        for number in 0..40 {
            let delivery = host.next(&taking);
            handled.insert(delivery.message.id.clone());
            match number % 4 {
                0 => left.push(delivery.lease),
                1 => taking.retry(delivery.lease, 1, 1),
                _ => taking.ack(delivery.lease),
            }
        }
        match round % 4 {
            0 => host.kill(),
            2 => {
                server.kill();
                server.revive();
                host.kill();
            }
            closing => {
                if closing == 1 {
                    server.kill_clients("normal");
                    host.until_failed(&taking);
                }
                left.into_iter().for_each(|lease| taking.source.give_back(lease, Duration::ZERO));
                host.close();
            }
        }
    }
    let host = Host::start(&server, quick(), &wanted);
    let taking = host.consume("old", Order::None, 60);
    while handled.len() < 400 || host.counts("old") != [Some(0); 3] {
        if let Some(delivery) = taking.source.take().unwrap() {
            handled.insert(delivery.message.id.clone());
            taking.ack(delivery.lease);
        }
    }
    assert_eq!(handled.len(), 400);
}

#[test]
fn workers_survive_a_server_that_was_away_for_longer_than_they_may_be_silent() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (one, other) = (Host::start(&server, quick(), &wanted()), Host::start(&server, quick(), &wanted()));
    one.publish("l", (0..2).map(|number| message(&number.to_string(), "", "x")));
    let taking = one.consume("list", Order::None, 1);
    let held = one.next(&taking);
    server.kill();
    assert!(one.until_failed(&taking).contains("connection is lost"));
    std::thread::sleep(Duration::from_secs(2));
    server.revive();
    // Its next worker takes over from its last one; what is still handled waits for its end.
    taking.source.close();
    let taking = one.consume("list", Order::None, 2);
    let next = one.next(&taking);
    assert_ne!(next.message.id, held.message.id);
    taking.ack(next.lease);
    taking.ack(held.lease);
    let again = one.next(&taking);
    assert_eq!(again.message.id, held.message.id);
    taking.ack(again.lease);
    other.until("all is settled", || other.broker.health().state.as_str() == "connected");
    other.until_counts("list", [0, 0, 0]);
}

#[test]
fn messages_that_handlers_publish_wait_for_the_server() {
    let mut server = Server::start();
    let host = Host::start(&server, quick(), &wanted());
    server.kill();
    host.until("it is noticed", || host.broker.health().state.as_str() == "failed");
    assert!(host.try_publish("l", [message("1", "", "x")]).is_err());
    server.revive();
    host.until("it is back", || host.broker.health().state.as_str() == "connected");
    host.publish("l", [message("1", "", "x"), NewMessage { delay_ms: Some(1), ..message("2", "", "y") }]);
    let taking = host.consume("list", Order::None, 10);
    let mut both: Vec<String> =
        host.many(&taking, 2).iter().map(|delivery| delivery.message.id.clone()).collect();
    both.sort_unstable();
    assert_eq!(both, ["1", "2"]);
}

/// Passes bytes between clients and a server, until it is told to swallow them.
struct Hole {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Hole {
    fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port);
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = swallows.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                for (from, to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let swallowing = swallowing.clone();
                    std::thread::spawn(move || pass(from, to, &swallowing));
                }
            }
        });
        Self { port, swallows }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut buffer = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        // What is swallowed never comes, even when the way is free again, as with a lost route.
        if !swallows.load(Ordering::Relaxed) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_on_which_nothing_comes_any_more_is_given_up_in_time() {
    let server = Server::start();
    let hole = Hole::before(&server);
    let definition = json!({"kind": "redis", "url": format!("redis://127.0.0.1:{}", hole.port)});
    let host = Host::start_anyhow(&definition, &wanted());
    host.until("it is connected", || host.broker.health().state.as_str() == "connected");
    let idle = host.consume("list", Order::None, 10);
    host.publish("t", [message("1", "", "x")]);
    let busy = host.consume("group", Order::None, 1);
    let held = host.next(&busy);
    let began = Instant::now();
    hole.swallows.store(true, Ordering::Relaxed);
    for taking in [&idle, &busy] {
        assert!(host.until_failed(taking).contains("no answer within"));
        // 5 s with the default settings, and what a busy machine takes.
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    }
    host.until("it is noticed", || host.broker.health().state.as_str() == "failed");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    hole.swallows.store(false, Ordering::Relaxed);
    host.until("it is connected", || host.broker.health().state.as_str() == "connected");
    busy.source.close();
    busy.ack(held.lease);
    let busy = host.consume("group", Order::None, 1);
    assert_eq!(ids(&[host.next(&busy)]), ["1"], "nobody has told the server; the ledger knows it");
}

#[test]
fn an_encrypted_connection_needs_the_right_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=redis",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .output()
        .expect("openssl makes a certificate (Debian: apt-get install openssl)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, key, certificate) = (tls.to_string(), path("key.pem"), path("cert.pem"));
    let _server = Server::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let at = |settings: Json| {
        let mut definition = json!({"kind": "redis", "url": format!("rediss://127.0.0.1:{tls}")});
        definition.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        definition
    };
    let pem = std::fs::read_to_string(&certificate).unwrap();
    for settings in [json!({"ca_pem": pem}), json!({"ca_file": certificate})] {
        let host = Host::start_anyhow(&at(settings), &wanted());
        host.until("it is connected", || host.broker.health().state.as_str() == "connected");
        host.publish("l", [message("1", "", "x")]);
        let taking = host.consume("list", Order::None, 1);
        taking.ack(host.next(&taking).lease);
    }
    assert!(why(&at(json!({}))).contains("no TLS connection"));
    assert!(why(&at(json!({"ca_file": path("none.pem")}))).contains("none.pem cannot be read"));
    assert!(why(&at(json!({"ca_pem": "no pem"}))).contains("no certificate"));
}
