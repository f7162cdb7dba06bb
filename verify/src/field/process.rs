//! A process of the field: it can be ended in every way, and goes with whoever holds it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::FieldError;
use super::janitor::Janitor;

/// Between two looks whether a process has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// A process that was killed is gone after that, or the machine is in trouble.
const KILLED_IN: Duration = Duration::from_secs(10);

/// A process that was told to stand still does so after that, likewise.
const STOPPED_IN: Duration = Duration::from_secs(10);

/// A place for one process at a time, and the log of all that were there.
#[derive(Debug)]
pub(crate) struct Process {
    what: String,
    log: PathBuf,
    janitor: Janitor,
    /// What has it end soon and well: how it is ended when nobody is left to wait for it.
    farewell: Signal,
    child: Mutex<Option<Child>>,
}

impl Process {
    pub(crate) fn new(what: &str, log: &Path, janitor: &Janitor, farewell: Signal) -> Self {
        let (what, log, janitor) = (what.to_owned(), log.to_owned(), janitor.clone());
        Self { what, log, janitor, farewell, child: Mutex::new(None) }
    }

    /// Starts it, in a process group of its own: a Ctrl-C is for us.
    ///
    /// # Errors
    ///
    /// If it can not be started, or is there already.
    pub(crate) fn start(&self, mut command: Command) -> Result<(), FieldError> {
        let mut child = self.child.lock();
        if child.is_some() {
            let detail = "it runs already".into();
            return Err(FieldError::Failed { what: format!("starting {}", self.what), detail });
        }
        let failed = || FieldError::io(format!("starting {}", self.what));
        let log = OpenOptions::new().append(true).create(true).open(&self.log).map_err(failed())?;
        let copy = log.try_clone().map_err(failed())?;
        command.stdin(Stdio::null()).stdout(log).stderr(copy).process_group(0);
        let spawned = child.insert(command.spawn().map_err(failed())?);
        let signal = if self.farewell == Signal::QUIT { "QUIT" } else { "KILL" };
        match spawned.id() {
            Some(pid) => self.janitor.watch_process(pid, signal),
            None => Ok(()),
        }
    }

    /// Its number, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref()?.id()
    }

    /// How it has ended since it was last asked; `None`: it runs, or it was known.
    pub(crate) fn ended(&self) -> Result<Option<ExitStatus>, FieldError> {
        let mut child = self.child.lock();
        let Some(running) = child.as_mut() else { return Ok(None) };
        let failed = FieldError::io(format!("waiting for {}", self.what));
        let status = running.try_wait().map_err(failed)?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    /// Whether it runs, as far as is known.
    pub(crate) fn is_there(&self) -> bool {
        self.child.lock().is_some()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If there is no process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), FieldError> {
        // A process that has ended keeps its number until it was waited for, which needs the lock.
        let child = self.child.lock();
        let what = format!("sending {signal:?} to {}", self.what);
        let pid = running(child.as_ref(), &what)?;
        kill_process(pid, signal).map_err(|errno| FieldError::Io { what, source: errno.into() })
    }

    /// Has it stand still, and waits until it does: a thread takes the signal and then stops the
    /// others, and on a busy machine they may do a thing or two before.
    ///
    /// # Cancel safety
    ///
    /// It has been told.
    ///
    /// # Errors
    ///
    /// If there is no process, or it ends or goes on instead.
    pub(crate) async fn stop(&self) -> Result<(), FieldError> {
        self.signal(Signal::STOP)?;
        let until = Instant::now() + STOPPED_IN;
        while !self.is_stopped()? {
            if Instant::now() > until {
                let what = format!("{} stands still", self.what);
                return Err(FieldError::NotInTime { what, within: STOPPED_IN, log: self.tail() });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn is_stopped(&self) -> Result<bool, FieldError> {
        let child = self.child.lock();
        let what = format!("stopping {}", self.what);
        let pid = running(child.as_ref(), &what)?;
        // Without a wait, and it may be asked again.
        let how = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let stopped = waitid(WaitId::Pid(pid), how);
        stopped
            .map(|it| it.is_some())
            .map_err(|errno| FieldError::Io { what, source: errno.into() })
    }

    /// Waits for its end. `None`: somebody else has.
    ///
    /// # Cancel safety
    ///
    /// It is still there, or its end is known.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub(crate) async fn wait(&self, within: Duration) -> Result<Option<ExitStatus>, FieldError> {
        let until = Instant::now() + within;
        while self.is_there() {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() > until {
                let what = format!("{} ends", self.what);
                return Err(FieldError::NotInTime { what, within, log: self.tail() });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// Ends it as a power cut would, and waits until it is gone.
    ///
    /// # Cancel safety
    ///
    /// It has been told.
    ///
    /// # Errors
    ///
    /// If there is no process, or it does not go.
    pub(crate) async fn kill(&self) -> Result<(), FieldError> {
        self.signal(Signal::KILL)?;
        self.wait(KILLED_IN).await.map(drop)
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        super::programs::tail(&self.log)
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

/// The number of a process that something is done to.
///
/// # Errors
///
/// If there is none.
fn running(child: Option<&Child>, what: &str) -> Result<Pid, FieldError> {
    let pid = child.and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
    let none = || FieldError::Failed { what: what.into(), detail: "it does not run".into() };
    pid.and_then(Pid::from_raw).ok_or_else(none)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody can be told what fails here; the janitor looks after it.
        if self.pid().is_none() {
            return;
        }
        self.signal(self.farewell).ok();
        self.signal(Signal::CONT).ok();
        let tries = KILLED_IN.as_millis() / PAUSE.as_millis();
        for number in 0..tries {
            match self.ended() {
                Ok(None) if number == tries / 2 => self.signal(Signal::KILL).ok().unwrap_or(()),
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return,
            }
            std::thread::sleep(PAUSE);
        }
    }
}
