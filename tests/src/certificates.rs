//! Certificates for servers of the tests; made anew each time, as files in the tree expire.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes a certificate for `localhost` and 127.0.0.1 (`server.pem`, `server.key`) and that of the authority which
/// signed it (`ca.pem`).
///
/// # Panics
/// When the folder cannot be written to.
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
