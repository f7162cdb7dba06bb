//! The commands.

mod bench;
mod bulk;
mod change;
mod cron;
mod demo;
mod flow;
mod look;
mod migrate;
mod pull;
mod push;
mod serve;
mod settle;
mod top;
mod verify;
mod view;
mod wait;
mod work;

use std::process::ExitCode;

use crate::Shared;
use crate::exit::Failure;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run the broker
    Serve(serve::Serve),
    /// See it work: a broker in a temporary directory and a few hundred jobs
    Demo(demo::Demo),
    /// Push jobs
    Push(Box<push::Push>),
    /// Push jobs that wait for each other: all of them, or none
    Flow(flow::Flow),
    /// Lease jobs and print them
    Pull(pull::Pull),
    /// Work on jobs with a command
    Work(work::Work),
    /// A job is done
    Ack(settle::Ack),
    /// A job went wrong
    Fail(settle::Fail),
    /// Give a job back unharmed
    Release(settle::Release),
    /// Wait for the end of a job
    Wait(wait::Wait),
    /// List the queues
    Queues(look::Queues),
    /// Look at jobs
    #[command(subcommand)]
    Jobs(look::Jobs),
    /// What happened to a job
    Timeline(look::Timeline),
    /// Why a job does not run
    Explain(look::Explain),
    /// List the workers that are connected
    Workers(look::Workers),
    /// What the node did in the last 60 seconds
    Stats(look::Stats),
    /// List the nodes of the cluster
    Nodes(look::Nodes),
    /// Have a node leave: it sends its clients elsewhere and exits
    Drain(change::Drain),
    /// Watch queues and workers
    Top(top::Top),
    /// Stop a queue from giving out jobs
    Pause(change::Pause),
    /// Let a paused queue go on
    Resume(change::Resume),
    /// Send a dead job round again
    Retry(change::Retry),
    /// Take a job back; the worker of a leased one is asked to end it
    Cancel(change::Cancel),
    /// Make a scheduled job ready now
    Promote(change::Promote),
    /// Push a copy of a job that has ended
    Replay(change::Replay),
    /// Look at dead jobs and send them round again
    #[command(subcommand)]
    Dlq(change::Dlq),
    /// Do the same to many jobs; counts them unless told to do it
    Bulk(bulk::Bulk),
    /// What guards of queues have refused
    Decisions(look::Decisions),
    /// Jobs by the clock
    #[command(subcommand)]
    Cron(cron::Cron),
    /// Who uses the limits of a queue's keys, and when they open
    Limits(look::Limits),
    /// Set all settings of a queue, or show them
    Settings(change::Settings),
    /// Change a job that waits
    Edit(change::Edit),
    /// Make and change the tables in Postgres
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Measure a broker
    Bench(bench::Bench),
    /// See whether promises hold: a throw-away cluster, load, and faults
    Verify(Box<verify::Verify>),
}

impl Command {
    /// How many threads it is to run on, if not one for each core.
    pub(crate) fn threads(&self) -> Option<usize> {
        match self {
            Self::Bench(bench) => bench.threads(),
            _ => None,
        }
    }

    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        match self {
            Self::Serve(serve) => serve.run().await,
            Self::Demo(demo) => demo.run().await,
            Self::Push(push) => push.run(shared).await,
            Self::Flow(flow) => flow.run(shared).await,
            Self::Pull(pull) => pull.run(shared).await,
            Self::Work(work) => work.run(shared).await,
            Self::Ack(ack) => ack.run(shared).await,
            Self::Fail(fail) => fail.run(shared).await,
            Self::Release(release) => release.run(shared).await,
            Self::Wait(wait) => wait.run(shared).await,
            Self::Queues(queues) => queues.run(shared).await,
            Self::Jobs(jobs) => jobs.run(shared).await,
            Self::Timeline(timeline) => timeline.run(shared).await,
            Self::Explain(explain) => explain.run(shared).await,
            Self::Nodes(nodes) => nodes.run(shared).await,
            Self::Drain(drain) => drain.run(shared).await,
            Self::Workers(workers) => workers.run(shared).await,
            Self::Stats(stats) => stats.run(shared).await,
            Self::Top(top) => top.run(shared).await,
            Self::Pause(pause) => pause.run(shared).await,
            Self::Resume(resume) => resume.run(shared).await,
            Self::Retry(retry) => retry.run(shared).await,
            Self::Cancel(cancel) => cancel.run(shared).await,
            Self::Promote(promote) => promote.run(shared).await,
            Self::Replay(replay) => replay.run(shared).await,
            Self::Dlq(dlq) => dlq.run(shared).await,
            Self::Bulk(bulk) => bulk.run(shared).await,
            Self::Decisions(decisions) => decisions.run(shared).await,
            Self::Cron(cron) => cron.run(shared).await,
            Self::Limits(limits) => limits.run(shared).await,
            Self::Settings(settings) => settings.run(shared).await,
            Self::Edit(edit) => edit.run(shared).await,
            Self::Migrate(migrate) => migrate.run(shared.output).await,
            Self::Bench(bench) => bench.run(shared).await,
            Self::Verify(verify) => verify.run(shared).await,
        }
    }
}
