//! A throw-away Postgres from the server programs that are installed here.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{SOON, eventually};

/// Faults need a real disk; speed needs none.
const FAST: [&str; 3] = ["fsync=off", "full_page_writes=off", "synchronous_commit=on"];

/// Between two looks whether the server is up.
const PAUSE: Duration = Duration::from_millis(20);

/// A database server of its own, on a free port of this machine, gone when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
}

/// Where the server's programs are.
///
/// # Panics
///
/// If there are none: tests that need Postgres do not pass without it.
fn bin() -> PathBuf {
    let mut places: Vec<PathBuf> = glob("/usr/lib/postgresql");
    places.extend(glob("/usr/pgsql"));
    places.sort_by_key(|place| place.to_string_lossy().len());
    places.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    let found = places.into_iter().find(|place| place.join("initdb").exists());
    found.expect("no Postgres server programs (initdb, postgres): install the package postgresql")
}

fn glob(parent: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join("bin")).collect()
}

/// The user to run the server as: it refuses to be run by root.
pub(super) fn user() -> Option<(u32, u32)> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    is_root.then(|| {
        let id = |flag| {
            let out = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
            String::from_utf8_lossy(&out.stdout).trim().parse().ok()
        };
        let ids = id("-u").zip(id("-g"));
        ids.expect("tests run by root need a user named postgres to run the server as")
    })
}

fn program(name: &str) -> Command {
    let mut command = Command::new(bin().join(name));
    command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(mut command: Command) {
    let out = command.stderr(Stdio::piped()).output().expect("a server program runs");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {text}");
}

/// A port that is free, and that no other test gets as long as this process lives.
///
/// A port of the system's choice would be taken again by whoever asks next: another test, or one
/// end of a connection. So it is below those, and a name that lasts as long as the process says
/// that it is taken.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    loop {
        let port: u16 = rand::random_range(20_000..32_000);
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("batonq {port}"));
        let Ok(taken) = UnixListener::bind_addr(&name.expect("it is short")) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            TAKEN.lock().push(taken);
            return port;
        }
    }
}

/// A directory that the server's user can use.
pub(super) fn home() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("it is ours");
    if let Some((uid, gid)) = user() {
        chown(dir.path(), Some(uid), Some(gid)).expect("we are root");
    }
    dir
}

/// Copies an empty cluster of databases. It is made once for each version of the programs, and kept
/// with what was built.
fn create(data: &Path) {
    let version = bin().to_string_lossy().replace('/', "_");
    let here = std::env::current_exe().expect("a test knows where it is");
    let target = here.ancestors().find(|dir| dir.ends_with("target")).expect("cargo builds tests");
    let cache = target.join("tmp").join(format!("postgres{version}"));
    if !cache.exists() {
        let made = home();
        let data = made.path().join("data");
        let mut init = program("initdb");
        init.arg("-D").arg(&data);
        init.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]);
        run(init);
        let new = target.join("tmp").join(format!("postgres-{}", std::process::id()));
        std::fs::create_dir_all(target.join("tmp")).expect("it is ours");
        copy(&data, &new);
        // Of several that make it at once, one wins.
        if std::fs::rename(&new, &cache).is_err() {
            std::fs::remove_dir_all(&new).expect("it is ours");
        }
    }
    copy(&cache, data);
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    run(copy);
}

impl Postgres {
    /// A server that is fast and forgets with the machine, though not with itself.
    pub fn start() -> Self {
        Self::start_with(&FAST)
    }

    /// A server with these settings, `name=value`.
    pub fn start_with(settings: &[&str]) -> Self {
        let dir = home();
        create(&dir.path().join("data"));
        Self::at(dir, settings)
    }

    fn at(dir: TempDir, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self { dir, port: free_port(), settings, process: Mutex::new(None) };
        server.resume();
        server
    }

