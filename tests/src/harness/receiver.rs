//! A receiver of webhooks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::SOON;

/// Gets deliveries and answers them as it is told, 200 otherwise.
#[derive(Debug)]
pub struct Receiver {
    /// Where it is.
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
    answers: Answers,
}

/// Statuses and places to go to instead.
type Answers = Arc<Mutex<Vec<(u16, Option<String>)>>>;

/// A delivery.
#[derive(Debug)]
pub struct Received {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Received {
    /// A header as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The event.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an event is JSON")
    }
}

impl Receiver {
    /// Over http.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// Over https, with a new certificate for `localhost`, which is left at `certificate`.
    pub async fn start_with_tls(dir: &Path, certificate: &Path) -> Self {
        let key = dir.join("key.pem");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(certificate)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (got, received) = mpsc::unbounded_channel();
        let answers = Answers::default();
        let given = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (got, answers, tls) = (got.clone(), Arc::clone(&given), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, got, answers).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, got, answers).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, received, answers }
    }

    /// The address of a hook, over http.
    pub fn url(&self) -> String {
        format!("http://{}/hook?of=ours", self.address)
    }

    /// Answers the next delivery so, after those that were given before.
    pub fn answer(&self, status: u16, location: Option<&str>) {
        self.answers.lock().push((status, location.map(Into::into)));
    }

    /// The next delivery.
    ///
    /// # Panics
    ///
    /// If none comes soon.
    pub async fn next(&mut self) -> Received {
        // What a killed node had under way is made again after its lease has run out.
        let next = tokio::time::timeout(3 * SOON, self.received.recv()).await;
        next.expect("a delivery soon").expect("it listens")
    }

    /// What has come and was not asked for yet.
    pub fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

async fn serve<S>(stream: S, got: mpsc::UnboundedSender<Received>, answers: Answers)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (got, answers) = (got.clone(), Arc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            // The test may be over.
            got.send(Received { headers: parts.headers, body }).ok();
            let mut answers = answers.lock();
            let (status, location) =
                if answers.is_empty() { (200, None) } else { answers.remove(0) };
            let mut response = Response::builder().status(status);
            if let Some(location) = location {
                response = response.header("location", location);
            }
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).expect("a response"))
        }
    });
    // Whoever hangs up early has seen enough.
    http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
}
