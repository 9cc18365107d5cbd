//! TLS on both sides: which certificate, who is verified, and what a reload changes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gradual::proxy::Timing;
use http::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::kit::{
    ANY, Backend, Proxy, Speaks, ask1, ask2, eventually, file, get, get1, get2, http1, http2, listen, run,
    says, serve, whole,
};

/// An authority that issues certificates as files of a folder.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Writes its own certificate as `<name>.pem`.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Self(issuer)
    }

    /// Writes `<stem>.pem` and `<stem>.key` of a certificate for these names.
    pub(crate) fn issue(&self, folder: &Path, stem: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join(format!("{stem}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{stem}.key")), key.serialize_pem()).unwrap();
    }
}

fn chain(folder: &Path, stem: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{stem}.pem"))).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_file(folder.join(format!("{stem}.key"))).unwrap())
}

fn roots(folder: &Path, authority: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join(format!("{authority}.pem"))).unwrap()).unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A client that trusts `ca.pem`, offers these protocols and, if it has one, shows a certificate.
pub(crate) fn connector(folder: &Path, alpn: &[&str], identity: Option<&str>) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(folder, "ca"));
    let mut config = match identity {
        Some(stem) => {
            let (chain, key) = chain(folder, stem);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    TlsConnector::from(Arc::new(config))
}

/// Connects by TLS to a proxy, asking for a name.
pub(crate) async fn connect(
    proxy: &Proxy,
    name: &'static str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = connector(proxy.folder.path(), alpn, None);
    connector.connect(ServerName::try_from(name).unwrap(), proxy.connect().await).await
}

/// Which of the folder's certificates the server showed.
fn shown(stream: &TlsStream<TcpStream>, folder: &Path, stems: &[&str]) -> String {
    let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
    let is_it = |stem: &&&str| chain(folder, stem).0[0] == *shown;
    (*stems.iter().find(is_it).expect("one of them")).to_string()
}

/// A folder with `ca`, and `a` for a.example, issued by it.
fn folder() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    ca.issue(folder.path(), "a", &["a.example"]);
    (folder, ca)
}

fn listener(stems: &[&str]) -> String {
    let one = |stem: &&str| format!("{{ certificate = \"{stem}.pem\", key = \"{stem}.key\" }}");
    format!("{ANY}\ntls = [{}]", stems.iter().map(one).collect::<Vec<_>>().join(", "))
}

async fn hello() -> Backend {
    says(Speaks::Http1, |request| format!("hello {:?}", request.headers()["x-forwarded-proto"])).await
}

