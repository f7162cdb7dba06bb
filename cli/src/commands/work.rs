//! `batonq work`: each job is a run of a command.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;

use batonq_client::{Failure as JobFailure, JobContext, StopHandle, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::Shared;
use crate::exit::Failure;
use crate::output::note;

/// A command that exits with this says that trying again is no use.
const EXIT_REJECT: i32 = 100;

/// What a job's result may have.
const RESULT_BYTES_MAX: usize = 1024 * 1024;

/// What is kept of what a command says about its failure.
const STDERR_BYTES_MAX: usize = 8 * 1024;

/// Runs a command for each job of a queue.
///
/// The payload is on its standard input; BATONQ_JOB_ID, BATONQ_QUEUE, BATONQ_ATTEMPT,
/// BATONQ_MAX_ATTEMPTS and BATONQ_DELIVERY are in its environment. Exit code 0 acks the job, with
/// standard output as its result; 100 rejects it; any other fails it, with the end of standard
/// error as the message. A job that is taken away has its command killed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Work {
    /// The queue
    queue: String,

    /// What to run, by sh -c
    #[arg(long, value_name = "COMMAND")]
    exec: String,

    /// At most so many at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
}

impl Work {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let host = hostname();
        let client = shared.connect(&format!("{host}-{}", std::process::id())).await?;
        let worker = Worker::new(client.clone(), self.queue.as_str()).concurrency(self.concurrency);
        let mut stopping = tokio::spawn(stop_on_signals(worker.stop_handle()));
        let work = Arc::new(self);
        let handler = move |job: JobContext| {
            let work = Arc::clone(&work);
            async move { work.run_one(&job).await }
        };
        tokio::select! {
            worked = worker.run(handler) => worked?,
            killed = &mut stopping => killed.map_err(Failure::other)??,
        }
        client.close().await;
        Ok(ExitCode::SUCCESS)
    }

    async fn run_one(&self, job: &JobContext) -> Result<Vec<u8>, JobFailure> {
        let mut child = Command::new("sh")
            .args(["-c", &self.exec])
            .env("BATONQ_JOB_ID", job.id.0.to_string())
            .env("BATONQ_QUEUE", &*job.queue)
            .env("BATONQ_ATTEMPT", job.attempt.to_string())
            .env("BATONQ_MAX_ATTEMPTS", job.max_attempts.to_string())
            .env("BATONQ_DELIVERY", job.delivery.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts can be killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| JobFailure::new("SPAWN", error.to_string()))?;
        let group = child.id();
        tokio::select! {
            ended = talk(&mut child, &job.payload) => ended,
            () = job.aborted() => {
                kill_group(group).await;
                Err(JobFailure::new("ABORTED", "the job was taken away"))
            }
        }
    }
}

/// Feeds a command, hears it out, and judges its end.
async fn talk(child: &mut Child, payload: &[u8]) -> Result<Vec<u8>, JobFailure> {
    let broken = |error: std::io::Error| JobFailure::new("SPAWN", error.to_string());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command need not read its payload.
            stdin.write_all(payload).await.ok();
        }
    };
    let hear = async {
        let mut result = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(RESULT_BYTES_MAX as u64 + 1).read_to_end(&mut result).await?;
        }
        std::io::Result::Ok(result)
    };
    let complain = async {
        let mut tail = Vec::new();
        let Some(mut stderr) = stderr else { return std::io::Result::Ok(tail) };
        let mut part = [0; 4096];
        loop {
            let count = stderr.read(&mut part).await?;
            if count == 0 {
                return Ok(tail);
            }
            tail.extend_from_slice(&part[..count]);
            let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
            tail.drain(..excess);
        }
    };
    let ((), result, tail) = tokio::join!(feed, hear, complain);
    let (result, tail) = (result.map_err(broken)?, tail.map_err(broken)?);
    if result.len() > RESULT_BYTES_MAX {
        child.start_kill().map_err(broken)?;
    }
    let status = child.wait().await.map_err(broken)?;
    judge(status, result, &tail)
}

fn judge(status: ExitStatus, result: Vec<u8>, tail: &[u8]) -> Result<Vec<u8>, JobFailure> {
    if result.len() > RESULT_BYTES_MAX {
        let message = format!("standard output has more than {RESULT_BYTES_MAX} bytes");
        return Err(JobFailure::new("RESULT_TOO_LARGE", message).reject());
    }
    let message = String::from_utf8_lossy(tail).into_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(result),
        (Some(EXIT_REJECT), _) => Err(JobFailure::new("EXIT_100", message).reject()),
        (Some(code), _) => Err(JobFailure::new(format!("EXIT_{code}"), message)),
        (None, Some(signal)) => Err(JobFailure::new(format!("SIGNAL_{signal}"), message)),
        (None, None) => Err(JobFailure::new("UNKNOWN_END", message)),
    }
}

/// Kills a command and all that it has started.
async fn kill_group(group: Option<u32>) {
    let Some(group) = group else { return };
    let killed = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status().await;
    if !killed.is_ok_and(|status| status.success()) {
        tracing::debug!(group, "nothing was left to kill");
    }
}

/// The first signal stops the worker when what runs is done, the second at once.
async fn stop_on_signals(stop: StopHandle) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut heard = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    heard().await;
    note("stopping when the jobs that run are done; once more to stop at once");
    stop.stop();
    heard().await;
    Err(Failure::other("stopped at once: running jobs will go round again"))
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "worker".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_command_is_the_end_of_its_job() {
        let end = |status: i32| judge(ExitStatus::from_raw(status), b"out".to_vec(), b"err");
        assert_eq!(end(0).unwrap(), b"out");
        for (status, code) in [(1 << 8, "EXIT_1"), (100 << 8, "EXIT_100"), (9, "SIGNAL_9")] {
            let failure = end(status).unwrap_err();
            assert_eq!((failure.code(), failure.message()), (code, "err"));
        }
        let large = judge(ExitStatus::from_raw(0), vec![0; RESULT_BYTES_MAX + 1], b"");
        assert_eq!(large.unwrap_err().code(), "RESULT_TOO_LARGE");
    }
}
