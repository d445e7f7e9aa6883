//! A client that is as careless as the protocol allows, and what it does to us.

use std::time::Duration;

use brolly_core::{Broker, Connection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bench::{Bench, drain, eventually, failure, name, server};

struct Raw(TcpStream);

impl Raw {
    async fn connect(url: &str) -> Self {
        let url = url::Url::parse(url).unwrap();
        let address = (url.host_str().unwrap(), url.port().unwrap());
        let mut raw = Self(TcpStream::connect(address).await.unwrap());
        raw.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        raw.read().await;
        let login = format!("\0{}\0{}", url.username(), url.password().unwrap());
        let mut start_ok = vec![0, 0, 0, 0, 5];
        start_ok.extend(b"PLAIN");
        start_ok.extend((login.len() as u32).to_be_bytes());
        start_ok.extend(login.as_bytes());
        start_ok.extend(b"\x05en_US");
        raw.method(0, 10, 11, &start_ok).await;
        raw.read().await;
        raw.method(0, 10, 31, &[0, 10, 0, 2, 0, 0, 0, 0]).await;
        raw.method(0, 10, 40, b"\x01/\x00\x00").await;
        raw.read().await;
        raw.method(1, 20, 10, b"\x00").await;
        raw.read().await;
        raw
    }

    async fn frame(&mut self, kind: u8, channel: u16, body: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(body);
        frame.push(0xce);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let body = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &body).await;
    }

    async fn read(&mut self) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.unwrap();
        let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
        self.0.read_exact(&mut vec![0; size + 1]).await.unwrap();
    }

    /// Publishes to the default exchange, with a message id of any bytes.
    async fn publish(&mut self, queue: &str, id: &[u8]) {
        let mut arguments = vec![0, 0, 0, queue.len() as u8];
        arguments.extend(queue.as_bytes());
        arguments.push(0);
        self.method(1, 60, 40, &arguments).await;
        // Flags: the message id alone.
        let mut header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x80, id.len() as u8].to_vec();
        header.extend(id);
        self.frame(2, 1, &header).await;
        self.frame(3, 1, b"x").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_stops_its_own_queue_alone() {
    let Some(url) = server("unreadable").await else { return };
    let mut bench = Bench::simple(&url).await;
    bench.queue("other", |_| {});
    bench.route("other", "t", "other", |_| {});
    bench.configure().await;
    let (bad, good) = (bench.consume("q").await, bench.consume("other").await);
    let mut raw = Raw::connect(&url).await;
    raw.publish(&bench.address("q"), b"\xff\xfe").await;
    let why = failure(&bad).await;
    assert!(why.contains("UTF-8"), "{why}");
    failure(&good).await;
    bad.close();
    good.close();
    bench.health(Connection::Connected).await;
    // From now on only the queue that has it suffers.
    let good = bench.consume("other").await;
    for _ in 0..3 {
        let (queue, order) = (name("q"), brolly_core::Order::None);
        let why = match bench.broker.consume(&queue, brolly_core::Consume { order, max_in_flight: 10 }).await
        {
            Ok(bad) => {
                let why = failure(&bad).await;
                bad.close();
                why
            }
            // It may come before there is anything to fail.
            Err(error) => error.to_string(),
        };
        assert!(why.contains("UTF-8"), "{why}");
    }
    bench.broker.publish(&name("t"), vec![crate::bench::message("m")]).await.unwrap();
    assert_eq!(drain(&good, 1).await, ["m"]);
    // Without it the queue goes on.
    let foreign = bench.foreign().await;
    foreign.channel.queue_purge(bench.address("q").as_str().into(), Default::default()).await.unwrap();
    bench.broker.publish(&name("t"), vec![crate::bench::message("n")]).await.unwrap();
    let bad = bench.consume("q").await;
    let received = tokio::time::timeout(Duration::from_secs(5), drain(&bad, 1)).await;
    assert_eq!(received.unwrap(), ["n"]);
    assert_eq!(drain(&good, 1).await, ["n"]);
    eventually("it is settled", || async { (bench.counts("q").await == (0, 0, 0)).then_some(()) }).await;
    bench.end().await;
}
