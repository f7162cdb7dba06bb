//! Sees to it that nothing of a field is left behind, however this process ends.
//!
//! What a field has made takes itself away when it is dropped. A process that is killed drops
//! nothing, so another one watches: a shell whose standard input is a pipe from here. It is told of
//! each process, network namespace and directory, and when the pipe ends, whyever it does, it takes
//! away what is still there. It is in a process group of its own: a Ctrl-C does not reach it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::FieldError;

/// A process is known by its number and by when it was started: numbers are given again.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
kept=
while IFS= read -r line; do kept="$kept$line
"; done
runs() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    set -- "$2" ${stat##*) }
    [ "$1" = "${21}" ] && [ "$2" != Z ]
}
process() {
    set -- $1
    runs "$1" "$2" || return 0
    kill -s "$3" -- "-$1" 2>/dev/null || kill -s "$3" -- "$1"
    kill -s CONT -- "$1"
    tries=100
    while runs "$1" "$2" && [ $tries -gt 0 ]; do sleep 0.05; tries=$((tries - 1)); done
    runs "$1" "$2" && kill -s KILL -- "$1"
}
namespace() {
    ip netns pids "$1" | while read -r pid; do kill -s KILL -- "$pid"; done
    ip netns del "$1"
}
directory() {
    case ${1##*/} in batonq-*) ;; *) return 0 ;; esac
    tries=100
    until rm -rf -- "$1" || [ $tries -eq 0 ]; do sleep 0.05; tries=$((tries - 1)); done
}
for kind in process namespace directory; do
    printf '%s' "$kept" | while read -r is what; do
        [ "$is" != $kind ] || $kind "$what"
    done
done
"#;

/// Watches over this process. Cheap to clone; when the last clone is dropped all is clean.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    watching: Arc<Watching>,
}

#[derive(Debug)]
struct Watching {
    shell: Mutex<Option<(Child, ChildStdin)>>,
}

impl Janitor {
    /// One that is on duty.
    ///
    /// # Errors
    ///
    /// If there is no shell.
    pub(crate) fn start() -> Result<Self, FieldError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "batonq-janitor"]).process_group(0).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().map_err(FieldError::io("starting /bin/sh"))?;
        let stdin = shell.stdin.take().expect("it is piped");
        Ok(Self { watching: Arc::new(Watching { shell: Mutex::new(Some((shell, stdin))) }) })
    }

    fn tell(&self, line: &str) -> Result<(), FieldError> {
        let mut shell = self.watching.shell.lock();
        let (_, pipe) = shell.as_mut().expect("it is taken when this is dropped");
        let failed = FieldError::io("telling the shell that cleans up");
        pipe.write_all(format!("{line}\n").as_bytes()).map_err(failed)
    }

    /// A process that leads its own group is to be ended by this signal, as `KILL` or `QUIT`.
    ///
    /// # Errors
    ///
    /// If nobody watches any more.
    pub(crate) fn watch_process(&self, pid: u32, signal: &str) -> Result<(), FieldError> {
        // One that has ended already needs no end.
        let Some(started) = started(pid) else { return Ok(()) };
        self.tell(&format!("process {pid} {started} {signal}"))
    }

    /// A network namespace is to be removed.
    ///
    /// # Errors
    ///
    /// If nobody watches any more.
    pub(crate) fn watch_namespace(&self, name: &str) -> Result<(), FieldError> {
        self.tell(&format!("namespace {name}"))
    }

    /// A new directory, gone when dropped, and at the latest with this process. Below `parent`, or
    /// where the system has temporary files.
    ///
    /// # Errors
    ///
    /// If it can not be made.
    pub(crate) fn directory(&self, parent: Option<&Path>) -> Result<TempDir, FieldError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let failed = FieldError::io(format!("making a directory in {}", parent.display()));
        let made = tempfile::Builder::new().prefix("batonq-").tempdir_in(parent).map_err(failed)?;
        let path: PathBuf = made.path().canonicalize().unwrap_or_else(|_| made.path().into());
        self.tell(&format!("directory {}", path.display()))?;
        Ok(made)
    }
}

/// When a process was started, as the kernel counts it.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19).map(ToOwned::to_owned)
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some((mut shell, pipe)) = self.shell.lock().take() {
            drop(pipe);
            // It ends by itself; there is nobody to tell if it has ended badly.
            shell.wait().ok();
        }
    }
}
