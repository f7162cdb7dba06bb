//! A node as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use batonq_client::Client;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::namespace::Namespace;
use super::{Http, Wire};

/// The program under test.
///
/// # Panics
///
/// If it was not built beside this test.
pub fn batonq() -> Command {
    let here = std::env::current_exe().expect("a test knows where it is");
    let program = here.ancestors().skip(1).take(2).map(|dir| dir.join("batonq-under-test"));
    let program = program.into_iter().find(|path| path.exists());
    let mut command = Command::new(program.expect("cargo builds the program with the tests"));
    // What the developer has set must not change the test.
    for name in ["DATABASE_URL", "CLUSTER_MODE", "NODE_ID", "PORT", "HTTP", "HTTP_PORT"] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BATONQ_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a server is to be started with.
#[derive(Debug, Clone, Default)]
pub struct ServerBuilder {
    env: Vec<(String, String)>,
    dir: Option<Arc<TempDir>>,
    /// 0: any.
    ports: (u16, u16),
    /// The network namespace to run in: how to get there, and its address.
    place: Option<(Vec<String>, std::net::Ipv4Addr)>,
}

impl ServerBuilder {
    /// With this in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// In a network namespace, open to all who reach it.
    #[must_use]
    pub fn within(mut self, namespace: &Namespace) -> Self {
        self.place = Some((namespace.prefix(), namespace.address));
        self.env("BATONQ_BIND", "0.0.0.0").env("BATONQ_INSECURE", "1")
    }

    /// On these ports, also after a restart: of the binary protocol and of HTTP.
    #[must_use]
    pub fn ports(mut self, tcp: u16, http: u16) -> Self {
        self.ports = (tcp, http);
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    ///
    /// If it does not get ready.
    pub fn start(self) -> Server {
        let dir = self.dir.clone().unwrap_or_else(|| {
            Arc::new(tempfile::tempdir().expect("a temporary directory can be made"))
        });
        let mut command = batonq();
        if let Some((prefix, _)) = &self.place {
            let mut outer = Command::new(&prefix[0]);
            outer.args(&prefix[1..]).arg(command.get_program());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => outer.env(name, value),
                    None => outer.env_remove(name),
                };
            }
            command = outer;
        }
        let (tcp, http) = (self.ports.0.to_string(), self.ports.1.to_string());
        command.args(["serve", "--port", &tcp, "--http-port", &http, "--data-dir"]).arg(dir.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (log, gathering) = gather(child.stderr.take().expect("it is piped"));
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ready = lines.next().and_then(Result::ok);
        let Some(ready) = ready else { panic!("the server did not start:\n{}", log.lock()) };
        let address = |name: &str| -> Option<SocketAddr> {
            let told: SocketAddr =
                ready.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok())?;
            let place = self.place.as_ref().map(|(_, address)| (*address).into());
            Some(SocketAddr::new(place.unwrap_or(told.ip()), told.port()))
        };
        Server {
            child,
            tcp: address("tcp=").expect("the ready line has it"),
            http: address("http="),
            log,
            gathering: Some(gathering),
            builder: Self { dir: Some(Arc::clone(&dir)), ..self },
            dir,
        }
    }
}

/// What a stream says, and who reads it to its end.
fn gather(mut stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let gathered = Arc::clone(&text);
    let gathering = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            gathered.lock().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    (text, gathering)
}

/// A running node. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where the binary protocol is served.
    pub tcp: SocketAddr,
    http: Option<SocketAddr>,
    log: Arc<Mutex<String>>,
    gathering: Option<JoinHandle<()>>,
    builder: ServerBuilder,
    dir: Arc<TempDir>,
}

impl Server {
    /// A node that is open to all on loopback.
    pub fn start() -> Self {
        ServerBuilder::default().start()
    }

    /// To start one with other settings.
    pub fn with() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Where its files are.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// For `BATONQ_URL`.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.tcp)
    }

    /// A client of it.
    ///
    /// # Panics
    ///
    /// If it is not let in.
    pub async fn client(&self) -> Client {
        self.client_named("test").await
    }

    /// A client with a worker's name.
    ///
    /// # Panics
    ///
    /// If it is not let in.
    pub async fn client_named(&self, worker: &str) -> Client {
        let client = Client::builder().url(&self.url()).worker(worker).connect().await;
        client.expect("an open server lets everybody in")
    }

    /// Frames by hand.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.tcp).await
    }

    /// Requests by hand.
    ///
    /// # Panics
    ///
    /// If it serves no HTTP.
    pub fn http(&self) -> Http {
        Http::new(self.http.expect("it serves HTTP"))
    }

    /// The program's command line, pointed at this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = batonq();
        command.args(arguments).env("BATONQ_URL", self.url()).env("NO_COLOR", "1");
        command
    }

    /// Sends a signal to the process, as `-9` or `-TERM`.
    ///
    /// # Panics
    ///
    /// If there is no such process.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill is there");
        assert!(sent.success(), "the process is gone");
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Panics
    ///
    /// If it can not be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    /// Waits for its end; the exit code. Its log is whole then.
    ///
    /// # Panics
    ///
    /// If it ended by a signal.
    pub fn wait(&mut self) -> i32 {
        let status = self.child.wait().expect("it can be waited for");
        if let Some(gathering) = self.gathering.take() {
            gathering.join().expect("it reads to the end");
        }
        status.code().expect("it exited by itself")
    }

    /// Starts it again on the same files, on other ports.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.kill();
        self.builder.clone().start()
    }

    /// Starts it again on the same files, on other ports, with this in its environment too.
    #[must_use]
    pub fn restart_with(mut self, env: &[(&str, &str)]) -> Self {
        self.builder.env.extend(env.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self.restart()
    }

    /// Starts it again in place, with the settings it had, after it has ended.
    pub fn resume(&mut self) {
        *self = self.builder.clone().start();
    }

    /// The processor time it has used.
    ///
    /// # Panics
    ///
    /// Where there is no /proc.
    pub fn cpu_time(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("a test that measures processor time needs /proc");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: u64 =
            fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // A tick is 10 ms on every Linux of today.
        std::time::Duration::from_millis(ticks * 10)
    }

    /// The memory it holds, in KiB.
    ///
    /// # Panics
    ///
    /// Where there is no /proc.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("a test that measures memory needs /proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "what a failed test needs to be understood")]
            {
                eprintln!("--- log of the server\n{}", self.log());
            }
        }
    }
}

/// A text of so many letters.
pub fn free_text(count: usize) -> String {
    "x".repeat(count)
}
