//! A throw-away Postgres from the server programs that are installed here. What it has said to be
//! committed is on disk: `fsync` is on.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::janitor::Janitor;
use super::ports::Port;
use super::process::Process;
use super::{FieldError, programs};

/// Between two looks whether the server is up.
const PAUSE: Duration = Duration::from_millis(20);

/// How long it may take to come up, also after a crash with much to repeat.
const UP_IN: Duration = Duration::from_secs(60);

/// How long it may take to stop.
const DOWN_IN: Duration = Duration::from_secs(60);

/// What a question of ours to the database may take.
const ANSWER_IN: Duration = Duration::from_secs(10);

/// So many rows are held at once, at most.
const LOCKED_AT_ONCE: u32 = 20;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, and what there is in memory is written.
    Fast,
    /// At once; the next start repeats what the log has.
    Immediate,
}

/// A database server of its own, gone when dropped.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    port: Port,
    /// Who may connect, beside this machine itself.
    hosts: Vec<Ipv4Addr>,
    settings: Vec<String>,
    dir: TempDir,
}

/// What a server is made from.
#[derive(Debug, Default)]
pub(crate) struct Making {
    /// `name=value`.
    pub(crate) settings: Vec<String>,
    /// Where its files are to be; where the system has temporary ones if not said.
    pub(crate) parent: Option<PathBuf>,
}

/// Where the server's programs are, the newest if there are several.
///
/// # Errors
///
/// If there are none.
pub(crate) fn programs_dir() -> Result<PathBuf, FieldError> {
    let mut places: Vec<(u32, PathBuf)> = Vec::new();
    for parent in ["/usr/lib/postgresql", "/usr"] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("pgsql-").unwrap_or(&name).parse();
            places.extend(version.ok().map(|version| (version, entry.path().join("bin"))));
        }
    }
    places.sort();
    let on_path = programs::find("initdb").and_then(|program| Some(program.parent()?.to_owned()));
    let places = places.into_iter().rev().map(|(_, place)| place).chain(on_path);
    let mut complete = places.filter(|place| place.join("initdb").is_file());
    complete.next().ok_or_else(|| FieldError::Missing {
        program: "a Postgres server (initdb, postgres)".into(),
        what: "a cluster to be verified".into(),
        package: "the package postgresql",
    })
}

/// The user to run the server as: it refuses to be run by root.
async fn user() -> Result<Option<(u32, u32)>, FieldError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let what = "looking for the user postgres, as whom root must run the server";
    let mut ids = [0; 2];
    for (id, flag) in ids.iter_mut().zip(["-u", "-g"]) {
        let text = programs::run(what, Command::new("id").args([flag, "postgres"])).await?;
        let odd = |_| FieldError::Failed { what: what.into(), detail: text.clone() };
        *id = text.parse().map_err(odd)?;
    }
    Ok(Some((ids[0], ids[1])))
}

