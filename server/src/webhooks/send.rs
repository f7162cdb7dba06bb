//! One delivery: where it may go, and how it is signed.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::broker::{Letter, Outcome};
use crate::error::Error;
use crate::limits;
use crate::store::{Secret, Webhook, WebhookFormat};

/// How long a delivery may take, from the look-up of the address to the head of the answer.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// How long one address may take to be connected to.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The head of an answer may have so many bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where webhooks may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To public addresses, over https.
    Public,
    /// Anywhere, also over http: for development.
    Anywhere,
}

impl Reach {
    /// Looks whether a webhook may have this address; what its name leads to is looked at with
    /// each delivery.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with what is wrong.
    pub fn check(self, url: &str) -> Result<(), Error> {
        let invalid = |detail: &str| Error::invalid("url", detail);
        if url.len() > limits::URL_BYTES_MAX {
            return Err(invalid(&format!("longer than {} bytes", limits::URL_BYTES_MAX)));
        }
        let target = Target::parse(url).ok_or_else(|| {
            invalid("must be a whole address, as https://example.com/hook, without a user in it")
        })?;
        if self == Self::Anywhere {
            return Ok(());
        }
        if !target.is_tls {
            return Err(invalid("must begin with https://"));
        }
        match target.host.parse::<IpAddr>() {
            Ok(address) if !is_public(address) => {
                Err(invalid("leads to an address of a private network"))
            }
            _ => Ok(()),
        }
    }

    fn allows(self, address: IpAddr) -> bool {
        self == Self::Anywhere || is_public(address)
    }
}

/// Where an address leads.
struct Target {
    uri: Uri,
    is_tls: bool,
    /// A name, or an address without brackets.
    host: String,
    port: u16,
}

impl Target {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let is_plain = !authority.as_str().contains('@') && !url.contains('#');
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        (is_plain && !host.is_empty()).then_some(Self { uri, is_tls, host, port })
    }
}

/// Whether an address is one of the open internet: not of this host, this network, or any that is
/// private or has a special meaning, also not in the clothes of another protocol.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Only 2000::/3 is given out; in it: 2001::/23 for protocols, 2001:db8::/32 and 3fff::/20 for
    // documents, 2002::/16 leads to an address of version 4.
    (0x2000..0x4000).contains(&a)
        && !(a == 0x2001 && b < 0x200)
        && !(a == 0x2001 && b == 0xdb8)
        && !(a == 0x3fff && b < 0x1000)
        && a != 0x2002
}

/// What went wrong: a word for machines, and one for people.
struct Failed(&'static str, String);

impl Failed {
    fn of(code: &'static str, error: impl std::fmt::Display) -> Self {
        Self(code, error.to_string())
    }
}

/// Makes deliveries.
#[derive(Debug)]
pub(super) struct Sender {
    reach: Reach,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Sender {
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, tls: OnceLock::new() }
    }

    /// Makes a delivery. `now` is in seconds since 1970.
    pub(super) async fn send(
        &self,
        webhook: &Webhook,
        letter: &Letter,
        body: Bytes,
        now: i64,
    ) -> Outcome {
        let posting = self.post(webhook, letter, body, now);
        let posted = tokio::time::timeout(DELIVERY_MAX, posting).await;
        let too_slow = |_| Err(Failed("TIMEOUT", "the receiver took too long".into()));
        match posted.unwrap_or_else(too_slow) {
            Ok(200..300) => Outcome::Done,
            Ok(status) => Outcome::Failed {
                code: format!("HTTP_{status}"),
                message: match status {
                    300..400 => "the receiver has moved: redirects are not followed".into(),
                    _ => "the receiver did not answer with 2xx".into(),
                },
            },
            Err(Failed(code, message)) => Outcome::Failed { code: code.into(), message },
        }
    }

    async fn post(
        &self,
        webhook: &Webhook,
        letter: &Letter,
        body: Bytes,
        now: i64,
    ) -> Result<u16, Failed> {
        let url = &webhook.spec.url;
        // The rules may have become stricter since it was made.
        self.reach.check(url).map_err(|error| Failed::of("REFUSED", error))?;
        let target =
            Target::parse(url).ok_or_else(|| Failed("REFUSED", "not an address".into()))?;
        let stream = self.connect(&target).await?;
        let request = request(webhook, letter, &target, body, now)?;
        if !target.is_tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(target.host.clone());
        let name = name.map_err(|error| Failed::of("TLS", error))?;
        let connector = TlsConnector::from(self.tls()?);
        let stream =
            connector.connect(name, stream).await.map_err(|error| Failed::of("TLS", error))?;
        exchange(stream, request).await
    }

    /// Connects to an address that has been looked at: a name that leads elsewhere a moment later
    /// changes nothing.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Failed> {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        let found = found.map_err(|error| Failed::of("DNS", error))?;
        let allowed: Vec<SocketAddr> =
            found.filter(|address| self.reach.allows(address.ip())).collect();
        let refused = "leads to no public address";
        let mut failed = Failed("REFUSED", format!("{} {refused}", target.host));
        for address in allowed {
            match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = Failed::of("CONNECT", error),
                Err(elapsed) => failed = Failed::of("CONNECT", elapsed),
            }
        }
        Err(failed)
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Failed> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Failed("TLS", "this machine has no trusted certificates".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failed::of("TLS", error))?;
        let tls = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        Ok(Arc::clone(self.tls.get_or_init(|| tls)))
    }
}

