//! TLS for questions whether an application is ready. On loopback its certificate is not looked at, since it is for the
//! name that clients use; elsewhere the host's own authorities must have signed it for the address.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use ondemand_core::probing::NotYet;
use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error,
        RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

/// For addresses of loopback.
static UNCHECKED: OnceLock<Arc<ClientConfig>> = OnceLock::new();
/// For others.
static CHECKED: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Makes a connection one of TLS.
///
/// # Errors
///
/// The application does not speak TLS, or its certificate is not valid.
pub(super) async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, NotYet> {
    let config = match address.ip().to_canonical().is_loopback() {
        true => UNCHECKED.get_or_init(unchecked).clone(),
        // It reads the host's certificates.
        false => spawn_blocking(trusted)
            .await
            .map_err(|error| error.to_string())?,
    };
    connect(config, stream, address).await
}

/// Trusts whom the host's own authorities have signed. It reads their certificates once.
pub fn trusted() -> Arc<ClientConfig> {
    Arc::clone(CHECKED.get_or_init(checked))
}

async fn connect(
    config: Arc<ClientConfig>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, NotYet> {
    let name = ServerName::IpAddress(address.ip().into());
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| super::failed(&error))
}

/// What an error of TLS means. `None`: it is none.
pub(super) fn explain(error: &io::Error) -> Option<NotYet> {
    let inner = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match inner {
        Error::InvalidCertificate(why) => format!(
            "has a certificate that is not valid for its address ({why}); let it be asked at a loopback address, where \
             that is not checked"
        ),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "demands a certificate of who asks, and there is none; let it be asked where it does not".into()
        }
        Error::AlertReceived(alert) => format!("refuses the connection over TLS ({alert:?})"),
        why => format!("answers something that is not TLS: {why}"),
    })
}

/// Whether a server's certificate is one that nobody vouches for.
pub fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    matches!(
        inner,
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    )
}

fn config() -> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier>
{
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for these versions")
}

fn unchecked() -> Arc<ClientConfig> {
    let verifier = Arc::new(AnyCertificate(ring::default_provider()));
    let config = config()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

fn checked() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        log::warn!("certificates of the host cannot be read: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    Arc::new(config().with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate whose key the application has.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use ondemand_core::config::Ready;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            pki_types::{PrivateKeyDer, pem::PemObject as _},
            server::WebPkiClientVerifier,
        },
    };

    use super::*;

    /// Signed by itself, for wiki.example.org.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBqzCCAVCgAwIBAgIUUF9385493guRBoWh2ZEzJXBJOG0wCgYIKoZIzj0EAwIw
GzEZMBcGA1UEAwwQd2lraS5leGFtcGxlLm9yZzAgFw0yNjExMjgyMzA0NTNaGA8y
MTI2MTEwNDIzMDQ1M1owGzEZMBcGA1UEAwwQd2lraS5leGFtcGxlLm9yZzBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABEK4seph8i+QBHzpfn7ZS7xRzJP2h1cJIT04
874xn/WswHhSJTR6AHxe7+ttJCS5lcbHpKMQ38lkBnX5iuCc4hajcDBuMB0GA1Ud
DgQWBBTqtUaWN0+UuRo1lF2ppxzmBZC8NjAfBgNVHSMEGDAWgBTqtUaWN0+UuRo1
lF2ppxzmBZC8NjAPBgNVHRMBAf8EBTADAQH/MBsGA1UdEQQUMBKCEHdpa2kuZXhh
bXBsZS5vcmcwCgYIKoZIzj0EAwIDSQAwRgIhAJXYxapgn4OvnpgFij/dLMZCAcZI
p1CwWwFPLUuYYYtwAiEAhVX11aNyu8fKfNExThXC0p3lrEyHsf6YW961nRRuIZA=
-----END CERTIFICATE-----
";
    /// Of the certificate above, and used for nothing else.
    const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDwVY9CpEMmitu9BK
+B3rykHXurVituWYdB34aGiPciWhRANCAARCuLHqYfIvkAR86X5+2Uu8UcyT9odX
CSE9OPO+MZ/1rMB4UiU0egB8Xu/rbSQkuZXGx6SjEN/JZAZ1+YrgnOIW
-----END PRIVATE KEY-----
";

    fn certificate() -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()
    }

    /// Serves one connection, and returns its address.
    async fn application(wants_certificate: bool) -> SocketAddr {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if wants_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(certificate()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let config = config.with_single_cert(vec![certificate()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 512]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        address
    }

    async fn ask(address: SocketAddr) -> Result<(), NotYet> {
        let ready: Ready = format!("https://{address}/").parse().unwrap();
        crate::host::probe::ask(&ready).await
    }

    #[tokio::test]
    async fn the_certificate_of_loopback_is_not_checked() {
        assert_eq!(ask(application(false).await).await, Ok(()));
    }

    #[tokio::test]
    async fn that_of_others_is() {
        let address = application(false).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let why = connect(checked(), stream, address).await.unwrap_err();
        assert!(why.contains("a certificate that is not valid"), "{why}");
    }

    #[tokio::test]
    async fn one_that_demands_a_certificate_says_so() {
        let why = ask(application(true).await).await.unwrap_err();
        assert!(why.contains("demands a certificate"), "{why}");
    }

    #[tokio::test]
    async fn plain_http_is_no_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let why = ask(address).await.unwrap_err();
        assert!(why.contains("not TLS"), "{why}");
    }
}
