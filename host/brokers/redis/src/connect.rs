//! Connections to the server: TCP with keep-alive, TLS, log-in, database. Each has a driver that
//! belongs to the broker's task tracker and ends with its last user. Knows nothing of queues.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError,
    Value,
    aio::{AsyncPushSender, MultiplexedConnection},
    io::tcp::socket2::{SockRef, TcpKeepalive},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::{
    error::Error,
    settings::{Authorities, Settings},
};

/// When the system begins to ask an idle peer whether it lives, and how often.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// What a connection reads from and writes to.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub settings: Arc<Settings>,
    pub tasks: TaskTracker,
}

/// A connection. Its clones share it; it is closed with the last of them.
#[derive(Clone)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    response: Duration,
    _driver: Arc<Driver>,
}

/// What drives a connection; it would outlive its users while an answer is outstanding.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dialer {
    /// Connects and logs in. `patience` comes on top of the response time-out for each command.
    pub(crate) async fn dial(&self, patience: Duration) -> Result<Link, Error> {
        let response = self.settings.response + patience;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(response));
        self.within(async {
            let wire = self.wire().await?;
            self.log_in(wire, ProtocolVersion::RESP2, config, response).await
        })
        .await
    }

    /// Connects for messages that the server sends by itself; `wrap` stands between it and the wire.
    pub(crate) async fn dial_pushed<W: Wire + 'static>(
        &self,
        sender: impl AsyncPushSender,
        wrap: impl FnOnce(Pin<Box<dyn Wire>>) -> W,
    ) -> Result<Link, Error> {
        let response = self.settings.response;
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(response)).set_push_sender(sender);
        self.within(async {
            let wire = wrap(self.wire().await?);
            self.log_in(wire, ProtocolVersion::RESP3, config, response).await
        })
        .await
    }

    async fn within<T>(&self, connecting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.settings.connect;
        timeout(limit, connecting).await.unwrap_or(Err(Error::Silent(limit)))
    }

    async fn log_in(
        &self,
        wire: impl Wire + 'static,
        protocol: ProtocolVersion,
        config: AsyncConnectionConfig,
        response: Duration,
    ) -> Result<Link, Error> {
        let settings = &self.settings;
        let mut info = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_db(settings.database)
            .set_lib_name("brolly", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &settings.username {
            info = info.set_username(username);
        }
        if let Some(password) = &settings.password {
            info = info.set_password(password);
        }
        let made = MultiplexedConnection::new_with_config(&info, wire, config).await;
        let (connection, driver) = made.map_err(|error| Error::from_redis(&error, settings.connect))?;
        let driver = Arc::new(Driver(self.tasks.spawn(driver).abort_handle()));
        Ok(Link { connection, response, _driver: driver })
    }

    async fn wire(&self) -> Result<Pin<Box<dyn Wire>>, Error> {
        let settings = &self.settings;
        let address = settings.address();
        let stream = self.tcp().await?;
        if !settings.tls {
            return Ok(Box::pin(stream));
        }
        let tls = |why: String| Error::Tls { address: address.clone(), why };
        let config = client_config(&settings.authorities).await.map_err(tls)?;
        let name = ServerName::try_from(settings.host.clone()).map_err(|error| tls(error.to_string()))?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(Box::pin(connected.map_err(|error| tls(error.to_string()))?))
    }

    /// Tries the addresses of the host one after the other.
    async fn tcp(&self) -> Result<TcpStream, Error> {
        let settings = &self.settings;
        let unknown = |source| Error::UnknownHost { host: settings.host.clone(), source };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in lookup_host((settings.host.as_str(), settings.port)).await.map_err(unknown)? {
            match TcpStream::connect(address).await.and_then(tuned) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(Error::Unreachable { address: settings.address(), source: last })
    }
}

fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// TLS with ring, whatever other crypto the process has.
async fn client_config(authorities: &Authorities) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let pem = match authorities {
        Authorities::Machine => {
            let builder = builder.with_platform_verifier().map_err(|error| error.to_string())?;
            return Ok(builder.with_no_client_auth());
        }
        Authorities::Pem(pem) => pem.clone().into_bytes(),
        Authorities::File(path) => {
            tokio::fs::read(path).await.map_err(|error| format!("ca_file {path} cannot be read: {error}"))?
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| format!("the authority's certificate is no PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("the authority's certificate cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in ca_file or ca_pem".to_owned());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Link {
    /// Asks for one thing.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        command.query_async(&mut self.connection.clone()).await.map_err(|error| self.error(&error))
    }

    /// Asks for many things at once; each has its own answer.
    pub(crate) async fn ask_all(&self, pipeline: &mut Pipeline) -> Result<Vec<Result<Value, Error>>, Error> {
        let asked = pipeline.ignore_errors().query_async(&mut self.connection.clone()).await;
        let answers: Vec<Result<Value, RedisError>> = asked.map_err(|error| self.error(&error))?;
        Ok(answers.into_iter().map(|answer| answer.map_err(|error| self.error(&error))).collect())
    }

    /// Whether the server answers.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.ask::<Value>(&redis::cmd("PING")).await.map(drop)
    }

    /// Subscribes to a channel or a pattern of channels on a connection for pushed messages.
    pub(crate) async fn subscribe(&self, channel: &str, pattern: bool) -> Result<(), Error> {
        let mut connection = self.connection.clone();
        let subscribed =
            if pattern { connection.psubscribe(channel).await } else { connection.subscribe(channel).await };
        subscribed.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &RedisError) -> Error {
        Error::from_redis(error, self.response)
    }
}
