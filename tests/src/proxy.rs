//! A way to a server that tests can disturb: it goes silent, it is cut, it refuses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::process::free_port;

/// How much of one direction is held at a time.
const BUFFER: usize = 16 * 1024;

/// A listener that forwards to a server. It belongs to the runtime of the test that starts it, and
/// cuts all connections when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    silent: watch::Sender<bool>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`, which need not be there yet.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(target: SocketAddr) -> Self {
        let proxy = Self {
            // Not one that the system chooses: it must still be there after `refuse`.
            address: (Ipv4Addr::LOCALHOST, free_port()).into(),
            target,
            silent: watch::Sender::new(false),
            connections: Arc::default(),
            accepting: tokio::sync::Mutex::default(),
        };
        proxy.refuse(false).await;
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// While on, connections stay open and new ones are accepted, but no byte goes either way, nor is
    /// an end noticed; all of it follows when it is off again. Once this has returned, no byte is
    /// forwarded any more.
    pub fn black_hole(&self, on: bool) {
        self.silent.send_replace(on);
    }

    /// While on, nobody can connect; what is connected stays.
    ///
    /// # Panics
    /// When it cannot listen again.
    pub async fn refuse(&self, on: bool) {
        let mut accepting = self.accepting.lock().await;
        if let Some(task) = accepting.take() {
            task.abort();
            let _ = task.await;
        }
        if !on {
            let listener = TcpListener::bind(self.address).await.expect("the port is free");
            let (target, silent) = (self.target, self.silent.subscribe());
            *accepting = Some(tokio::spawn(accept(listener, target, silent, self.connections.clone())));
        }
    }

    /// Resets all connections that are open now, on both sides, and waits until they are gone.
    pub async fn cut(&self) {
        let mut present = std::mem::take(&mut *lock(&self.connections));
        present.shutdown().await;
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        let mut connections = lock(&self.connections);
        while connections.try_join_next().is_some() {}
        connections.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.get_mut().take() {
            task.abort();
        }
        lock(&self.connections).abort_all();
    }
}

fn lock(connections: &Mutex<JoinSet<()>>) -> MutexGuard<'_, JoinSet<()>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    silent: watch::Receiver<bool>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (silent, mut way) = (silent.clone(), Way { client, server: None, ended_well: false });
        lock(&connections).spawn(async move {
            // Whatever goes wrong on one side, the other side sees a reset; nobody else wants to know.
            let _ = way.forward(target, silent).await;
        });
    }
}

/// The two sides of a connection.
struct Way {
    client: TcpStream,
    server: Option<TcpStream>,
    ended_well: bool,
}

impl Way {
    async fn forward(&mut self, target: SocketAddr, mut silent: watch::Receiver<bool>) -> io::Result<()> {
        not(&mut silent).await?;
        let (client_in, client_out) = self.client.split();
        let server = self.server.insert(TcpStream::connect(target).await?);
        let (server_in, server_out) = server.split();
        tokio::try_join!(pump(client_in, server_out, silent.clone()), pump(server_in, client_out, silent))?;
        self.ended_well = true;
        Ok(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if !self.ended_well {
            for stream in std::iter::once(&self.client).chain(&self.server) {
                // Without this, the other side would read an orderly end.
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// Waits until it is not silent.
async fn not(silent: &mut watch::Receiver<bool>) -> io::Result<()> {
    silent.wait_for(|silent| !silent).await.map(|_| ()).map_err(io::Error::other)
}

/// Forwards one direction to its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut silent: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        not(&mut silent).await?;
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = silent.changed() => continue,
        };
        if read == 0 {
            not(&mut silent).await?;
            return to.shutdown().await;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            not(&mut silent).await?;
            to.writable().await?;
            // Held while it writes, so that `black_hole` returns only after that.
            let is_silent = silent.borrow();
            if *is_silent {
                continue;
            }
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
