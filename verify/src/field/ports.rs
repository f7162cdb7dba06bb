//! Ports that stay free for who will listen on them, now and after a restart.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::FieldError;

/// Below those that the system gives out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

const TRIES_MAX: u32 = 1000;

/// A name that nobody else on this machine has as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _held: UnixListener,
}

impl Claim {
    /// `None`: somebody has it.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let address = SocketAddr::from_abstract_name(name).ok()?;
        Some(Self { _held: UnixListener::bind_addr(&address).ok()? })
    }
}

/// A port of this machine.
///
/// One of the system's choice would be taken again by whoever asks next: another program, or one
/// end of a connection. So it is below those, and claimed by name.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _claim: Claim,
}

impl Port {
    /// A free one.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn free() -> Result<Self, FieldError> {
        for _ in 0..TRIES_MAX {
            let number = rand::random_range(PORTS);
            let Some(claim) = Claim::of(&format!("batonq {number}")) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: claim });
            }
        }
        let detail = format!("none is free of {PORTS:?}: end what listens there");
        Err(FieldError::Failed { what: "looking for a port".into(), detail })
    }
}
