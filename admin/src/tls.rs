//! TLS: the certificate and the key that the API is served with. Their files are looked at every few
//! seconds, so that a renewed certificate needs no restart; one that is no good leaves the one before in
//! use, and the log says so.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::Error;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where certificate and key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it, in PEM, the host's own first.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// What connections are encrypted with. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
}

/// The certificate that is shown to whoever connects next.
#[derive(Debug)]
struct Current {
    files: TlsFiles,
    certified: ArcSwap<CertifiedKey>,
}

/// By which a file that was written again is known.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`Error::Tls`] names the file and what is wrong with it.
    pub fn open(files: &TlsFiles) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let certified = ArcSwap::from_pointee(read(files, &provider)?);
        let current = Arc::new(Current { files: files.clone(), certified });
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| wrong(&files.cert, error))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current })
    }

    /// Agrees on keys with whoever has connected.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Takes up what the files hold when they are written again, for as long as it is polled.
    pub(crate) async fn keep(&self) {
        let mut seen = None;
        loop {
            let current = self.current.clone();
            let looked = tokio::task::spawn_blocking(move || current.look(seen)).await;
            match looked {
                Ok(stamp) => seen = Some(stamp),
                Err(error) => tracing::error!(%error, "the certificate cannot be looked at"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Current {
    /// Reads the files if they are others than those that were `seen`.
    fn look(&self, seen: Option<Stamp>) -> Stamp {
        let stamp = [stamp(&self.files.cert), stamp(&self.files.key)];
        if seen == Some(stamp) {
            return stamp;
        }
        match read(&self.files, &ring::default_provider()) {
            Ok(certified) => {
                let before = self.certified.swap(Arc::new(certified));
                if before.cert != self.certified.load().cert {
                    tracing::info!(file = %self.files.cert.display(), "the certificate was renewed");
                }
            }
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        }
        stamp
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain = CertificateDer::pem_file_iter(&files.cert).map_err(|error| wrong(&files.cert, error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&files.cert, error))?;
    if chain.is_empty() {
        return Err(wrong(&files.cert, "it holds no certificate in PEM (BEGIN CERTIFICATE)"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let why = format!("it cannot be used with the certificate in {}: {error}", files.cert.display());
        wrong(&files.key, why)
    })
}

fn wrong(file: &Path, why: impl ToString) -> Error {
    Error::Tls { file: file.to_owned(), why: why.to_string() }
}
