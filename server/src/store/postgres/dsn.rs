//! Where Postgres is, and how the way there is secured.
//!
//! A DSN is a URL or a list of `key=value`, as libpq takes it: several hosts, `sslmode`
//! (`disable`, `prefer`, `require`, `verify-ca`, `verify-full`) and `sslrootcert` (a file; without
//! it the machine's own certificates). As in libpq, `require` encrypts without asking who answers,
//! unless there is an `sslrootcert`. Only a server that can be written to is accepted, whatever
//! `target_session_attrs` says: a standby grants the leader's lock and refuses its work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long one attempt to connect to one host may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long what was sent may stay without an answer of the host's kernel.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(4);

/// A parsed DSN. Its `Debug` form has no password.
#[derive(Clone)]
pub struct Dsn {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dsn({})", self.address())
    }
}

/// How far the server is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    /// Anybody may answer.
    Nothing,
    /// Its certificate must be signed by one that is trusted.
    Authority,
    /// And be for the host that was asked for.
    Name,
}

impl Dsn {
    /// Reads a DSN; `password` is used if it has none of its own.
    ///
    /// # Errors
    ///
    /// What is wrong, without the secret parts.
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, String> {
        let (rest, ours) = take_ours(text)?;
        let mut config: tokio_postgres::Config =
            rest.parse().map_err(|error: tokio_postgres::Error| chain(&error))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("it names no host".into());
        }
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        let root = ours.root.clone();
        let (mode, verify) = match ours.mode.as_deref() {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Verify::Nothing),
            Some("require") if root.is_some() => (SslMode::Require, Verify::Authority),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Authority),
            Some("verify-full") => (SslMode::Require, Verify::Name),
            Some(other) => {
                return Err(format!(
                    "sslmode {other} is unknown: use disable, prefer, require, verify-ca or \
                     verify-full"
                ));
            }
        };
        config
            .ssl_mode(mode)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(2)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        Ok(Self { config, tls: MakeRustlsConnect::new(tls(verify, root)?) })
    }

    pub(crate) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(crate) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    /// The hosts and the database, for people.
    pub fn address(&self) -> String {
        let ports = self.config.get_ports();
        let port = |place: usize| ports.get(place).or(ports.first()).copied().unwrap_or(5432);
        let hosts = self.config.get_hosts().iter().enumerate().map(|(place, host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(place)),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        format!("{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or_default())
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// What the Postgres library does not know of a DSN.
#[derive(Debug, Default, PartialEq)]
struct Ours {
    mode: Option<String>,
    root: Option<PathBuf>,
}

impl Ours {
    /// Whether it was one of ours.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "sslmode" => self.mode = Some(value.into()),
            "sslrootcert" => self.root = (value != "system").then(|| value.into()),
            "sslcert" | "sslkey" => {
                return Err(format!("{key}: client certificates are not supported"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn take_ours(text: &str) -> Result<(String, Ours), String> {
    let mut ours = Ours::default();
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let (start, query) = text.split_once('?').unwrap_or((text, ""));
        let mut left = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            if !ours.take(key, &value)? {
                left.push(pair);
            }
        }
        let query = left.join("&");
        let rest = if query.is_empty() { start.into() } else { format!("{start}?{query}") };
        return Ok((rest, ours));
    }
    if !text.contains('=') {
        return Err("it is neither a URL (postgres://…) nor a list of key=value".into());
    }
    let mut left = Vec::new();
    for pair in split_pairs(text) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !ours.take(key.trim(), value.trim().trim_matches('\''))? {
            left.push(pair);
        }
    }
    Ok((left.join(" "), ours))
}

/// Splits at white space outside of quotes.
fn split_pairs(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let split = text.split(|letter: char| {
        is_quoted ^= letter == '\'';
        letter.is_whitespace() && !is_quoted
    });
    split.filter(|part| !part.is_empty()).collect()
}

fn tls(verify: Verify, root: Option<PathBuf>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if verify == Verify::Nothing {
        let anybody = Arc::new(Judge { provider, chain: None });
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth());
    }
    let roots = Arc::new(roots(root)?);
    if verify == Verify::Name {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    let judge = Arc::new(Judge { provider, chain: Some(chain) });
    Ok(builder.dangerous().with_custom_certificate_verifier(judge).with_no_client_auth())
}

fn roots(file: Option<PathBuf>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match roots.is_empty() {
            true => Err("this machine has no trusted certificates: give sslrootcert".into()),
            false => Ok(roots),
        };
    };
    let wrong = |error: &dyn std::fmt::Display| format!("sslrootcert {}: {error}", file.display());
    let certificates = CertificateDer::pem_file_iter(&file).map_err(|error| wrong(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"no certificate in it"));
    }
    Ok(roots)
}

/// Judges certificates without regard to the host's name.
#[derive(Debug)]
struct Judge {
    provider: Arc<CryptoProvider>,
    /// `None`: everybody is believed.
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_does_not_know_is_taken_out() {
        let root = Some("/ca.pem".into());
        let ours = Ours { mode: Some("verify-full".into()), root };
        for (text, rest) in [
            (
                "postgres://u:p@a:1,b:2/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fca.pem",
                "postgres://u:p@a:1,b:2/d?application_name=x",
            ),
            (
                "host=a sslmode=verify-full password='a b' sslrootcert='/ca.pem'",
                "host=a password='a b'",
            ),
        ] {
            let (left, found) = take_ours(text).unwrap();
            assert_eq!((left.as_str(), &found), (rest, &ours));
        }
    }

    #[test]
    fn a_wrong_dsn_is_refused_with_the_reason() {
        for (text, reason) in [
            ("nonsense", "neither a URL"),
            ("mysql://u@h/d", "neither a URL"),
            ("postgres://h/d?sslmode=maybe", "sslmode maybe is unknown"),
            ("postgres://h/d?sslcert=x", "client certificates"),
            ("postgres://h/d?sslmode=verify-ca&sslrootcert=/nowhere", "/nowhere"),
            ("postgres://h/d?colour=red", "colour"),
            ("dbname=d", "no host"),
        ] {
            let error = Dsn::parse(text, None).map(|dsn| dsn.address()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let dsn = Dsn::parse("postgres://u:secret@a:1,b:2/d", None).unwrap();
        assert_eq!(format!("{dsn:?}"), "Dsn(a:1,b:2/d)");
    }
}
