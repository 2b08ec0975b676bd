//! A Prometheus behind a proxy, with a certificate of an authority of one's own.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
};

use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::{
    command,
    fake::{Fake, Faults},
    fleet,
    hosts::NOW,
};

fn file(name: &str) -> PathBuf {
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    PathBuf::from(tree).join("private_authority").join(name)
}

/// Carries what comes over TLS at this address to another one, and returns its port. It ends with the test.
fn proxy(at: &str, to: SocketAddr) -> u16 {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((at, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Who does not trust it closes the connection.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut server = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            }
        });
    });
    port
}

#[test]
fn an_authority_of_ones_own_and_a_token() {
    let faults = Faults {
        wants: Some("authorization: Bearer s3cret"),
        ..Faults::default()
    };
    let fake = Fake::start(fleet(), NOW, faults);
    let headers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(headers.path(), "Authorization: Bearer s3cret\n").unwrap();
    let port = proxy("127.0.0.1", fake.address);
    let report = |host: &str, port: u16, authority: Option<PathBuf>| {
        let headers = headers.path().to_str().unwrap();
        let url = format!("https://{host}:{port}");
        let mut command = command(&url, &["--last", "7d", "--header-file", headers]);
        command
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR");
        let output = command.envs(authority.map(|file| ("SSL_CERT_FILE", file)));
        let output = output.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    for host in ["localhost", "127.0.0.1"] {
        let (code, text, error) = report(host, port, Some(file("authority.pem")));
        assert_eq!(code, Some(0), "{error}");
        assert!(text.contains("4 services on 3 hosts"), "{text}");
    }
    let (code, text, error) = report("localhost", port, None);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(
        error.contains("UnknownIssuer") && error.contains("SSL_CERT_FILE=FILE"),
        "{error}"
    );
    // Another name than that of the certificate.
    let port = proxy("127.0.0.2", fake.address);
    let (code, _, error) = report("127.0.0.2", port, Some(file("authority.pem")));
    assert_eq!(code, Some(1));
    assert!(error.contains("not valid for name"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}