    /// A server that speaks TLS only, with a certificate for `localhost` and not for 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If openssl is not installed.
    pub fn with_tls() -> Self {
        let dir = home();
        create(&dir.path().join("data"));
        let (key, certificate) = (dir.path().join("server.key"), dir.path().join("server.crt"));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        make.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        make.args(["-addext", "subjectAltName=DNS:localhost"]);
        make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        make.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        run(make);
        let secret = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&key, secret).expect("it is ours");
        if let Some((uid, gid)) = user() {
            chown(&key, Some(uid), Some(gid)).expect("we are root");
        }
        let access = "hostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(dir.path().join("data/pg_hba.conf"), access).expect("it is ours");
        let key = format!("ssl_key_file={}", key.display());
        let certificate = format!("ssl_cert_file={}", certificate.display());
        Self::at(dir, &["ssl=on", "fsync=off", &key, &certificate])
    }

    /// The certificate of a server that speaks TLS.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("server.crt")
    }

    /// The server that all tests of this process share; it goes with the last of them.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A copy that follows this server, as `synchronous_standby_names` would name it.
    pub fn standby(&self, name: &str) -> Self {
        let dir = home();
        let data = dir.path().join("data");
        let mut backup = program("pg_basebackup");
        let port = self.port.to_string();
        let source =
            format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        backup.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
        backup.args(["-X", "stream", "-c", "fast", "--no-sync"]);
        run(backup);
        std::fs::write(data.join("standby.signal"), "").expect("the directory is there");
        let settings = [format!("primary_conninfo={source}"), "hot_standby=on".to_owned()];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Self::at(dir, &settings)
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        let mut promote = program("pg_ctl");
        promote.arg("-D").arg(self.data()).args(["promote", "-w"]);
        run(promote);
    }

    /// Starts the server again where it was.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn resume(&self) {
        let mut server = program("postgres");
        server.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        server.arg("-k").arg(self.dir.path());
        server.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]);
        server.args(["-c", "shared_buffers=64MB", "-c", "wal_level=replica"]);
        for setting in &self.settings {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log file");
        server.stderr(log);
        let mut process = server.spawn().expect("postgres starts");
        let mut tries = SOON.as_millis() / PAUSE.as_millis();
        while !self.accepts() {
            // The children of a server that was killed hold its memory for a moment.
            if process.try_wait().expect("it can be waited for").is_some() {
                process = server.spawn().expect("postgres starts");
            }
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            tries -= 1;
            assert!(tries > 0, "postgres does not come up: {}", log());
            std::thread::sleep(PAUSE);
        }
        *self.process.lock() = Some(process);
    }

    fn accepts(&self) -> bool {
        let mut ready = program("pg_isready");
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// All that is in it, as `pg_dump` writes it; bytes that are text as text.
    ///
    /// # Panics
    ///
    /// If it can not be dumped.
    pub fn dump(&self) -> String {
        let mut dump = program("pg_dump");
        dump.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        dump.arg("postgres").env("PGOPTIONS", "-c bytea_output=escape");
        let out = dump.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("it runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// From now on nodes in network namespaces of this machine may connect.
    pub fn trust_namespaces(&self) {
        self.add_rule("host all all 10.0.0.0/8 trust\n");
    }

    /// From now on this user must show a password.
    pub fn demand_passwords(&self, user: &str) {
        self.add_rule(&format!("host all {user} 127.0.0.1/32 scram-sha-256\n"));
    }

    fn add_rule(&self, rule: &str) {
        let file = self.data().join("pg_hba.conf");
        let rest = std::fs::read_to_string(&file).expect("the server has it");
        std::fs::write(&file, rule.to_owned() + &rest).expect("it is ours");
        let mut reload = program("pg_ctl");
        reload.arg("-D").arg(self.data()).arg("reload");
        run(reload);
    }

    /// A directory that both the server and the test can use.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the server as `pg_ctl stop -m` would: `fast`, `immediate`.
    pub fn stop(&self, mode: &str) {
        let mut stop = program("pg_ctl");
        stop.arg("-D").arg(self.data()).args(["stop", "-w", "-m", mode]);
        run(stop);
        if let Some(mut process) = self.process.lock().take() {
            process.wait().expect("it can be waited for");
        }
    }

    /// Kills the server's first process; its children go by themselves.
    pub fn kill(&self) {
        if let Some(mut process) = self.process.lock().take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it can be waited for");
        }
    }

    /// Kills all of the server's processes at once, in the midst of what they do.
    ///
    /// # Panics
    ///
    /// If they can not be killed.
    pub fn kill_all(&self) {
        if let Some(mut process) = self.process.lock().take() {
            let pid = process.id().to_string();
            let of = Command::new("pgrep").args(["-P", &pid]).output().expect("pgrep runs");
            let children = String::from_utf8_lossy(&of.stdout).into_owned();
            let mut kill = Command::new("kill");
            kill.arg("-9").arg(&pid).args(children.split_whitespace());
            // A child may have ended by itself meanwhile.
            kill.stderr(Stdio::null()).status().expect("kill runs");
            process.wait().expect("it can be waited for");
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The DSN of its database.
    pub fn dsn(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A session of one's own.
    ///
    /// # Panics
    ///
    /// If there is none to be had.
    pub async fn client(&self) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.dsn(), NoTls).await.expect("postgres answers");
        tokio::spawn(connection);
        client
    }

    /// Runs statements.
    ///
    /// # Panics
    ///
    /// If they fail.
    pub async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.expect("the statements are good");
    }

    /// The first column of the first row, as text.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.client().await.simple_query(sql).await.expect("the statement is good");
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        row.flatten().expect("a value").to_owned()
    }

    /// Waits until somebody waits for a lock.
    ///
    /// # Panics
    ///
    /// If nobody does in time.
    pub async fn somebody_waits(&self) {
        let looking = self.client().await;
        eventually("somebody waits for a lock", async || {
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            let count: i64 = looking.query_one(sql, &[]).await.expect("a number").get(0);
            (count > 0).then_some(())
        })
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.lock().take() {
            // Quit at once: nobody needs what is in it.
            let pid = process.id().to_string();
            Command::new("kill").args(["-QUIT", &pid]).status().ok();
            process.wait().ok();
        }
    }
}
