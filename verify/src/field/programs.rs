//! Programs of this machine, and running them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::FieldError;

/// What a program may take that only changes a setting or makes a file.
const DONE_IN: Duration = Duration::from_secs(60);

/// How much of a log goes into an error.
const TAIL_MAX: usize = 4096;

/// Where a program is, if it is on the path or where administrators have theirs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(system);
    places.find_map(|place| Some(place.join(name)).filter(|program| program.is_file()))
}

/// As [`find`].
///
/// # Errors
///
/// If there is none.
pub(crate) fn need(name: &str, what: &str, package: &'static str) -> Result<PathBuf, FieldError> {
    let missing = || FieldError::Missing { program: name.into(), what: what.into(), package };
    find(name).ok_or_else(missing)
}

/// Runs a program to its end. What it said on standard output.
///
/// # Cancel safety
///
/// The program is killed.
///
/// # Errors
///
/// If it can not be run, does not end, or refuses; with what it said on standard error.
pub(crate) async fn run(what: &str, command: &mut Command) -> Result<String, FieldError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(DONE_IN, command.output()).await;
    let log = String::new();
    let late = |_| FieldError::NotInTime { what: what.into(), within: DONE_IN, log };
    let output = output.map_err(late)?.map_err(FieldError::io(what))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(FieldError::Failed { what: what.into(), detail: text(&output.stderr) }),
    }
}

/// The end of a log; empty if there is none.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(TAIL_MAX);
    String::from_utf8_lossy(&text[from..]).trim().to_owned()
}