#[test]
fn the_protocol_is_agreed_by_alpn_and_without_it_is_http1() {
    run(async {
        let upstream = hello().await;
        let (folder, _) = folder();
        let text = file(&listener(&["a"]), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let stream = connect(&proxy, "a.example", &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut client, _) = http2(stream).await;
        assert_eq!(ask2(&mut client, get2("/")).await.text, r#"hello "https""#);
        for alpn in [&["http/1.1"][..], &[]] {
            let stream = connect(&proxy, "a.example", alpn).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), alpn.first().map(|name| name.as_bytes()));
            let (mut client, _) = http1(stream).await;
            assert_eq!(ask1(&mut client, get1("/")).await.text, r#"hello "https""#);
        }
    });
}

#[test]
fn the_certificate_is_chosen_by_sni_and_the_first_is_the_default() {
    run(async {
        let upstream = hello().await;
        let (folder, ca) = folder();
        ca.issue(folder.path(), "b", &["b.example", "*.b.example"]);
        let text = file(&listener(&["a", "b"]), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let of = |stream: &TlsStream<TcpStream>| shown(stream, proxy.folder.path(), &["a", "b"]);
        for (name, stem) in [("a.example", "a"), ("b.example", "b"), ("www.b.example", "b")] {
            assert_eq!(of(&connect(&proxy, name, &[]).await.unwrap()), stem);
        }
        // The client refuses what the default is for another name: that is how it can be told.
        let refused = connect(&proxy, "c.example", &[]).await.unwrap_err().to_string();
        assert!(refused.contains("a.example"), "{refused}");
        let plain = connector(proxy.folder.path(), &[], None);
        let refused = plain.connect(ServerName::try_from("127.0.0.1").unwrap(), proxy.connect().await).await;
        assert!(refused.unwrap_err().to_string().contains("a.example"));
    });
}

#[test]
fn certificates_are_read_again_on_reload_and_open_connections_go_on() {
    run(async {
        let upstream = hello().await;
        let (folder, ca) = folder();
        let text = file(&listener(&["a"]), "", &upstream.upstream("http"));
        let mut proxy = Proxy::start_in(folder, 1, &text).await;
        let (mut before, _) = http1(connect(&proxy, "a.example", &[]).await.unwrap()).await;
        assert_eq!(ask1(&mut before, get1("/")).await.status, StatusCode::OK);
        let path = proxy.folder.path().to_owned();
        std::fs::copy(path.join("a.pem"), path.join("old.pem")).unwrap();
        std::fs::copy(path.join("a.key"), path.join("old.key")).unwrap();
        ca.issue(&path, "a", &["a.example"]);
        let stems = ["a", "old"];
        assert_eq!(shown(&connect(&proxy, "a.example", &[]).await.unwrap(), &path, &stems), "old");
        proxy.reload(&text).await.unwrap();
        assert_eq!(shown(&connect(&proxy, "a.example", &[]).await.unwrap(), &path, &stems), "a");
        assert_eq!(ask1(&mut before, get1("/")).await.status, StatusCode::OK);
    });
}

#[test]
fn with_client_ca_only_clients_with_a_certificate_of_it_are_served() {
    run(async {
        let upstream = hello().await;
        let (folder, ca) = folder();
        ca.issue(folder.path(), "known", &["known"]);
        let other = Authority::new(folder.path(), "other");
        other.issue(folder.path(), "stranger", &["stranger"]);
        let text =
            file(&format!("{}\nclient_ca = \"ca.pem\"", listener(&["a"])), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let name = || ServerName::try_from("a.example").unwrap();
        for (identity, served) in [(Some("known"), true), (Some("stranger"), false), (None, false)] {
            let connector = connector(proxy.folder.path(), &[], identity);
            // In TLS 1.3 the client learns of the refusal only when it reads.
            let answer = async {
                let mut stream = connector.connect(name(), proxy.connect().await).await?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.map(|_| answer)
            };
            let answer = answer.await;
            assert_eq!(
                answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")),
                served,
                "{identity:?}"
            );
        }
        assert_eq!(upstream.connections(), 1);
    });
}

/// A server's side of TLS with certificate `<stem>`, which asks for client certificates of `demands`.
fn acceptor(folder: &Path, stem: &str, alpn: &[&str], demands: Option<&str>) -> TlsAcceptor {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match demands {
        Some(authority) => {
            let roots = roots(folder, authority);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = chain(folder, stem);
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols(alpn);
    TlsAcceptor::from(Arc::new(config))
}

/// An upstream with that.
async fn secure(folder: &Path, stem: &str, alpn: &[&str], demands: Option<&str>) -> Backend {
    let acceptor = acceptor(folder, stem, alpn, demands);
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let tls = stream.get_ref().1;
            let http2 = tls.alpn_protocol() == Some(b"h2");
            let named = tls.server_name().map(str::to_owned);
            let answer = move |request: http::Request<hyper::body::Incoming>| {
                let text = format!("{:?} {named:?}", request.version());
                async move { http::Response::new(whole(text)) }
            };
            serve(stream, http2, answer).await;
        }
    })
    .await
}

/// What a client gets of a version with these TLS settings.
async fn through(folder: TempDir, upstream: &Backend, settings: &str) -> Vec<super::kit::Answer> {
    let text = file(ANY, "", &format!("{}\n{settings}", upstream.upstream("https")));
    let proxy = Proxy::start_in(folder, 1, &text).await;
    vec![get(proxy.address(), "/").await, get(proxy.address(), "/").await]
}

#[test]
fn an_https_upstream_is_spoken_to_in_the_protocol_that_it_chooses_by_alpn() {
    run(async {
        for (alpn, version) in
            [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
        {
            let (folder, ca) = folder();
            ca.issue(folder.path(), "up", &["127.0.0.1"]);
            let upstream = secure(folder.path(), "up", alpn, None).await;
            for answer in through(folder, &upstream, r#"tls = { ca = "ca.pem" }"#).await {
                assert!(answer.text.starts_with(version), "{alpn:?}: {answer:?}");
            }
            assert_eq!(upstream.connections(), 1, "{alpn:?}");
        }
    });
}

#[test]
fn an_https_upstream_that_speaks_http1_is_dialed_by_all_at_once_as_soon_as_that_is_known() {
    run(async {
        let (folder, ca) = folder();
        ca.issue(folder.path(), "up", &["127.0.0.1"]);
        let acceptor = acceptor(folder.path(), "up", &["http/1.1"], None);
        // The first connection waits for a word, the others for each other.
        let (go, others) = (Arc::new(Semaphore::new(0)), Arc::new(Barrier::new(7)));
        let (wait, first) = (Arc::clone(&go), Arc::new(AtomicBool::new(true)));
        let upstream = listen(move |stream| {
            let (acceptor, wait, others) = (acceptor.clone(), Arc::clone(&wait), Arc::clone(&others));
            let is_first = first.swap(false, Ordering::SeqCst);
            async move {
                if is_first {
                    wait.acquire().await.unwrap().forget();
                } else {
                    others.wait().await;
                }
                let stream = acceptor.accept(stream).await.unwrap();
                serve(stream, false, async |_| http::Response::new(whole("here"))).await;
            }
        })
        .await;
        let version = format!("{}\ntls = {{ ca = \"ca.pem\" }}", upstream.upstream("https"));
        let text = file(ANY, r#"timeouts = { connect = "30s" }"#, &version);
        let (proxy, counts) = Proxy::start_counting(folder, Timing::default(), 1, &text).await;
        let address = proxy.address();
        let clients: JoinSet<_> = (0..8).map(|_| get(address, "/")).collect();
        eventually("all wait", || counts.under_way() == 8).await;
        go.add_permits(1);
        assert!(clients.join_all().await.iter().all(|answer| answer.text == "here"));
        assert_eq!(upstream.connections(), 8);
    });
}

#[test]
fn an_upstream_whose_certificate_no_known_authority_issued_is_refused() {
    run(async {
        let (folder, ca) = folder();
        ca.issue(folder.path(), "up", &["127.0.0.1"]);
        Authority::new(folder.path(), "other");
        let upstream = secure(folder.path(), "up", &["h2"], None).await;
        for answer in through(folder, &upstream, r#"tls = { ca = "other.pem" }"#).await {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.error(), Some("tls-failed"));
        }
    });
}

#[test]
fn a_self_signed_upstream_is_refused_unless_its_certificate_is_the_ca() {
    run(async {
        for (settings, status) in [("", 503), (r#"tls = { ca = "self.pem" }"#, 200)] {
            let folder = tempfile::tempdir().unwrap();
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
            std::fs::write(folder.path().join("self.pem"), made.cert.pem()).unwrap();
            std::fs::write(folder.path().join("self.key"), made.signing_key.serialize_pem()).unwrap();
            let upstream = secure(folder.path(), "self", &["http/1.1"], None).await;
            for answer in through(folder, &upstream, settings).await {
                assert_eq!(answer.status.as_u16(), status, "{answer:?}");
                assert_eq!(answer.error(), (status == 503).then_some("tls-failed"));
            }
        }
    });
}

#[test]
fn an_upstream_must_have_a_certificate_for_the_name_that_is_configured() {
    run(async {
        for (name, status) in [("inner.example", 200), ("outer.example", 503)] {
            let (folder, ca) = folder();
            ca.issue(folder.path(), "up", &["inner.example"]);
            let upstream = secure(folder.path(), "up", &["h2", "http/1.1"], None).await;
            let settings = format!("tls = {{ ca = \"ca.pem\", server_name = \"{name}\" }}");
            for answer in through(folder, &upstream, &settings).await {
                assert_eq!(answer.status.as_u16(), status);
                match status {
                    200 => assert!(answer.text.contains(r#"Some("inner.example")"#), "{answer:?}"),
                    _ => assert_eq!(answer.error(), Some("tls-failed")),
                }
            }
        }
    });
}

#[test]
fn an_upstream_that_demands_a_client_certificate_is_shown_the_one_configured() {
    run(async {
        for (alpn, more, status) in [
            ("h2", r#", certificate = "me.pem", key = "me.key""#, Some(200)),
            ("http/1.1", r#", certificate = "me.pem", key = "me.key""#, Some(200)),
            ("http/1.1", "", None),
            ("h2", "", None),
        ] {
            let (folder, ca) = folder();
            ca.issue(folder.path(), "up", &["127.0.0.1"]);
            ca.issue(folder.path(), "me", &["gradual"]);
            let upstream = secure(folder.path(), "up", &[alpn], Some("ca")).await;
            for answer in through(folder, &upstream, &format!("tls = {{ ca = \"ca.pem\"{more} }}")).await {
                match status {
                    Some(status) => assert_eq!(answer.status.as_u16(), status, "{answer:?}"),
                    // In TLS 1.3 the refusal comes when the handshake is over for the client.
                    None => {
                        assert!(answer.status.is_server_error() && answer.error().is_some(), "{answer:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_new_upstream_authority_counts_for_new_connections_at_once() {
    run(async {
        let (folder, ca) = folder();
        ca.issue(folder.path(), "up", &["127.0.0.1"]);
        std::fs::copy(folder.path().join("ca.pem"), folder.path().join("trusted.pem")).unwrap();
        let upstream = secure(folder.path(), "up", &["h2"], None).await;
        let version = format!("{}\ntls = {{ ca = \"trusted.pem\" }}", upstream.upstream("https"));
        let mut proxy = Proxy::start_in(folder, 1, &file(ANY, "", &version)).await;
        assert_eq!(get(proxy.address(), "/").await.status, StatusCode::OK);
        Authority::new(proxy.folder.path(), "trusted");
        proxy.reload(&file(ANY, "", &version)).await.unwrap();
        assert_eq!(get(proxy.address(), "/").await.error(), Some("tls-failed"));
    });
}

#[test]
fn a_silent_tls_upstream_is_given_up_when_the_connect_deadline_has_passed() {
    run(async {
        let (folder, _) = folder();
        let upstream = listen(|mut stream| async move { while stream.read_u8().await.is_ok() {} }).await;
        let text = file(
            ANY,
            r#"timeouts = { connect = "100ms" }"#,
            &format!("{}\ntls = {{ ca = \"ca.pem\" }}", upstream.upstream("https")),
        );
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let answer = get(proxy.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.error()), (503, Some("connect-timeout")));
    });
}

#[test]
fn a_client_that_speaks_no_tls_to_a_tls_listener_is_closed() {
    run(async {
        let upstream = hello().await;
        let (folder, _) = folder();
        let text = file(&listener(&["a"]), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let rest = super::kit::exchange(proxy.address(), b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert!(!rest.contains("HTTP/1.1"), "{rest:?}");
        assert_eq!(upstream.connections(), 0);
    });
}

/// The first message of a client that offers no version but this one, with a cipher suite that all versions have.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    // No session; TLS_RSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    body.extend([0, 0, 4, 0x00, 0x2f, 0xc0, 0x2b, 1, 0]);
    // secp256r1 as the group, ecdsa_secp256r1_sha256 as the signature.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[test]
fn tls_1_2_is_spoken_and_nothing_older() {
    run(async {
        let upstream = hello().await;
        let (folder, _) = folder();
        let text = file(&listener(&["a"]), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        for (version, alert) in [([3, 0], true), ([3, 1], true), ([3, 2], true), ([3, 3], false)] {
            let mut stream = proxy.connect().await;
            stream.write_all(&client_hello(version)).await.unwrap();
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).await.unwrap();
            if alert {
                // A fatal alert: protocol_version.
                assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{version:?}");
            } else {
                // A handshake message.
                assert_eq!(answer[0], 22, "{version:?} {answer:?}");
            }
        }
    });
}
