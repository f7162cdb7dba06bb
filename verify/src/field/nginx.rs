//! nginx in front of the nodes, with the configuration that is shipped.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

use super::janitor::Janitor;
use super::ports::Port;
use super::process::Process;
use super::{FieldError, programs};

const SHIPPED: &str = include_str!("../../../nginx/nginx.conf");

/// Where distributions that have `stream` in a module keep it.
const MODULES: [&str; 2] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
];

const UP_IN: Duration = Duration::from_secs(20);

/// A running nginx. Stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    tcp: Port,
    http: Port,
    _dir: TempDir,
}

/// The shipped configuration with other servers and ports.
fn configuration(tcp: &[SocketAddr], http: &[SocketAddr], ports: (u16, u16)) -> String {
    let mut text = String::new();
    for line in SHIPPED.lines() {
        let words =
            line.trim().strip_prefix("server batonq-").and_then(|rest| rest.split_once(' '));
        // Each upstream names three; the line of the first stands for all of ours.
        let servers: &[SocketAddr] = match words {
            Some(("1:6789", _)) => tcp,
            Some(("1:6790", _)) => http,
            _ => &[],
        };
        let limits = words.map_or("", |(_, limits)| limits);
        for server in servers {
            writeln!(text, "server {server} {limits}").expect("a String takes everything");
        }
        let own = match line.trim() {
            "listen 6789;" => format!("listen 127.0.0.1:{};", ports.0),
            "listen 80;" => format!("listen 127.0.0.1:{};", ports.1),
            _ if words.is_some() => continue,
            _ => line.to_owned(),
        };
        text += &own;
        text.push('\n');
    }
    text
}

fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
    let module = MODULES.iter().find(|module| Path::new(module).is_file());
    let load = module.map(|module| format!("load_module {module};")).unwrap_or_default();
    command.arg("-g").arg(format!("daemon off; {load}"));
    command
}

/// Where nginx is.
///
/// # Errors
///
/// If it is not installed.
pub(crate) fn program() -> Result<PathBuf, FieldError> {
    programs::need("nginx", "a balancer", "the packages nginx and libnginx-mod-stream")
}

impl Nginx {
    /// Before the nodes: where each serves the binary protocol, and HTTP.
    ///
    /// # Errors
    ///
    /// If it is not installed, does not take its configuration, or does not come up.
    pub(crate) async fn before(
        tcp: &[SocketAddr],
        http: &[SocketAddr],
        janitor: &Janitor,
    ) -> Result<Self, FieldError> {
        let program = program()?;
        let dir = janitor.directory(None)?;
        let path = dir.path();
        let failed = || FieldError::io(format!("writing to {}", path.display()));
        // Its workers are another user's if we are root.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, open).map_err(failed())?;
        let ports = (Port::free()?, Port::free()?);
        let text = configuration(tcp, http, (ports.0.number, ports.1.number));
        std::fs::write(path.join("nginx.conf"), text).map_err(failed())?;
        programs::run("nginx -t", command(&program, path).arg("-t")).await?;
        let process = Process::new("nginx", &path.join("log"), janitor, Signal::TERM);
        process.start(command(&program, path))?;
        let nginx = Self { process, tcp: ports.0, http: ports.1, _dir: dir };
        nginx.listens().await.map(|()| nginx)
    }

    async fn listens(&self) -> Result<(), FieldError> {
        let until = Instant::now() + UP_IN;
        while TcpStream::connect(self.http()).await.is_err() {
            if let Some(status) = self.process.ended()? {
                let detail = format!("{status}\n{}", self.process.tail());
                return Err(FieldError::Failed { what: "starting nginx".into(), detail });
            }
            if Instant::now() > until {
                let (what, log) = ("nginx listens".into(), self.process.tail());
                return Err(FieldError::NotInTime { what, within: UP_IN, log });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Where it passes the binary protocol on.
    pub fn tcp(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tcp.number).into()
    }

    /// Where it passes HTTP on.
    pub fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http.number).into()
    }

    /// Its first process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.tcp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_servers_of_the_shipped_configuration_are_ours() {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let text = configuration(&[address(1), address(2)], &[address(3), address(4)], (5, 6));
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("server ")).collect();
        let limits = "max_fails=2 fail_timeout=5s;";
        assert_eq!(lines, [1, 2, 3, 4].map(|port| format!("server 127.0.0.1:{port} {limits}")));
        assert!(text.contains("127.0.0.1:5;") && text.contains("127.0.0.1:6;"), "{text}");
        assert!(!text.contains("batonq-1"), "{text}");
    }
}
