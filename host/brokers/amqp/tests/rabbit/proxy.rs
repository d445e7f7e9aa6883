//! A way to the server that can be cut, fall silent, or be slow where it hands out messages.

use std::{collections::BTreeSet, sync::Arc};

use bytes::BytesMut;
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Bytes are taken and go nowhere.
    Silent,
    /// As that, once the server has greeted.
    Greets,
    /// What the server says on a channel from when it begins to consume there has not come yet.
    Holds,
}

pub struct Proxy {
    pub url: String,
    state: Arc<watch::Sender<State>>,
    cut: Arc<watch::Sender<u64>>,
}

impl Proxy {
    pub async fn to(url: &str) -> Self {
        let mut parsed = url::Url::parse(url).unwrap();
        let server = format!("{}:{}", parsed.host_str().unwrap(), parsed.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        parsed.set_host(Some("127.0.0.1")).unwrap();
        parsed.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (state, cut) = (Arc::new(watch::Sender::new(State::Open)), Arc::new(watch::Sender::new(0)));
        let (states, cuts) = (state.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, mut cut, server) = (states.subscribe(), cuts.subscribe(), server.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    client.set_nodelay(true).unwrap();
                    server.set_nodelay(true).unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = ask(from_client, to_server, state.clone()) => {}
                        () = answer(from_server, to_client, state) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url: parsed.to_string(), state, cut }
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Lets servers greet and then say nothing.
    pub fn only_greets(&self) {
        self.state.send_replace(State::Greets);
    }

    pub fn silence(&self, silent: bool) {
        self.state.send_replace(if silent { State::Silent } else { State::Open });
    }

    /// Consumptions that begin from now on have begun on the server, and nobody hears of it until the
    /// way is open again.
    pub fn hold_consumptions(&self, hold: bool) {
        self.state.send_replace(if hold { State::Holds } else { State::Open });
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut first = true;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let carried = match *state.borrow() {
            State::Open | State::Holds => true,
            State::Greets => first,
            State::Silent => false,
        };
        first = false;
        if carried && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn answer(from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut frames = FramedRead::new(from, frames());
    let mut held: Vec<BytesMut> = Vec::new();
    let mut consuming = BTreeSet::new();
    let mut first = true;
    loop {
        tokio::select! {
            // What is held goes before what comes then.
            biased;
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                if *state.borrow_and_update() != State::Holds {
                    for frame in held.drain(..) {
                        let _ = to.write_all(&frame).await;
                    }
                }
            }
            frame = frames.next() => {
                let Some(Ok(frame)) = frame else { return };
                let state = *state.borrow();
                if state == State::Holds && begins_to_consume(&frame) {
                    consuming.insert(channel(&frame));
                }
                match state {
                    State::Silent => {}
                    State::Greets if !first => {}
                    State::Holds if consuming.contains(&channel(&frame)) => held.push(frame),
                    State::Open | State::Greets | State::Holds => {
                        if to.write_all(&frame).await.is_err() {
                            return;
                        }
                    }
                }
                first = false;
            }
        }
    }
}

/// A frame of AMQP 0-9-1 is its type, the channel in two bytes, the length of what it holds in four, that,
/// and a byte at the end.
fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_offset(3)
        .length_field_type::<u32>()
        .length_adjustment(8)
        .num_skip(0)
        .max_frame_length(1 << 20)
        .new_codec()
}

fn channel(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[1], frame[2]])
}

/// Whether it says `basic.consume-ok`.
fn begins_to_consume(frame: &[u8]) -> bool {
    frame[0] == 1 && frame[7..].starts_with(&[0, 60, 0, 21])
}
