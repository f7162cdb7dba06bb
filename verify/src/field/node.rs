//! A node as a process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Instant;

use super::FieldError;
use super::health::Probe;
use super::janitor::Janitor;
use super::namespace::Namespace;
use super::ports::Port;
use super::process::Process;

/// Between two questions whether a node is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// What one such question may take.
const ANSWER_IN: Duration = Duration::from_secs(1);

/// Settings of whoever runs this that must not reach a node. And all that begin with `BATONQ_`.
const NOT_INHERITED: [&str; 9] = [
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "CLUSTER_MODE",
    "NODE_ID",
    "NODE_HOST",
    "PORT",
    "HTTP",
    "HTTP_PORT",
    "LD_PRELOAD",
];

/// Which of two programs a node runs, where there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// The one under test.
    First,
    /// The other one: an earlier or a later release.
    Other,
}

/// A node: what it is started with, and its process while there is one.
#[derive(Debug)]
pub struct Node {
    recipe: Recipe,
    next: Mutex<Next>,
    process: Process,
    tcp: SocketAddr,
    http: SocketAddr,
    _ports: (Port, Port),
}

/// What does not change from start to start.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) other_program: Option<PathBuf>,
    /// Its settings, as in its environment.
    pub(crate) settings: Vec<(String, String)>,
    /// Where its files and its log are.
    pub(crate) dir: PathBuf,
    /// How to get to the namespace it runs in, and its address there.
    pub(crate) place: Option<(Vec<String>, Ipv4Addr)>,
}

/// What the next start is to be like.
#[derive(Debug)]
struct Next {
    edition: Edition,
    clock_offset_seconds: i64,
}

impl Recipe {
    pub(crate) fn within(&mut self, namespace: &Namespace) {
        self.place = Some((namespace.prefix(), namespace.address()));
        // Only this machine can reach a namespace.
        self.set("BATONQ_BIND", "0.0.0.0");
        self.set("BATONQ_INSECURE", "1");
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.into(), value.into()));
    }
}

