//! TLS settings: certificates read from files, chosen by SNI, and how upstreams are verified.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::{Certificate, Listener, Spanned, UpstreamTls};
use crate::diag::Diagnostic;

/// How upstreams of one version are connected to by TLS.
#[derive(Clone, Debug)]
pub(super) struct UpstreamConnector {
    /// Tells settings apart: another one means other files or names, so that connections are not shared.
    pub(super) identity: u64,
    /// Offers HTTP/2 and HTTP/1.1.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone: for tunnels, which HTTP/2 servers seldom accept.
    pub(super) http1: Arc<ClientConfig>,
    /// The name to verify; `None`: the host of the URL.
    pub(super) server_name: Option<ServerName<'static>>,
}

/// The most that a PEM file may have, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// A listener's TLS settings; `None` where it has none.
pub(super) fn server(listener: &Listener) -> Result<Option<Arc<ServerConfig>>, Vec<Diagnostic>> {
    if listener.tls.is_empty() {
        return Ok(None);
    }
    let mut problems = Vec::new();
    let mut keys = Vec::new();
    for certificate in &listener.tls {
        match certified_key(certificate) {
            Ok(key) => keys.push(Arc::new(key)),
            Err(more) => problems.extend(more),
        }
    }
    let verifier = listener.client_ca.as_ref().map(client_verifier).transpose();
    let verifier = verifier.map_err(|problem| problems.push(problem)).unwrap_or(None);
    if !problems.is_empty() {
        return Err(problems);
    }
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![impossible(listener, &error)])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(BySni { keys }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn impossible(listener: &Listener, error: &rustls::Error) -> Diagnostic {
    Diagnostic::error(format!("TLS cannot be set up: {error}"), listener.address.span.clone())
}

/// How a version's `https://` upstreams are connected to.
pub(super) fn upstream(tls: &UpstreamTls) -> Result<UpstreamConnector, Vec<Diagnostic>> {
    let mut hasher = DefaultHasher::new();
    tls.server_name.hash(&mut hasher);
    let mut problems = Vec::new();
    let roots = match &tls.ca {
        Some(path) => roots(path, &mut hasher).map_err(|problem| problems.push(problem)).ok(),
        None => Some(system_roots()),
    };
    let client = tls.client.as_ref().map(|client| identity(client, &mut hasher)).transpose();
    let client = client.map_err(|more| problems.extend(more)).unwrap_or(None);
    let (Some(roots), true) = (roots, problems.is_empty()) else { return Err(problems) };
    let config = client_config(roots, client).map_err(|error| {
        let span = tls.client.as_ref().map_or(0..0, |client| client.certificate.span.clone());
        vec![Diagnostic::error(format!("this certificate and key cannot be used: {error}"), span)]
    })?;
    let with_alpn = |protocols: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    Ok(UpstreamConnector {
        identity: hasher.finish(),
        any: with_alpn(&[b"h2", b"http/1.1"]),
        http1: with_alpn(&[b"http/1.1"]),
        server_name: tls.server_name.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok()),
    })
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_config(roots: Arc<RootCertStore>, client: Option<Chain>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The one provider of cryptography. Passed explicitly, so that nothing depends on a process-wide default.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // For the first random bytes of a process the library gathers entropy, which takes 36 ms of a core where it was built
        // without the settings of `.cargo/config.toml`: all connections of a thread would wait for that in its first
        // handshake. If there are none, the handshakes will say so.
        let _ = provider.secure_random.fill(&mut [0]);
        Arc::new(provider)
    }))
}

/// The system's certificate authorities, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority of the system cannot be read");
        }
        store.add_parsable_certificates(found.certs);
        Arc::new(store)
    }))
}

fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, Vec<Diagnostic>> {
    let (chain, key) = identity(certificate, &mut DefaultHasher::new())?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        let title = format!("this certificate and key cannot be used together: {error}");
        let help = "the key must be the one that the certificate (the first of its file) was made for";
        vec![Diagnostic::error(title, certificate.certificate.span.clone()).help(help)]
    })
}

/// A chain and its key.
fn identity(certificate: &Certificate, hasher: &mut DefaultHasher) -> Result<Chain, Vec<Diagnostic>> {
    let chain = certificates(&certificate.certificate, hasher);
    let key = private_key(&certificate.key, hasher);
    match (chain, key) {
        (Ok(chain), Ok(key)) => Ok((chain, key)),
        (chain, key) => Err([chain.err(), key.err()].into_iter().flatten().collect()),
    }
}

fn certificates(
    path: &Spanned<PathBuf>,
    hasher: &mut DefaultHasher,
) -> Result<Vec<CertificateDer<'static>>, Diagnostic> {
    let text = read(path)?;
    text.hash(hasher);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| unreadable(path, &format!("it is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(unreadable(path, "it has no certificate").expected("a PEM file with `BEGIN CERTIFICATE`"));
    }
    for certificate in &chain {
        webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| unreadable(path, &format!("a certificate in it does not parse: {error}")))?;
    }
    Ok(chain)
}

fn private_key(
    path: &Spanned<PathBuf>,
    hasher: &mut DefaultHasher,
) -> Result<PrivateKeyDer<'static>, Diagnostic> {
    let text = read(path)?;
    text.hash(hasher);
    let expected = "a PEM file with one private key (PKCS#8, PKCS#1 or SEC1), not encrypted";
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| unreadable(path, &format!("it has no private key: {error}")).expected(expected))
}

fn roots(path: &Spanned<PathBuf>, hasher: &mut DefaultHasher) -> Result<Arc<RootCertStore>, Diagnostic> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, hasher)? {
        store.add(certificate).map_err(|error| {
            unreadable(path, &format!("a certificate in it cannot be an authority: {error}"))
        })?;
    }
    Ok(Arc::new(store))
}

fn client_verifier(
    path: &Spanned<PathBuf>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Diagnostic> {
    let roots = roots(path, &mut DefaultHasher::new())?;
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| unreadable(path, &error.to_string()))
}

fn read(path: &Spanned<PathBuf>) -> Result<Vec<u8>, Diagnostic> {
    let mut text = Vec::new();
    let file = std::fs::File::open(&path.value).map_err(|error| unreadable(path, &error.to_string()))?;
    file.take(MAX_PEM + 1).read_to_end(&mut text).map_err(|error| unreadable(path, &error.to_string()))?;
    if text.len() as u64 > MAX_PEM {
        return Err(unreadable(path, "it is larger than 1 MiB"));
    }
    Ok(text)
}

fn unreadable(path: &Spanned<PathBuf>, why: &str) -> Diagnostic {
    let title = format!("{} cannot be used: {why}", path.value.display());
    Diagnostic::error(title, path.span.clone()).label("named here")
}

/// Chooses the first certificate that is valid for the name a client asks for; the first of all where none is.
#[derive(Debug)]
struct BySni {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let valid = |key: &&Arc<CertifiedKey>| {
            let (Some(name), Some(leaf)) = (&name, key.cert.first()) else { return false };
            webpki::EndEntityCert::try_from(leaf)
                .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
        };
        self.keys.iter().find(valid).or(self.keys.first()).cloned()
    }
}
