//! A machine of its own for a node, as far as the network goes: packets can be dropped on the way
//! to the database, as a broken switch would.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Cut;

/// A network namespace with a wire to this machine. Gone when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// This machine, as seen from there.
    host: Ipv4Addr,
    /// The node, as seen from here.
    pub address: Ipv4Addr,
    database_port: u16,
}

/// Whether this process may make namespaces: it is root, and the tools are there.
pub(super) fn are_possible() -> bool {
    let has = |tool: &str| Command::new(tool).arg("-V").output().is_ok();
    let probe = format!("bqp{}", std::process::id());
    let is_made = |what| {
        let made = Command::new("ip").args(["netns", what, &probe]).output();
        made.is_ok_and(|made| made.status.success())
    };
    has("iptables") && is_made("add") && is_made("del")
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let out = Command::new(program).args(arguments.split(' ')).output().expect("it is installed");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {arguments}: {text}");
}

impl Namespace {
    /// A new one; the database is on `database_port` of this machine.
    pub fn new(database_port: u16) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let (number, process) = (COUNT.fetch_add(1, Ordering::Relaxed), std::process::id());
        // Of two test processes at once each has a network of its own.
        let net = u8::try_from(process % 250).expect("it is below 250");
        let host = Ipv4Addr::new(10, net, number, 1);
        let address = Ipv4Addr::new(10, net, number, 2);
        let name = format!("bq{process}-{number}");
        let (outer, inner) = (format!("bo{process}{number}"), format!("bi{process}{number}"));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {outer} type veth peer name {inner} netns {name}"));
        ip(&format!("addr add {host}/30 dev {outer}"));
        ip(&format!("link set {outer} up"));
        ip(&format!("netns exec {name} ip addr add {address}/30 dev {inner}"));
        ip(&format!("netns exec {name} ip link set {inner} up"));
        ip(&format!("netns exec {name} ip link set lo up"));
        Self { name, host, address, database_port }
    }

    /// The database, from there.
    pub fn database(&self) -> SocketAddr {
        (self.host, self.database_port).into()
    }

    /// What a program is to be started with, to run there.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(ToOwned::to_owned).to_vec()
    }

    /// Nothing passes to the database, or from it; everything else does.
    pub fn cut(&self, cut: Cut) {
        let Self { name, host, database_port, .. } = self;
        if cut != Cut::Outwards {
            let rule = format!("INPUT -p tcp -s {host} --sport {database_port} -j DROP");
            ip(&format!("netns exec {name} iptables -A {rule}"));
        }
        if cut != Cut::Inwards {
            let rule = format!("OUTPUT -p tcp -d {host} --dport {database_port} -j DROP");
            ip(&format!("netns exec {name} iptables -A {rule}"));
        }
    }

    /// Everything passes.
    pub fn mend(&self) {
        ip(&format!("netns exec {} iptables -F", self.name));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its wire goes with it.
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}
