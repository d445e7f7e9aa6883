//! One connection to one server: how it is made, what the server says of itself, how it ends.
//!
//! Called by the session. lapin gives each connection a thread that would outlive a server which
//! accepts connections and says nothing more, so every connection comes with a way to cut its socket.

use std::{
    future::poll_fn,
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use async_rs::TokioRuntime;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, stream::BoxStream};
use lapin::{
    AsyncTcpStream, ConnectionProperties, Event,
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable, ShortString, parsing::parse_field_table},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use parking_lot::Mutex;

use crate::{
    error::{Error, code},
    guard::{Bare, Guard, Guarded, guarded},
    settings::{Authority, Node, Settings},
};

/// The largest greeting of a server.
const GREETING_BYTES: usize = 64 * 1024;

/// How long lapin may take to tell what has happened.
const MOMENT: Duration = Duration::from_millis(50);

/// The largest frame; RabbitMQ's own default.
const FRAME_BYTES: u32 = 128 * 1024;

/// How long a server may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection.
pub(crate) struct Link {
    pub connection: lapin::Connection,
    events: Mutex<BoxStream<'static, Event>>,
    cut: Cut,
}

/// A second handle to a socket; when it goes, the connection breaks.
#[derive(Clone, Default)]
struct Cut(Arc<Slot>);

