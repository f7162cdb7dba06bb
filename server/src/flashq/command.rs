//! The commands: their names, who may ask for them, and who serves them. One table.

use std::pin::Pin;

use super::{Answer, Client, Fields};
use super::{change_job, change_queue, cron, flow, kv, look, queues, work};
use crate::access::Operation;

/// A command that is being served.
pub(super) type Serving<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What can be asked for.
#[derive(Clone, Copy)]
pub(super) struct Command {
    name: &'static str,
    pub(super) operation: Operation,
    pub(super) serve: for<'a> fn(Client<'a>, Fields) -> Serving<'a>,
}

impl Command {
    /// The command of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        COMMANDS.iter().find(|command| command.name == name).copied()
    }

    /// Whether it may wait for what others do.
    pub(super) fn waits(self) -> bool {
        matches!(self.operation, Operation::Pull | Operation::WaitJob)
    }
}

macro_rules! command {
    ($name:literal, $operation:ident, $serve:path) => {{
        fn serve(client: Client<'_>, fields: Fields) -> Serving<'_> {
            Box::pin($serve(client, fields))
        }
        Command { name: $name, operation: Operation::$operation, serve }
    }};
}

/// The first are those that are asked for most. `AUTH`, `SUBSCRIBE` and `UNSUBSCRIBE` are the
/// connection's own.
static COMMANDS: &[Command] = &[
    command!("PUSH", Push, work::push),
    command!("PULL", Pull, work::pull),
    command!("ACK", Settle, work::ack),
    command!("PUSHB", Push, work::pushb),
    command!("PULLB", Pull, work::pullb),
    command!("ACKB", Settle, work::ackb),
    command!("FAIL", Settle, work::fail),
    command!("PROGRESS", Settle, work::progress),
    command!("HEARTBEAT", Settle, work::heartbeat),
    command!("PING", Greet, work::ping),
    command!("PARTIAL", Settle, change_job::partial),
    command!("LOG", Settle, change_job::log),
    command!("MOVETODELAYED", Settle, change_job::movetodelayed),
    command!("GETJOB", GetJob, look::getjob),
    command!("GETSTATE", GetJob, look::getstate),
    command!("GETRESULT", GetJob, look::getresult),
    command!("GETJOBBYCUSTOMID", GetJob, look::getjobbycustomid),
    command!("GETJOBSBATCH", GetJob, look::getjobsbatch),
    command!("GETPROGRESS", GetJob, look::getprogress),
    command!("GETLOGS", GetJob, look::getlogs),
    command!("GETCHILDREN", GetJob, flow::getchildren),
    command!("WAITJOB", WaitJob, look::waitjob),
    command!("GETJOBS", ListJobs, look::getjobs),
    command!("DLQ", ListJobs, look::dlq),
    command!("GETJOBCOUNTS", ListQueues, queues::getjobcounts),
    command!("COUNT", ListQueues, queues::count),
    command!("ISPAUSED", ListQueues, queues::ispaused),
    command!("LISTQUEUES", ListQueues, queues::listqueues),
    command!("STATS", GetStats, queues::stats),
    command!("METRICS", GetStats, queues::metrics),
    command!("CANCEL", CancelJob, change_job::cancel),
    command!("DISCARD", CancelJob, change_job::discard),
    command!("UPDATEJOB", EditJob, change_job::updatejob),
    command!("UPDATE", EditJob, change_job::updatejob),
    command!("CHANGEPRIORITY", EditJob, change_job::changepriority),
    command!("PROMOTE", PromoteJob, change_job::promote),
    command!("PAUSE", PauseQueue, change_queue::pause),
    command!("RESUME", ResumeQueue, change_queue::resume),
    command!("DRAIN", Bulk, change_queue::drain),
    command!("OBLITERATE", Bulk, change_queue::obliterate),
    command!("CLEAN", Bulk, change_queue::clean),
    command!("PURGEDLQ", Bulk, change_queue::purgedlq),
    command!("RETRYDLQ", RetryJob, change_queue::retrydlq),
    command!("RATELIMIT", SetSettings, change_queue::ratelimit),
    command!("RATELIMITCLEAR", SetSettings, change_queue::ratelimitclear),
    command!("SETCONCURRENCY", SetSettings, change_queue::setconcurrency),
    command!("CLEARCONCURRENCY", SetSettings, change_queue::clearconcurrency),
    command!("CRON", ChangeSchedule, cron::cron),
    command!("CRONDELETE", ChangeSchedule, cron::crondelete),
    command!("CRONLIST", ListSchedules, cron::cronlist),
    command!("FLOW", Push, flow::flow),
    command!("KVGET", ReadValues, kv::kvget),
    command!("KVMGET", ReadValues, kv::kvmget),
    command!("KVEXISTS", ReadValues, kv::kvexists),
    command!("KVTTL", ReadValues, kv::kvttl),
    command!("KVKEYS", ReadValues, kv::kvkeys),
    command!("KVSET", ChangeValues, kv::kvset),
    command!("KVMSET", ChangeValues, kv::kvmset),
    command!("KVDEL", ChangeValues, kv::kvdel),
    command!("KVEXPIRE", ChangeValues, kv::kvexpire),
    command!("KVINCR", ChangeValues, kv::kvincr),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_stands_in_the_table_once() {
        for command in COMMANDS {
            let count = COMMANDS.iter().filter(|other| other.name == command.name).count();
            assert_eq!(count, 1, "{}", command.name);
        }
        assert!(Command::find("PUSH").is_some());
        assert!(Command::find("push").is_none());
    }
}
