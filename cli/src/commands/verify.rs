//! `batonq verify`: does this broker keep its promises, here?
//!
//! Nodes of this very program, on a throw-away Postgres, are given jobs by many clients while they
//! are killed, frozen and cut off. All that is asked and answered is written down, and judged. What
//! is done and how it is judged is in `batonq-verify`; here it is asked for (`order`) and shown
//! (`show`).

mod order;
mod show;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use batonq_verify::field::FieldError;
use batonq_verify::history::History;
use batonq_verify::report::{self, Report};
use batonq_verify::run::{self, Error};
use batonq_verify::summary::{Course, Summary};
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::order::Wanted;
use crate::Shared;
use crate::exit::{Failure, NOT_VERIFIED};
use crate::output::{note, say};

/// A promise was broken.
const BROKEN: u8 = 1;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    wanted: Wanted,

    /// Judge a history that was recorded before, and run nothing
    #[arg(long, value_name = "FILE", group = "profile")]
    replay: Option<PathBuf>,

    /// Write down here what is asked and answered. Without it a file is kept only if something
    /// is wrong
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    history: Option<PathBuf>,

    /// This machine has other work: times are told, and not judged
    #[arg(long)]
    busy: bool,

    /// Write the report into this file too, as Markdown or, if its name ends in .json, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Draw into this file, as SVG, what was done over time and what was broken when
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
}

impl Verify {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        if let Some(history) = &self.replay {
            self.wanted.is_nothing(shared)?;
            let (history, summary) = run::replay(history).map_err(|error| {
                Failure::usage(format!("{} can not be judged: {error}", history.display()))
            })?;
            return self.show(shared, &history, summary);
        }
        let place = Place::new(self.history.as_deref())?;
        let order = self.wanted.order(shared, place.path())?;
        let seed = order.seed;
        note(&format!("verify: {}, seed {seed}", order.name));
        let (history, summary) = run(order).await?;
        self.wanted.note_mutant(&summary);
        if let Some(path) = place.keep_if(!summary.is_good())? {
            let path = path.display();
            note(&format!("verify: the history is in {path}: batonq verify --replay {path}"));
        }
        self.show(shared, &history, summary)
    }

    /// Shows what was found. What to exit with, whether anybody reads that or not.
    fn show(
        &self,
        shared: &Shared,
        history: &History,
        mut summary: Summary,
    ) -> Result<ExitCode, Failure> {
        if self.busy {
            summary.verdict.bounds.clear();
            summary.notes.push("the machine had other work, so times were not judged".to_owned());
        }
        let code = code(&summary);
        match self.print(shared, history, &summary) {
            Err(failure) if code == 0 => return Err(failure),
            Err(failure) => drop(failure.report(shared.output)),
            Ok(()) => {}
        }
        Ok(ExitCode::from(code))
    }

    fn print(&self, shared: &Shared, history: &History, summary: &Summary) -> Result<(), Failure> {
        let report = Report::new(summary, history);
        if let Some(file) = &self.report {
            let is_json = file.extension().is_some_and(|extension| extension == "json");
            write(file, &if is_json { report.json() } else { report.markdown() })?;
        }
        if let Some(file) = &self.timeline {
            let seed = summary.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
            write(file, &report::timeline(&format!("{}{seed}", summary.profile), history))?;
        }
        match shared.output {
            crate::output::Format::Human => say(report.terminal().trim_end()),
            crate::output::Format::Json => say(report.json().trim_end()),
        }
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::other(format!("{}: {error}", file.display()));
    std::fs::write(file, text).map_err(failed)
}

/// Runs it, and ends it in good order on the first signal, at once on the second.
async fn run(order: run::Order) -> Result<(History, Summary), Failure> {
    let signals = || Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
    let signals: std::io::Result<_> = signals();
    let (mut terminate, mut interrupt) = signals.map_err(Failure::other)?;
    let stop = CancellationToken::new();
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let watcher = show::Watcher::new(std::io::stderr().is_terminal());
    let tell = |progress| watcher.tell(progress);
    let stopping = async {
        signalled().await;
        note("verify: stops, and judges what was recorded; once more stops at once");
        stop.cancel();
        signalled().await;
    };
    let ended = tokio::select! {
        ended = run::run(order, &tell, &stop) => ended.map_err(not_run),
        () = stopping => Err(Failure::not_verified("stopped at once")),
    };
    watcher.end();
    ended
}

fn not_run(error: Error) -> Failure {
    match error {
        Error::Field(FieldError::Client { what, source }) => Failure::from(source).within(&what),
        error => Failure::not_verified(error),
    }
}

/// 0 if all is well, 1 if something is wrong, another one if that is not known.
fn code(summary: &Summary) -> u8 {
    match summary.course {
        _ if !summary.verdict.is_good() => BROKEN,
        Course::AsPlanned => 0,
        Course::Broken(_) => BROKEN,
        Course::Interrupted => NOT_VERIFIED,
    }
}

/// Where the history of a run is written.
enum Place {
    Asked(PathBuf),
    Temporary(NamedTempFile),
}

impl Place {
    fn new(asked: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = asked {
            return Ok(Self::Asked(path.to_owned()));
        }
        let mut file = tempfile::Builder::new();
        let file = file.prefix("batonq-verify-").suffix(".history").tempfile();
        Ok(Self::Temporary(file.map_err(Failure::not_verified)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Asked(path) => path,
            Self::Temporary(file) => file.path(),
        }
    }

    /// Where it is, if it is still there.
    fn keep_if(self, is_worth_it: bool) -> Result<Option<PathBuf>, Failure> {
        match self {
            Self::Asked(path) => Ok(Some(path)),
            Self::Temporary(file) if is_worth_it => {
                let (_, path) = file.keep().map_err(Failure::other)?;
                Ok(Some(path))
            }
            Self::Temporary(_) => Ok(None),
        }
    }
}