#[derive(Default)]
struct Slot(Mutex<Option<TcpStream>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(socket) = self.0.get_mut() {
            // It is closed already, or the other side is gone: broken is broken.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub product: String,
    pub version: String,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

impl Link {
    /// Connects and logs in.
    pub(crate) async fn open(settings: &Arc<Settings>, node: &Node, name: String) -> Result<Self, Error> {
        let (cut, failure) = (Cut::default(), Arc::new(Mutex::new(None)));
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "Brolly".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let dialing = {
            let (settings, node, cut, failure) =
                (settings.clone(), node.clone(), Arc::downgrade(&cut.0), failure.clone());
            async move |_: AMQPUri, _: Guarded| {
                let (stream, socket) = dial(&settings, &node).await.map_err(|error| {
                    let io: lapin::Error = io::Error::other(error.to_string()).into();
                    *failure.lock() = Some(error);
                    io
                })?;
                match cut.upgrade() {
                    Some(cut) => *cut.0.lock() = Some(socket),
                    // Nobody waits for the connection any more.
                    None => drop(socket.shutdown(Shutdown::Both)),
                }
                Ok(AsyncTcpStream::Plain(Guard::over(stream)))
            }
        };
        let connecting = lapin::Connection::connector(uri(settings, node), guarded(), dialing, properties);
        // Dialling has a limit of its own; this one is for the login.
        match tokio::time::timeout(2 * settings.connect_timeout, connecting).await {
            Ok(Ok(connection)) => {
                Ok(Self { events: Mutex::new(connection.events_listener().boxed()), connection, cut })
            }
            Ok(Err(error)) => {
                let failure = failure.lock().take();
                Err(failure.unwrap_or_else(|| explain(error.into(), settings, node)))
            }
            Err(_) => Err(Error::Silent(2 * settings.connect_timeout)),
        }
    }

    /// What lapin has told of the connection and nobody has asked for yet.
    pub(crate) async fn next_event(&self) -> Option<Event> {
        poll_fn(|context| self.events.lock().poll_next_unpin(context)).await
    }

    /// The last error that lapin has told of; it tells a moment after the state has changed.
    pub(crate) async fn why_broken(&self) -> Option<Error> {
        tokio::time::sleep(MOMENT).await;
        let mut events = self.events.lock();
        let mut last = None;
        while let Some(Some(event)) = events.next().now_or_never() {
            if let Event::Error(error) = event {
                last = Some(error.into());
            }
        }
        last
    }

    /// Says goodbye, if the server listens, and breaks the connection in any case.
    pub(crate) async fn close(&self) {
        let farewell = self.connection.close(200, "OK".into());
        // It is gone afterwards, one way or the other.
        let _ = tokio::time::timeout(GOODBYE, farewell).await;
        if let Some(socket) = &*self.cut.0.0.lock() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn uri(settings: &Settings, node: &Node) -> AMQPUri {
    AMQPUri {
        scheme: if settings.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: settings.user.clone(), password: settings.password.clone() },
            host: node.host.clone(),
            port: node.port,
        },
        vhost: settings.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: u16::try_from(settings.heartbeat.as_secs()).ok(),
            // lapin keeps room for 32 frames in both directions, however large the server's may be.
            frame_max: Some(FRAME_BYTES),
            ..AMQPQueryString::default()
        },
    }
}

/// Opens a socket to a server, with TLS if it is wanted; with it a second handle to the socket.
async fn dial(settings: &Settings, node: &Node) -> Result<(Bare, TcpStream), Error> {
    let dialing = async {
        let unusable = |what: String| Error::Unusable(what);
        let found = tokio::net::lookup_host((node.host.as_str(), node.port)).await;
        let found = found
            .map_err(|error| unusable(format!("the name {} cannot be looked up: {error}", node.host)))?;
        let addresses: Vec<_> = found.collect();
        let runtime = TokioRuntime::tokio_current();
        let stream = Bare::connect(&runtime, addresses).await;
        let stream = stream.map_err(|error| unusable(format!("{node} cannot be reached: {error}")))?;
        let broken = |error: io::Error| unusable(format!("the socket to {node} cannot be used: {error}"));
        let AsyncTcpStream::Plain(plain) = &stream else {
            return Err(unusable(format!("the socket to {node} is none")));
        };
        let socket = TcpStream::from(plain.get_ref().as_fd().try_clone_to_owned().map_err(broken)?);
        if !settings.tls {
            return Ok((stream, socket));
        }
        let authority = authority(settings)?;
        let secured = stream.into_tls(&node.host, authority.as_ref()).await;
        let secured = secured.map_err(|error| {
            unusable(format!(
                "no TLS with {node}: {error} (ca_pem or ca_file names an authority that this machine does not know)"
            ))
        })?;
        Ok((secured, socket))
    };
    match tokio::time::timeout(settings.connect_timeout, dialing).await {
        Ok(dialled) => dialled,
        Err(_) => Err(Error::Unusable(format!(
            "{node} did not answer within {} ms (connect_timeout_ms)",
            settings.connect_timeout.as_millis()
        ))),
    }
}

fn authority(settings: &Settings) -> Result<OwnedTLSConfig, Error> {
    let cert_chain = match &settings.authority {
        None => None,
        Some(Authority::Pem(pem)) => Some(pem.clone()),
        Some(Authority::File(path)) => Some(std::fs::read_to_string(path).map_err(|error| {
            Error::Unusable(format!("ca_file {} cannot be read: {error}", path.display()))
        })?),
    };
    Ok(OwnedTLSConfig { identity: None, cert_chain })
}

/// What a failed login means.
fn explain(error: Error, settings: &Settings, node: &Node) -> Error {
    match error.code() {
        Some(code::ACCESS_REFUSED) => {
            Error::Unusable(format!("{node} refuses the user {:?} or its password: {error}", settings.user))
        }
        Some(code::NOT_ALLOWED) => {
            Error::Unusable(format!("{node} refuses the virtual host {:?}: {error}", settings.vhost))
        }
        Some(_) | None => error,
    }
}

/// Asks a server who it is, on a socket of its own: lapin keeps that to itself. So it is known, too,
/// that a server answers at all before lapin is given it.
pub(crate) async fn greet(settings: &Settings, node: &Node) -> Result<Server, Error> {
    let (mut stream, _socket) = dial(settings, node).await?;
    let mute = |error: io::Error| {
        Error::Unusable(format!(
            "{node} does not greet as an AMQP server does: {error} (is it one, and with TLS for amqps:// alone?)"
        ))
    };
    let greeting = async {
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.flush().await?;
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let [kind, _, _, size @ ..] = head;
        let size = u32::from_be_bytes(size) as usize;
        if kind != 1 || size > GREETING_BYTES {
            return Err(io::Error::other("it speaks another protocol, or another version of it"));
        }
        let mut body = vec![0; size];
        stream.read_exact(&mut body).await?;
        Ok(body)
    };
    match tokio::time::timeout(settings.connect_timeout, greeting).await {
        Ok(body) => read_greeting(&body.map_err(mute)?)
            .ok_or_else(|| Error::Unusable(format!("{node} greets in a way that is not understood"))),
        Err(_) => Err(Error::Silent(settings.connect_timeout)),
    }
}

/// Reads `connection.start`: class 10, method 10, version, then what the server says of itself.
fn read_greeting(body: &[u8]) -> Option<Server> {
    let properties = body.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let (_, properties) = parse_field_table(properties).ok()?;
    let text = |key: &str| text_of(&properties, key).unwrap_or_else(|| "unknown".to_owned());
    Some(Server { product: text("product"), version: text("version") })
}

fn text_of(table: &FieldTable, key: &str) -> Option<String> {
    let key = ShortString::try_new(key).ok()?;
    match table.inner().get(&key)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

impl Server {
    /// Refuses a server that cannot keep what is promised.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut numbers = self.version.split('.').map_while(|number| number.parse::<u32>().ok());
        match (self.product.as_str(), numbers.next(), numbers.next()) {
            ("RabbitMQ", Some(major), Some(minor)) if (major, minor) < (3, 10) => {
                Err(Error::Unusable(format!(
                    "the server is {self}, which is too old: before 3.10 quorum queues have no time-to-live for messages \
                 and lose dead letters when a target cannot take them"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_3_10_are_too_old() {
        let check = |product: &str, version: &str| {
            Server { product: product.into(), version: version.into() }.check().is_ok()
        };
        for (version, good) in [
            ("3.9.29", false),
            ("2.8.7", false),
            ("3.10.0", true),
            ("3.10.8", true),
            ("4.0.0-rc.1", true),
            ("4.3.0", true),
            ("unknown", true),
        ] {
            assert_eq!(check("RabbitMQ", version), good, "{version}");
        }
        assert!(check("LavinMQ", "2.0.0"));
    }

    #[test]
    fn a_greeting_says_product_and_version() {
        let mut body = vec![0, 10, 0, 10, 0, 9];
        let entry = |key: &str, value: &str| {
            let mut entry = vec![key.len() as u8];
            entry.extend(key.as_bytes());
            entry.push(b'S');
            entry.extend((value.len() as u32).to_be_bytes());
            entry.extend(value.as_bytes());
            entry
        };
        let table = [entry("product", "RabbitMQ"), entry("version", "3.10.8")].concat();
        body.extend((table.len() as u32).to_be_bytes());
        body.extend(table);
        body.extend([0, 0, 0, 0]);
        let server = read_greeting(&body).unwrap();
        assert_eq!(server.to_string(), "RabbitMQ 3.10.8");
        assert_eq!(read_greeting(&[0, 10, 0, 11]), None);
        assert_eq!(read_greeting(&[]), None);
    }
}