impl Postgres {
    /// The files of a server that is not started yet.
    ///
    /// # Errors
    ///
    /// If the programs are not installed, or do not make them.
    pub(crate) async fn create(making: Making, janitor: &Janitor) -> Result<Self, FieldError> {
        let (programs, user) = (programs_dir()?, user().await?);
        let dir = janitor.directory(making.parent.as_deref())?;
        let failed = || FieldError::io(format!("giving {} to postgres", dir.path().display()));
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).map_err(failed())?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).map_err(failed())?;
        }
        let log = dir.path().join("log");
        let process = Process::new("postgres", &log, janitor, Signal::QUIT);
        let (port, settings) = (Port::free()?, making.settings);
        let server = Self { process, programs, user, port, hosts: Vec::new(), settings, dir };
        let mut init = server.program("initdb");
        init.arg("-D").arg(server.data());
        // What it makes is worth nothing yet.
        init.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--no-locale"]);
        programs::run("initdb", &mut init).await?;
        Ok(server)
    }

    /// A network namespace may connect to this address of ours, once the server is started.
    ///
    /// # Errors
    ///
    /// If that can not be written down.
    pub(crate) fn admit(&mut self, from: Ipv4Addr, at: Ipv4Addr) -> Result<(), FieldError> {
        use std::io::Write;
        let rules = self.data().join("pg_hba.conf");
        let failed = || FieldError::io(format!("writing {}", rules.display()));
        let file = std::fs::OpenOptions::new().append(true).open(&rules);
        let rule = format!("host all all {from}/32 trust\n");
        file.map_err(failed())?.write_all(rule.as_bytes()).map_err(failed())?;
        self.hosts.push(at);
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("LC_ALL", "C").current_dir(self.dir.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn server(&self) -> Command {
        let hosts = self.hosts.iter().map(|host| format!(",{host}"));
        let listen = format!("listen_addresses=127.0.0.1{}", hosts.collect::<String>());
        let mut server = self.program("postgres");
        server.arg("-D").arg(self.data()).args(["-p", &self.port.number.to_string()]);
        // The path of a socket in our directory might be too long.
        server.args(["-c", "unix_socket_directories=", "-c", &listen, "-c", "fsync=on"]);
        // Sixteen nodes with some thirty sessions each, and ours.
        server.args(["-c", "max_connections=600", "-c", "shared_buffers=64MB"]);
        for setting in &self.settings {
            server.args(["-c", setting]);
        }
        server
    }

    /// Starts the server, and waits until it takes connections.
    ///
    /// # Cancel safety
    ///
    /// It may have been started.
    ///
    /// # Errors
    ///
    /// If it runs already or does not come up.
    pub async fn start(&self) -> Result<(), FieldError> {
        let until = Instant::now() + UP_IN;
        let mut said = self.log_size();
        self.process.start(self.server())?;
        while self.client().await.is_err() {
            if let Some(status) = self.process.ended()? {
                // The children of a server that was killed hold its memory for a moment.
                let log = std::fs::read(self.log()).unwrap_or_default();
                let log = String::from_utf8_lossy(&log[said.min(log.len())..]).into_owned();
                if !log.contains("shared memory") {
                    let what = "starting postgres".into();
                    return Err(FieldError::Failed { what, detail: format!("{status}\n{log}") });
                }
                said = self.log_size();
                self.process.start(self.server())?;
            }
            if Instant::now() > until {
                let (what, log) = ("postgres takes connections".into(), self.process.tail());
                return Err(FieldError::NotInTime { what, within: UP_IN, log });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn log_size(&self) -> usize {
        let size = std::fs::metadata(self.log()).map_or(0, |log| log.len());
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Its first process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether it has a process.
    pub fn is_there(&self) -> bool {
        self.process.is_there()
    }

    /// Stops the server and waits until it has.
    ///
    /// # Cancel safety
    ///
    /// It has been told.
    ///
    /// # Errors
    ///
    /// If it does not run or does not stop.
    pub async fn stop(&self, stop: Stop) -> Result<(), FieldError> {
        let signal = match stop {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        self.process.signal(signal)?;
        self.process.wait(DOWN_IN).await.map(drop)
    }

    /// Kills the server's first process; its children go by themselves, when they notice.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub async fn kill(&self) -> Result<(), FieldError> {
        self.process.kill().await
    }

    /// Kills the process of one session of a node, as the kernel does that runs out of memory. The
    /// server ends all sessions then, and repeats what its log has. `pick` decides whose.
    ///
    /// # Errors
    ///
    /// If there is no session.
    pub async fn kill_backend(&self, pick: usize) -> Result<(), FieldError> {
        let what = "killing a session's process";
        let sessions = "SELECT pid FROM pg_stat_activity
            WHERE application_name LIKE 'batonq/%' ORDER BY application_name, pid";
        let sessions = self.column(sessions).await?;
        let pids = sessions.iter().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let pids: Vec<Pid> = pids.collect();
        let none = || FieldError::Failed { what: what.into(), detail: "there is none".into() };
        let pid = pids.get(pick % pids.len().max(1)).ok_or_else(none)?;
        let failed = |errno: rustix::io::Errno| FieldError::io(what)(errno.into());
        kill_process(*pid, Signal::KILL).map_err(failed)
    }

    /// Ends the session that holds the leader's lock, as an administrator might. How many there
    /// were: none if nobody leads.
    ///
    /// # Errors
    ///
    /// If the database can not be asked.
    pub async fn terminate_leader(&self) -> Result<usize, FieldError> {
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'batonq/%/election' AND pid IN
                (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)";
        Ok(self.column(terminate).await?.len())
    }

    /// Ends about a third of all sessions in which nodes work: not those that say who is there and
    /// who leads. How many.
    ///
    /// # Errors
    ///
    /// If the database can not be asked.
    pub async fn churn(&self) -> Result<usize, FieldError> {
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'batonq/%' AND random() < 0.34
                AND application_name NOT LIKE '%/election'
                AND application_name NOT LIKE '%/presence'";
        Ok(self.column(terminate).await?.len())
    }

    /// Holds the rows of some jobs that are ready, as a transaction does that somebody has begun by
    /// hand, and gives them back after this time as they were.
    ///
    /// # Cancel safety
    ///
    /// They are given back.
    ///
    /// # Errors
    ///
    /// If the database can not be asked.
    pub async fn lock_ready_rows(&self, lasts: Duration) -> Result<(), FieldError> {
        let until = Instant::now() + lasts;
        let failed = || FieldError::database("holding rows of the field's database");
        let client = self.client().await?;
        client.batch_execute("BEGIN").await.map_err(failed())?;
        let lock = format!(
            "SELECT FROM batonq.ready WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM batonq.ready LIMIT {LOCKED_AT_ONCE})) FOR UPDATE SKIP LOCKED"
        );
        while Instant::now() < until {
            // There may be none at some moments.
            client.batch_execute(&lock).await.map_err(failed())?;
            tokio::time::sleep(PAUSE).await;
        }
        client.batch_execute("ROLLBACK").await.map_err(failed())
    }

    /// Where it listens for this machine.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// The DSN of its database.
    pub fn dsn(&self) -> String {
        dsn(self.address())
    }

    /// A session of one's own.
    ///
    /// # Errors
    ///
    /// If there is none to be had.
    pub async fn client(&self) -> Result<Client, FieldError> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port.number).user("postgres").dbname("postgres");
        config.application_name("batonq-verify").connect_timeout(ANSWER_IN);
        let failed = FieldError::database("connecting to the database of the field");
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        tokio::spawn(async move {
            // Whoever asks on it is told that it is gone.
            connection.await.ok();
        });
        Ok(client)
    }

    /// The first column of what a statement answers, as text.
    ///
    /// # Errors
    ///
    /// If the database does not do it.
    pub async fn column(&self, sql: &str) -> Result<Vec<String>, FieldError> {
        let client = self.client().await?;
        let asked = tokio::time::timeout(ANSWER_IN, client.simple_query(sql)).await;
        let late = |_| FieldError::NotInTime {
            what: "the database of the field answers".into(),
            within: ANSWER_IN,
            log: self.process.tail(),
        };
        let messages = asked.map_err(late)?.map_err(FieldError::database("asking the database"))?;
        let value = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        };
        Ok(messages.iter().filter_map(value).collect())
    }
}

/// The DSN of the field's database, as seen from where it has this address.
pub(crate) fn dsn(address: SocketAddr) -> String {
    format!("postgres://postgres@{address}/postgres")
}
