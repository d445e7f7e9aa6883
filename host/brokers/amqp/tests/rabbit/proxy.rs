//! A way to the server that can be cut or fall silent.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Bytes are taken and go nowhere.
    Silent,
    /// As that, once the server has greeted.
    Greets,
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
                        () = carry(from_client, to_server, state.clone()) => {}
                        () = carry(from_server, to_client, state) => {}
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
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 * 1024];
    for number in 0.. {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) if *state.borrow() == State::Silent => {}
            Ok(_) if *state.borrow() == State::Greets && number > 0 => {}
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
