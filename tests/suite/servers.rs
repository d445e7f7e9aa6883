//! The servers that tests start for themselves: they start, survive what tests do to them, and leave
//! nothing behind.

use std::{fs, io, path::Path, time::Duration};

use brolly_tests::{
    eventually,
    proxy::Proxy,
    python::Python,
    rabbit::{self, Options, QueueCount, Rabbit},
    redis::{self, RedisServer},
    skip,
};
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the test can run; if not, that is noted.
fn can(what: &str, available: Result<(), String>) -> bool {
    available.inspect_err(|why| skip(what, why)).is_ok()
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

async fn declare(connection: &Connection, queue: &str, kind: &'static str) -> lapin::Channel {
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

async fn publish(channel: &lapin::Channel, queue: &str) -> Confirmation {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), queue.into(), options, b"m", persistent).await.unwrap();
    sent.await.unwrap()
}

fn count(name: &str, kind: &str, ready: u64, unacked: u64) -> QueueCount {
    QueueCount { name: name.into(), kind: kind.into(), ready, unacked }
}

async fn expect_queues(rabbit: &Rabbit, vhost: &str, expect: &[QueueCount]) {
    eventually(&format!("the queues are {expect:?}"), PATIENCE, || async {
        (rabbit.queues(vhost).await == expect).then_some(())
    })
    .await;
}

/// The processes that were started with this folder in their environment or arguments.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let numbers = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let knows = |process: &Path, file: &str| {
        fs::read(process.join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(folder))
    };
    numbers
        .map(|entry| entry.path())
        .filter(|process| knows(process, "environ") || knows(process, "cmdline"))
        .map(|process| fs::read_to_string(process.join("comm")).unwrap_or_default())
        .collect()
}

