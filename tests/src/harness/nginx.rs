//! nginx with the configuration that is shipped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Http, SOON, free_port};

/// A running nginx in front of nodes. Stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    /// Where the binary protocol is passed on.
    pub tcp: SocketAddr,
    http: SocketAddr,
    _dir: TempDir,
}

/// The shipped configuration with other servers and ports.
fn configuration(nodes: &[(u16, u16)], tcp: u16, http: u16) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/nginx.conf");
    let shipped = std::fs::read_to_string(shipped).expect("it is shipped");
    let mut text = String::new();
    for line in shipped.lines() {
        let trimmed = line.trim_start();
        let servers = |port: fn(&(u16, u16)) -> u16| -> String {
            let rest = trimmed.split_once(' ').and_then(|(_, rest)| rest.split_once(' '));
            let rest = rest.map_or(";", |(_, rest)| rest);
            let servers =
                nodes.iter().map(|node| format!("server 127.0.0.1:{} {rest}\n", port(node)));
            servers.collect()
        };
        match trimmed {
            // Each upstream names three; the first line stands for all of ours.
            _ if trimmed.starts_with("server batonq-1:6789") => text += &servers(|node| node.0),
            _ if trimmed.starts_with("server batonq-1:6790") => text += &servers(|node| node.1),
            _ if trimmed.starts_with("server batonq-") => {}
            "listen 6789;" => text += &format!("listen 127.0.0.1:{tcp};\n"),
            "listen 80;" => text += &format!("listen 127.0.0.1:{http};\n"),
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
    // Debian has `stream` in a module.
    let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = match module.exists() {
        true => format!("load_module {};", module.display()),
        false => String::new(),
    };
    command.arg("-g").arg(format!("daemon off; {load}"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Nginx {
    /// Before nodes: of each the port of the binary protocol and of HTTP.
    ///
    /// # Panics
    ///
    /// If nginx is not installed (package nginx, and libnginx-mod-stream on Debian), or does not
    /// accept its configuration.
    pub fn before(nodes: &[(u16, u16)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Its workers are another user's if we are root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("it is ours");
        let (tcp, http) = (free_port(), free_port());
        let text = configuration(nodes, tcp, http);
        std::fs::write(dir.path().join("nginx.conf"), text).expect("it is ours");
        let checked = command(dir.path()).arg("-t").output();
        let checked = checked.expect(
            "nginx is not installed: install the packages nginx and \
                                      libnginx-mod-stream",
        );
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "nginx -t: {said}");
        let process = command(dir.path()).stderr(Stdio::null()).spawn().expect("nginx starts");
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let nginx = Self { process, tcp: address(tcp), http: address(http), _dir: dir };
        let mut tries = SOON.as_millis() / 20;
        while std::net::TcpStream::connect(nginx.http).is_err() {
            tries -= 1;
            assert!(tries > 0, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// Requests through it.
    pub fn http(&self) -> Http {
        Http::new(self.http)
    }

    /// For `BATONQ_URL`.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.tcp)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        self.process.wait().ok();
    }
}
