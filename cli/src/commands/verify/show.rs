//! What is shown of a run of `verify` while it goes on.

use batonq_verify::run::{Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::output::note;

/// Tells whoever watches how it goes: on a terminal in a line that changes, else one line for each
/// stage.
pub(super) struct Watcher {
    bar: Option<ProgressBar>,
    stage: Mutex<Option<Stage>>,
}

impl Watcher {
    pub(super) fn new(is_terminal: bool) -> Self {
        let bar = || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            match ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        };
        Self { bar: is_terminal.then(bar), stage: Mutex::default() }
    }

    pub(super) fn tell(&self, progress: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_message(line(progress));
            bar.tick();
            return;
        }
        if self.stage.lock().replace(progress.stage) != Some(progress.stage) {
            note(&format!("verify: {}", word(progress.stage)));
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Building => "starting a database and nodes",
        Stage::Running => "clients work, and things break",
        Stage::Settling => "all is healed: waiting until all work is done",
        Stage::Reading => "reading what is left",
        Stage::Judging => "judging",
    }
}

fn line(progress: Progress) -> String {
    let Progress { stage, jobs, jobs_planned, faults, faults_planned, unknown, leader } = progress;
    let leader = leader.map_or("nobody leads".to_owned(), |node| format!("n{node} leads"));
    match stage {
        Stage::Running | Stage::Settling => format!(
            "{}: {jobs} of {jobs_planned} jobs, {faults} of {faults_planned} faults, {unknown} \
             calls of unknown outcome, {leader}",
            word(stage)
        ),
        _ => word(stage).to_owned(),
    }
}
