//! Over TLS: who trusts the certificate is served, a renewed one is taken up, and what is no good says why.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::house::{House, Scripted};
use crate::{Config, Tls, TlsFiles, serve};

fn files(dir: &TempDir) -> TlsFiles {
    TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") }
}

/// Writes a new certificate for localhost, and its key.
fn renew(files: &TlsFiles) -> CertifiedKey<KeyPair> {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    made
}

/// Asks for the health by TLS, trusting one certificate; answers with what came, head and body.
async fn ask(address: SocketAddr, trusted: &Path) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn who_trusts_the_certificate_is_served_and_a_renewed_one_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    renew(&files);
    let tls = Some(Tls::open(&files).unwrap());
    let config = Config { idle_ms: 300, ..Config::default() };
    let house = House::behind(tls, config, Arc::new(String::new), Arc::new(Scripted)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, house.app.clone(), stop.clone()));

    let first = dir.path().join("first.pem");
    fs::copy(&files.cert, &first).unwrap();
    let answer = ask(address, &first).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
    let signed_in = house
        .post(
            "/api/v1/session",
            &[("content-type", "application/json")],
            format!("{{\"token\":{:?}}}", house.admin()),
        )
        .await
        .expect(200);
    assert!(signed_in.header("set-cookie").ends_with("; Secure"), "{signed_in:?}");

    // Without TLS, and by somebody who says nothing at all.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    for stream in [&mut plain, &mut silent] {
        let mut bytes = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
        assert!(closed.is_ok(), "the connection is still open");
        assert!(!bytes.starts_with(b"HTTP/"), "{bytes:?}");
    }

    // A key that does not belong to the certificate changes nothing.
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    ask(address, &first).await.unwrap();
    renew(&files);
    let renewed = async {
        while ask(address, &files.cert).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), renewed).await.unwrap();
    assert!(ask(address, &first).await.is_err(), "the one before is shown no more");
    stop.cancel();
    serving.await.unwrap().unwrap();
    house.close().await;
}

#[test]
fn files_that_are_no_good_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    let check = |expect: &[&str]| {
        let error = Tls::open(&files).err().expect("it is refused").to_string();
        for part in expect {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    };
    check(&["admin.tls", "cert.pem"]);
    let made = renew(&files);
    assert!(Tls::open(&files).is_ok());
    fs::write(&files.cert, made.signing_key.serialize_pem()).unwrap();
    check(&["cert.pem: it holds no certificate"]);
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.cert.pem()).unwrap();
    check(&["key.pem: "]);
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    check(&["key.pem: it cannot be used with the certificate in ", "cert.pem"]);
    fs::remove_file(&files.key).unwrap();
    check(&["key.pem: "]);
}