/// Sends a request; the status of the answer. What else it says is of no interest.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u16, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Failed::of("BROKEN", error);
    let mut http = hyper::client::conn::http1::Builder::new();
    let handshake = http.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The answer may have been the last thing that came.
        _ = connection => answer.await,
    };
    Ok(answer.map_err(broken)?.status().as_u16())
}

fn request(
    webhook: &Webhook,
    letter: &Letter,
    target: &Target,
    body: Bytes,
    now: i64,
) -> Result<Request<Full<Bytes>>, Failed> {
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = target.uri.authority().map_or("", |authority| authority.as_str());
    let signature = signature(webhook.spec.format, webhook.secret.as_ref(), now, &body)?;
    let request = Request::post(path)
        .header("host", host)
        .header("content-type", "application/json")
        .header("user-agent", concat!("batonq/", env!("CARGO_PKG_VERSION")))
        .header("batonq-webhook", webhook.name.as_str())
        .header("batonq-event", &letter.kind)
        .header("batonq-event-id", letter.event);
    let request = match signature {
        Some((name, value)) => request.header(name, value),
        None => request,
    };
    request.body(Full::new(body)).map_err(|error| Failed::of("REFUSED", error))
}

/// The header that shows who has sent a body.
fn signature(
    format: WebhookFormat,
    secret: Option<&Secret>,
    now: i64,
    body: &[u8],
) -> Result<Option<(&'static str, String)>, Failed> {
    match (format, secret.map(Secret::bytes)) {
        (WebhookFormat::Batonq, Some(secret)) => {
            let hash = keyed_hash(secret, &[now.to_string().as_bytes(), b".", body]);
            Ok(Some(("batonq-signature", format!("t={now},v1={hash}"))))
        }
        (WebhookFormat::Batonq, None) => Err(Failed("REFUSED", "the webhook has no secret".into())),
        (WebhookFormat::Flashq, Some(secret)) => {
            Ok(Some(("x-flashq-signature", keyed_hash(secret, &[body]))))
        }
        (WebhookFormat::Flashq, None) => Ok(None),
    }
}

/// The HMAC-SHA256 of these parts together, in lower-case hex digits.
fn keyed_hash(secret: &[u8], parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key may have any length");
    parts.iter().for_each(|part| mac.update(part));
    let mut text = String::new();
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_open_internet_are_public() {
        for public in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn an_address_is_https_and_whole() {
        for good in ["https://example.com/hook?x=1", "https://example.com:8443", "https://1.1.1.1/"]
        {
            assert!(Reach::Public.check(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "ftp://example.com/",
            "example.com",
            "/hook",
            "",
            "https://",
            "https://user:word@example.com/",
            "https://example.com/#part",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/latest",
        ] {
            assert!(Reach::Public.check(bad).is_err(), "{bad}");
        }
        assert!(Reach::Anywhere.check("http://127.0.0.1:80/").is_ok());
    }

    #[test]
    fn a_signature_is_as_its_format_has_it() {
        let signed = |format| {
            let secret = Secret::parse("a secret of ours", format).unwrap();
            signature(format, Some(&secret), 1_700_000_000, b"{}").ok().flatten().unwrap()
        };
        // echo -n '1700000000.{}' | openssl dgst -sha256 -hmac 'a secret of ours'
        let hash = "1715c4e6b587201d71c5f8d18b5c82786955408c04c206bc792a1a911d1f8eed";
        let ours = ("batonq-signature", format!("t=1700000000,v1={hash}"));
        assert_eq!(signed(WebhookFormat::Batonq), ours);
        // echo -n '{}' | openssl dgst -sha256 -hmac 'a secret of ours'
        let hash = "b8cceb44a08711adcbbfe767559199a9567e14f41ebcda2f9f1c099f5c3e2d4d";
        assert_eq!(signed(WebhookFormat::Flashq), ("x-flashq-signature", hash.to_owned()));
    }

    #[test]
    fn only_flashq_is_told_without_a_signature() {
        let unsigned = |format| signature(format, None, 1_700_000_000, b"{}");
        assert!(matches!(unsigned(WebhookFormat::Batonq), Err(Failed("REFUSED", _))));
        assert!(matches!(unsigned(WebhookFormat::Flashq), Ok(None)));
    }
}