impl Node {
    /// A node that is not started yet.
    ///
    /// # Errors
    ///
    /// If there are no ports for it.
    pub(crate) fn new(recipe: Recipe, janitor: &Janitor) -> Result<Self, FieldError> {
        let ports = (Port::free()?, Port::free()?);
        let address: IpAddr =
            recipe.place.as_ref().map_or(Ipv4Addr::LOCALHOST, |place| place.1).into();
        let (tcp, http) = ((address, ports.0.number).into(), (address, ports.1.number).into());
        let log = recipe.dir.join("log");
        let process = Process::new(&recipe.name, &log, janitor, Signal::KILL);
        let next = Mutex::new(Next { edition: Edition::First, clock_offset_seconds: 0 });
        Ok(Self { recipe, next, process, tcp, http, _ports: ports })
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// Where it serves the binary protocol, with nothing in between.
    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Where it serves HTTP, with nothing in between.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its log, over all restarts.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Its process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Which program the next start runs.
    ///
    /// # Errors
    ///
    /// If there is only one.
    pub fn set_edition(&self, edition: Edition) -> Result<(), FieldError> {
        if edition == Edition::Other && self.recipe.other_program.is_none() {
            let what = "running another release".into();
            let why = "only one program was given".into();
            return Err(FieldError::NotPossible { what, why });
        }
        self.next.lock().edition = edition;
        Ok(())
    }

    /// Which program the next start runs.
    pub fn edition(&self) -> Edition {
        self.next.lock().edition
    }

    /// How far the next start's time of day is off; 0: not at all.
    ///
    /// # Errors
    ///
    /// If libfaketime is not installed.
    pub fn set_clock_offset(&self, seconds: i64) -> Result<(), FieldError> {
        if seconds != 0 {
            faketime()?;
        }
        self.next.lock().clock_offset_seconds = seconds;
        Ok(())
    }

    /// Whether there are two programs.
    pub fn has_other_edition(&self) -> bool {
        self.recipe.other_program.is_some()
    }

    /// How far the next start's time of day is off.
    pub fn clock_offset_seconds(&self) -> i64 {
        self.next.lock().clock_offset_seconds
    }

    /// Starts it: on the ports, with the name, the files and the log it always has. It is not ready
    /// yet.
    ///
    /// # Errors
    ///
    /// If it runs already or can not be started.
    pub fn start(&self) -> Result<(), FieldError> {
        let Recipe { program, other_program, settings, dir, place, .. } = &self.recipe;
        let program = match self.edition() {
            Edition::First => program,
            Edition::Other => other_program.as_ref().unwrap_or(program),
        };
        let mut command = match place {
            Some((prefix, _)) => {
                let mut command = Command::new(&prefix[0]);
                command.args(&prefix[1..]).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("BATONQ_") || NOT_INHERITED.contains(&&*text) {
                command.env_remove(&name);
            }
        }
        let (tcp, http) = (self.tcp.port().to_string(), self.http.port().to_string());
        command.args(["serve", "--port", &tcp, "--http-port", &http, "--data-dir"]);
        command.arg(dir.join("data")).envs(settings.iter().cloned()).current_dir(dir);
        let offset = self.clock_offset_seconds();
        if offset != 0 {
            command.env("LD_PRELOAD", faketime()?).env("FAKETIME", format!("{offset:+}"));
            command.env("DONT_FAKE_MONOTONIC", "1");
        }
        self.process.start(command)
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub async fn kill(&self) -> Result<(), FieldError> {
        self.process.kill().await
    }

    /// Stops it where it is: it is there, and from now on does nothing.
    ///
    /// # Cancel safety
    ///
    /// It has been told.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub async fn freeze(&self) -> Result<(), FieldError> {
        self.process.stop().await
    }

    /// Has it go on.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn thaw(&self) -> Result<(), FieldError> {
        self.process.signal(Signal::CONT)
    }

    /// Asks it to finish what it has begun and to go, and waits until it has.
    ///
    /// # Cancel safety
    ///
    /// It has been asked.
    ///
    /// # Errors
    ///
    /// If it does not run, does not go, or goes with an error.
    pub async fn stop(&self, within: Duration) -> Result<(), FieldError> {
        self.process.signal(Signal::TERM)?;
        match self.process.wait(within).await? {
            Some(status) if !status.success() => Err(self.ended(&status.to_string())),
            _ => Ok(()),
        }
    }

    /// Waits until it can do its work.
    ///
    /// # Errors
    ///
    /// If it can not in time, or is not there.
    pub async fn ready(&self, within: Duration) -> Result<(), FieldError> {
        let until = Instant::now() + within;
        let mut probe = Probe::new(self.http);
        while !probe.is_ready(ANSWER_IN).await {
            self.still_runs()?;
            if Instant::now() > until {
                let what = format!("node {} is ready", self.name());
                return Err(FieldError::NotInTime { what, within, log: self.process.tail() });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Whether its process is there, as far as we have ended none ourselves.
    ///
    /// # Errors
    ///
    /// [`FieldError::Ended`] if it has ended.
    pub fn still_runs(&self) -> Result<(), FieldError> {
        match self.process.ended()? {
            Some(status) => Err(self.ended(&status.to_string())),
            None if self.process.is_there() => Ok(()),
            None => Err(self.ended("some time ago")),
        }
    }

    /// Whether it has a process.
    pub fn is_there(&self) -> bool {
        self.process.is_there()
    }

    fn ended(&self, status: &str) -> FieldError {
        let (node, status) = (self.name().to_owned(), status.to_owned());
        FieldError::Ended { node, status, log: self.process.tail() }
    }
}

/// The library that makes a program's time of day another one.
///
/// # Errors
///
/// If it is not installed.
pub(crate) fn faketime() -> Result<PathBuf, FieldError> {
    let name = "faketime/libfaketime.so.1";
    let parents = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = parents.map(|entry| entry.path()).collect();
    places.extend(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from));
    let found = places.iter().map(|place| place.join(name)).find(|library| library.is_file());
    found.ok_or_else(|| FieldError::Missing {
        program: "libfaketime".into(),
        what: "a clock that is off".into(),
        package: "the package faketime",
    })
}
