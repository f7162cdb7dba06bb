//! A pooler between nodes and Postgres.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::postgres::{home, user};
use super::{Postgres, SOON, free_port};

/// A PgBouncer that lends a connection for each transaction. Stopped when dropped.
#[derive(Debug)]
pub struct Pooler {
    process: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Pooler {
    /// In front of a server.
    ///
    /// # Panics
    ///
    /// If PgBouncer is not installed (package pgbouncer).
    pub fn before(postgres: &Postgres) -> Self {
        let dir = home();
        let port = free_port();
        let users = dir.path().join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("it is ours");
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 1\nunix_socket_dir =\n\
             ignore_startup_parameters = extra_float_digits\n",
            postgres.address().port(),
            users.display()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("it is ours");
        let mut command = Command::new("pgbouncer");
        command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = user() {
            command.uid(uid).gid(gid);
        }
        let process =
            command.spawn().expect("PgBouncer is not installed: install the package pgbouncer");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let pooler = Self { process, address, _dir: dir };
        let mut tries = SOON.as_millis() / 20;
        while std::net::TcpStream::connect(address).is_err() {
            tries -= 1;
            assert!(tries > 0, "PgBouncer does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        pooler
    }

    /// The DSN of the database through it.
    pub fn dsn(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