async fn expect_nothing_left(folder: &Path) {
    eventually(&format!("nothing is left of {}", folder.display()), PATIENCE, || {
        let gone = processes_of(folder).is_empty() && !folder.exists();
        std::future::ready(gone.then_some(()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbit_keeps_what_is_durable_and_leaves_nothing_behind() {
    if !can("RabbitMQ that stops and starts", Rabbit::available()) {
        return;
    }
    let rabbit = Rabbit::start().await;
    let connection = connect(&rabbit.url()).await;
    for (queue, kind) in [("c", "classic"), ("q", "quorum")] {
        let channel = declare(&connection, queue, kind).await;
        assert_eq!(publish(&channel, queue).await, Confirmation::Ack(None));
    }
    let expect = [count("c", "classic", 1, 0), count("q", "quorum", 1, 0)];
    expect_queues(&rabbit, "/", &expect).await;

    rabbit.kill().await;
    expect_cut_off(&connection).await;
    assert!(Connection::connect(&rabbit.url(), ConnectionProperties::default()).await.is_err());
    rabbit.start_again().await;
    expect_queues(&rabbit, "/", &expect).await;

    rabbit.stop().await;
    rabbit.start_again().await;
    let channel = connect(&rabbit.url()).await.create_channel().await.unwrap();
    let _consumer = channel
        .basic_consume("q".into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap();
    expect_queues(&rabbit, "/", &[count("c", "classic", 1, 0), count("q", "quorum", 0, 1)]).await;

    let folder = rabbit.folder().to_owned();
    assert!(processes_of(&folder).len() >= 3, "server, port mapper, keeper: {:?}", processes_of(&folder));
    drop(rabbit);
    expect_nothing_left(&folder).await;
}

async fn expect_cut_off(connection: &Connection) {
    eventually("the client sees that it is cut off", PATIENCE, || {
        std::future::ready((!connection.status().connected()).then_some(()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbit_closes_connections_and_blocks_publishers() {
    if !can("RabbitMQ that closes and blocks", Rabbit::available()) {
        return;
    }
    let rabbit = Rabbit::start().await;
    let connection = connect(&rabbit.url()).await;
    let channel = declare(&connection, "q", "classic").await;

    rabbit.memory_alarm(true).await;
    let sent = tokio::spawn(async move { publish(&channel, "q").await });
    eventually("the publisher is blocked", PATIENCE, || {
        std::future::ready(connection.status().blocked().then_some(()))
    })
    .await;
    assert!(!sent.is_finished());
    rabbit.memory_alarm(false).await;
    assert_eq!(sent.await.unwrap(), Confirmation::Ack(None));

    rabbit.close_all_connections("go away").await;
    expect_cut_off(&connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_rabbit_keeps_tests_apart() {
    if !can("RabbitMQ that tests share", Rabbit::available()) {
        return;
    }
    let rabbit = rabbit::shared().await;
    let (one, other) = (rabbit.vhost().await, rabbit.vhost().await);
    let connections = [connect(&one.url).await, connect(&other.url).await];
    declare(&connections[0], "q", "quorum").await;
    assert_eq!(rabbit.queues(&one.name).await, [count("q", "quorum", 0, 0)]);
    assert_eq!(rabbit.queues(&other.name).await, []);
    rabbit.close_connections(&one.name, "go away").await;
    expect_cut_off(&connections[0]).await;
    assert!(connections[1].status().connected());
    let url = rabbit::plain("a plain RabbitMQ").await.unwrap();
    let channel = declare(&connect(&url).await, "brolly-plain-test", "classic").await;
    channel.queue_delete("brolly-plain-test".into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbit_has_tls_and_management() {
    if !can("RabbitMQ with TLS and management", Rabbit::available()) {
        return;
    }
    let rabbit = Rabbit::with(Options {
        tls: true,
        management: true,
        memory_high_watermark: Some(0.5),
        ..Options::default()
    })
    .await;
    let tls = OwnedTLSConfig { identity: None, cert_chain: Some(rabbit.ca_pem()) };
    let url = rabbit.tls_url();
    let connection = Connection::connect_with_config(
        &url,
        ConnectionProperties::default(),
        tls,
        lapin::runtime::default_runtime().unwrap(),
    )
    .await
    .unwrap();
    declare(&connection, "q", "quorum").await;
    let untrusting = Connection::connect(&url, ConnectionProperties::default()).await;
    assert!(untrusting.is_err(), "the certificate is known to nobody else");

    let url = format!("{}/api/queues/%2f/q", rabbit.management_url());
    let queue: serde_json::Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    assert_eq!(queue["type"], "quorum", "{queue}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_what_it_has_written() {
    if !can("Redis that is killed and starts", RedisServer::available()) {
        return;
    }
    let options = redis::Options {
        append_only: true,
        maxmemory_policy: Some("allkeys-lru".into()),
        password: Some("secret".into()),
        ..redis::Options::default()
    };
    let redis = RedisServer::with(options).await;
    assert_eq!(redis.cli(&["SET", "k", "two words"]).await, "OK");
    redis.kill().await;
    assert!(TcpStream::connect(redis.address()).await.is_err());
    redis.start_again().await;
    assert_eq!(redis.cli(&["GET", "k"]).await, "two words");
    redis.stop().await;
    redis.start_again().await;
    assert_eq!(redis.cli(&["GET", "k"]).await, "two words");
    assert_eq!(redis.cli(&["CONFIG", "GET", "maxmemory-policy"]).await, "maxmemory-policy\nallkeys-lru");
    assert!(redis.url().starts_with("redis://:secret@127.0.0.1:"), "{}", redis.url());

    let mut client = TcpStream::connect(redis.address()).await.unwrap();
    assert_eq!(ask(&mut client, b"PING\r\n").await, "-NOAUTH Authentication required.\r\n");
    redis.client_kill_all().await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the server closes it");

    let folder = redis.folder().to_owned();
    assert!(!processes_of(&folder).is_empty());
    drop(redis);
    expect_nothing_left(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_not_what_it_was_without_a_file() {
    if !can("Redis that keeps nothing", RedisServer::available()) {
        return;
    }
    let redis = RedisServer::start().await;
    redis.cli(&["SET", "k", "v"]).await;
    redis.stop().await;
    redis.start_again().await;
    assert_eq!(redis.cli(&["EXISTS", "k"]).await, "0");
}

/// Clients of other makers, on a way that can be disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn clients_in_python_reach_both_servers() {
    let what = "clients in Python";
    if !can(what, Rabbit::available().and_then(|()| RedisServer::available())) {
        return;
    }
    let Some(python) = Python::with(what, &["pika==1.3.2", "redis==5.2.1"]).await else { return };
    let (rabbit, redis) = (rabbit::shared().await, RedisServer::start().await);
    let vhost = rabbit.vhost().await.name;
    let proxy = Proxy::start(rabbit.address()).await;
    let script = "
import pika, redis, sys
host, port = sys.argv[1].split(':')
connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port), sys.argv[2]))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare('from python', durable=True)
channel.basic_publish('', 'from python', b'm', mandatory=True)
connection.close()
redis.Redis.from_url(sys.argv[3]).rpush('l', 'a', 'b')
print('done')
";
    let output = python.run(script, &[&proxy.address().to_string(), &vhost, &redis.url()]).await;
    assert_eq!(output.stdout, b"done\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rabbit.queues(&vhost).await, [count("from python", "classic", 1, 0)]);
    assert_eq!(redis.cli(&["LRANGE", "l", "0", "-1"]).await, "a\nb");
}

async fn ask(stream: &mut TcpStream, question: &[u8]) -> String {
    stream.write_all(question).await.unwrap();
    let mut answer = [0; 100];
    let read = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// A server that sends back what it is sent.
async fn echo() -> (TcpListener, Proxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    (listener, proxy)
}

async fn echo_once(listener: &TcpListener) -> tokio::task::JoinHandle<io::Result<u64>> {
    let (mut stream, _) = listener.accept().await.unwrap();
    tokio::spawn(async move {
        let (mut from, mut to) = stream.split();
        let copied = tokio::io::copy(&mut from, &mut to).await?;
        to.shutdown().await?;
        Ok(copied)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_goes_silent_and_resumes() {
    let (listener, proxy) = echo().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let server = echo_once(&listener).await;
    assert_eq!(ask(&mut client, b"one").await, "one");
    assert_eq!(proxy.connections(), 1);

    proxy.black_hole(true);
    client.write_all(b"two").await.unwrap();
    // A connection that is made in the silence gets nowhere, but is open.
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    second.write_all(b"three").await.unwrap();
    eventually("both are open", PATIENCE, || std::future::ready((proxy.connections() == 2).then_some(())))
        .await;
    let silence = Duration::from_millis(200);
    let mut byte = [0];
    assert!(tokio::time::timeout(silence, client.read(&mut byte)).await.is_err(), "nothing comes");
    assert!(tokio::time::timeout(silence, listener.accept()).await.is_err(), "nobody comes");

    proxy.black_hole(false);
    assert_eq!(ask(&mut client, b"").await, "two", "nothing was lost");
    let second_server = echo_once(&listener).await;
    assert_eq!(ask(&mut second, b"").await, "three");

    // An orderly end stays one, and the last bytes arrive before it.
    let large = vec![7; 1_000_000];
    let (mut from, mut to) = client.into_split();
    let sent = large.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    from.read_to_end(&mut got).await.unwrap();
    sending.await.unwrap();
    assert!(got == large);
    assert_eq!(server.await.unwrap().unwrap(), 6 + 1_000_000);
    drop(second);
    assert_eq!(second_server.await.unwrap().unwrap(), 5);
    eventually("all is closed", PATIENCE, || std::future::ready((proxy.connections() == 0).then_some(())))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts_and_refuses() {
    let (listener, proxy) = echo().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let server = echo_once(&listener).await;
    assert_eq!(ask(&mut client, b"one").await, "one");

    proxy.refuse(true).await;
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(ask(&mut client, b"two").await, "two", "what is connected stays");

    proxy.cut().await;
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.connections(), 0);

    proxy.refuse(false).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let _server = echo_once(&listener).await;
    assert_eq!(ask(&mut client, b"three").await, "three");
    drop(proxy);
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
