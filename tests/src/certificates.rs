//! Certificates for servers of a test on this machine, vouched for by an authority of the test's own.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.pem`, and `server.pem` with `server.key` for localhost and 127.0.0.1.
///
/// # Panics
/// When they cannot be made or written.
pub fn write(folder: &Path) {
    let key = || KeyPair::generate().expect("a key");
    let (ca_key, server_key) = (key(), key());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Brolly's tests");
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).expect("these are names");
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key)).expect("a certificate");
    for (name, pem) in [
        ("ca.pem", ca_certificate.pem()),
        ("server.pem", server.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        fs::write(folder.join(name), pem).expect("the folder is ours");
    }
}
