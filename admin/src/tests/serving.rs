//! Over a real connection: how many, and how it ends.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::house::{House, Scripted};
use crate::{Config, Error, serve};

async fn served(
    config: Config,
) -> (House, std::net::SocketAddr, CancellationToken, JoinHandle<Result<(), Error>>) {
    let house = House::with(config, Arc::new(String::new), Arc::new(Scripted)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, house.app.clone(), stop.clone()));
    (house, address, stop, serving)
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(end) {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the connection was closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn it_stops_when_it_is_told_to_although_connections_are_open() {
    let (house, address, stop, serving) = served(Config::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(HEALTH).await.unwrap();
    assert!(read_until(&mut stream, "ok\n").await.starts_with("HTTP/1.1 200"));
    stop.cancel();
    serving.await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn it_stops_although_a_request_does_not_end() {
    let (house, address, stop, serving) = served(Config { drain_ms: 50, ..Config::default() }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT /api/v1/topics/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\n\
         content-length: 2\r\n\r\n",
        house.admin()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The host asks for the body: it is in the middle of the request.
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let (house, address, stop, serving) = served(Config { connections: 1, ..Config::default() }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(HEALTH).await.unwrap();
    read_until(&mut first, "ok\n").await;
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(HEALTH).await.unwrap();
    // The first connection is served again, and the second has no answer yet.
    first.write_all(HEALTH).await.unwrap();
    read_until(&mut first, "ok\n").await;
    assert!(second.try_read(&mut [0; 1]).is_err());
    drop(first);
    assert!(read_until(&mut second, "ok\n").await.starts_with("HTTP/1.1 200"));
    drop(second);
    stop.cancel();
    serving.await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let (house, address, stop, serving) = served(Config { idle_ms: 20, ..Config::default() }).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the connection is still open");
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn an_open_stream_of_events_does_not_hold_up_the_end() {
    let (house, address, stop, serving) = served(Config { drain_ms: 600_000, ..Config::default() }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", house.admin());
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "event: all").await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap().unwrap();
    house.close().await;
}
