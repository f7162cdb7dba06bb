//! A machine of its own for a node, as far as the network goes: packets can be dropped on the way
//! to the database, as a broken switch would.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::process::Command;

use super::janitor::Janitor;
use super::ports::Claim;
use super::programs::{find, run};
use super::{Cut, FieldError};

/// Of 198.18.0.0/15, which is there for tests of networks and nobody's address: so many networks of
/// four addresses each.
const NETWORKS: std::ops::Range<u32> = 0..32_768;

const TRIES_MAX: u32 = 100;

/// A network namespace with a wire to this machine. Gone when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// This machine, as seen from there.
    host: Ipv4Addr,
    address: Ipv4Addr,
    database_port: u16,
    _network: Claim,
}

/// Whether this process may make namespaces; why not otherwise.
pub(crate) async fn are_possible() -> Result<(), String> {
    for (tool, package) in [("ip", "iproute2"), ("iptables", "iptables")] {
        if find(tool).is_none() {
            return Err(format!("{tool} is not installed (package {package})"));
        }
    }
    let probe = format!("bqp{}", std::process::id());
    for what in ["add", "del"] {
        let tried = ip(&format!("netns {what} {probe}")).await;
        tried.map_err(|error| format!("run as root to have them ({error})"))?;
    }
    Ok(())
}

async fn ip(arguments: &str) -> Result<(), FieldError> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(&format!("ip {arguments}"), &mut command).await.map(drop)
}

impl Namespace {
    /// A new one; the database is on `database_port` of this machine.
    ///
    /// # Errors
    ///
    /// If this process may not, or the tools are not there.
    pub(crate) async fn new(janitor: &Janitor, database_port: u16) -> Result<Self, FieldError> {
        let (network, claim) = free_network()?;
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + network * 4;
        let (host, address) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let name = format!("batonq-{network}");
        let (outer, inner) = (format!("bqo{network}"), format!("bqi{network}"));
        janitor.watch_namespace(&name)?;
        ip(&format!("netns add {name}")).await?;
        let namespace = Self { name, host, address, database_port, _network: claim };
        let name = &namespace.name;
        ip(&format!("link add {outer} type veth peer name {inner} netns {name}")).await?;
        ip(&format!("addr add {host}/30 dev {outer}")).await?;
        ip(&format!("link set {outer} up")).await?;
        ip(&format!("netns exec {name} ip addr add {address}/30 dev {inner}")).await?;
        ip(&format!("netns exec {name} ip link set {inner} up")).await?;
        ip(&format!("netns exec {name} ip link set lo up")).await?;
        Ok(namespace)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This machine, as seen from there.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// Who runs there, as seen from here.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The database, from there.
    pub fn database(&self) -> SocketAddr {
        (self.host, self.database_port).into()
    }

    /// What a program is to be started with, to run there.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(ToOwned::to_owned).to_vec()
    }

    /// Nothing passes to the database, or from it; everything else does.
    ///
    /// # Errors
    ///
    /// If the rules can not be set.
    pub async fn cut(&self, cut: Cut) -> Result<(), FieldError> {
        let Self { name, host, database_port, .. } = self;
        if cut != Cut::Outwards {
            let rule = format!("INPUT -p tcp -s {host} --sport {database_port} -j DROP");
            ip(&format!("netns exec {name} iptables -w 5 -A {rule}")).await?;
        }
        if cut != Cut::Inwards {
            let rule = format!("OUTPUT -p tcp -d {host} --dport {database_port} -j DROP");
            ip(&format!("netns exec {name} iptables -w 5 -A {rule}")).await?;
        }
        Ok(())
    }

    /// Everything passes. Not async, so that it can be done where something is dropped.
    ///
    /// # Errors
    ///
    /// If the rules can not be taken away.
    pub fn mend(&self) -> Result<(), FieldError> {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &self.name, "iptables", "-w", "5", "-F"]);
        let what = "mending the way to the database";
        let output = command.output().map_err(FieldError::io(what))?;
        let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.success() {
            true => Ok(()),
            false => Err(FieldError::Failed { what: what.into(), detail }),
        }
    }
}

/// A network that no other field of this machine has.
fn free_network() -> Result<(u32, Claim), FieldError> {
    for _ in 0..TRIES_MAX {
        let network = rand::random_range(NETWORKS);
        if let Some(claim) = Claim::of(&format!("batonq network {network}")) {
            return Ok((network, claim));
        }
    }
    let detail = "all are taken by other runs".into();
    Err(FieldError::Failed { what: "looking for a network".into(), detail })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its wire goes with it. If it is not gone then, the janitor tries again.
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "del", &self.name]).stderr(std::process::Stdio::null());
        command.status().ok();
    }
}
