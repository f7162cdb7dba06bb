//! Every limit a client can meet, in one place, each with its reason.
//!
//! What a limit refuses is refused with an error that names it; full means an error, not memory.

use std::ops::RangeInclusive;
use std::time::Duration;

pub use batonq_protocol::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNAUTHENTICATED};

/// The largest payload, and the largest result: what is larger belongs into an object store, with
/// its address in the payload.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Jobs or settlements in one request: beyond this a larger batch is no faster.
pub const BATCH_MAX: usize = 1000;

/// Payload bytes handed out in one answer: the frame also holds everything else about the jobs.
pub const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The body of an HTTP request: as much as a frame.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// How deep JSON may nest. Deeper is an attack on parsers, ours and the worker's.
pub const JSON_DEPTH_MAX: usize = 100;

/// The length of a queue's name in bytes; its letters are `A-Z a-z 0-9 . _ : -`.
pub const QUEUE_NAME_BYTES: RangeInclusive<usize> = 1..=256;

/// The length of a unique key in bytes: it is stored in an index.
pub const UNIQUE_KEY_BYTES: RangeInclusive<usize> = 1..=256;

/// Jobs of a key, or of a queue, that may be leased at once.
pub const CONCURRENCY: RangeInclusive<u32> = 1..=1_000_000;

/// Jobs of a key, or of a queue, that may start in a time; also at once, after a rest.
pub const RATE_LIMIT: RangeInclusive<u32> = 1..=1_000_000;

/// The time that a rate is about.
pub const RATE_PER: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);

/// Keys of a queue whose limits people have set: they are read with each claim.
pub const KEYS_SET_MAX: usize = 1000;

/// How long a unique key may outlive its job.
pub const UNIQUE_WINDOW: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(30 * 24 * 3600);

/// How long a push may be repeated under its idempotency key.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// What a transport keeps with a job for itself: it is read each time the job is given out.
pub const EXTRA_BYTES_MAX: usize = 2048;

/// Jobs that one job may wait for: they are looked up when it is given out.
pub const DEPENDS_MAX: usize = 100;

/// The result of a job that another one waited for, as it is given to that one's worker: a larger
/// one is to be asked for.
pub const NEED_BYTES_MAX: usize = 64 * 1024;

/// The same as it is stored: sealed, it is a little longer.
pub const NEED_STORED_BYTES_MAX: usize = NEED_BYTES_MAX + 128;

/// Leases whose queues a node remembers for the sake of their results; what it has forgotten it asks
/// the store for. A few MiB.
pub const NOTED_LEASES_MAX: usize = 65_536;

/// The length of a cron expression in bytes.
pub const CRON_BYTES_MAX: usize = 256;

/// The period of a schedule that has one.
pub const CRON_EVERY: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// Missed slots that one schedule may make up for.
pub const CATCH_UP_CAP: RangeInclusive<u32> = 1..=1000;

/// How old they may be.
pub const CATCH_UP_WINDOW: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

/// How long the job of a slot may be made to wait.
pub const JITTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Schedules of a cluster.
pub const SCHEDULES_MAX: usize = 10_000;

/// The length of a tag in bytes: it is stored in an index.
pub const TAG_BYTES: RangeInclusive<usize> = 1..=128;

/// Tags of one job: each costs an index entry.
pub const TAGS_MAX: usize = 16;

/// The length of a worker's name in bytes.
pub const WORKER_NAME_BYTES_MAX: usize = 128;

/// The length of a content type in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// The length of a failure's code in bytes: it is a word for machines.
pub const ERROR_CODE_BYTES: RangeInclusive<usize> = 1..=64;

/// The length of a failure's or a progress message. Longer ones are cut, not refused: a stack
/// trace that is too long must not keep a worker from reporting its failure.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// A part of a result, as it is told to those who listen: each of them is an event, and events are
/// read by pages. What is larger belongs into the result.
pub const PARTIAL_BYTES_MAX: usize = 64 * 1024;

/// How often a job may be attempted.
pub const MAX_ATTEMPTS: RangeInclusive<u32> = 1..=1000;

/// Attempts of a job that says nothing: with the default backoff, about half a day of trying.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 25;

/// Delays in one backoff list.
pub const BACKOFF_DELAYS_MAX: usize = 100;

/// How far ahead anything may be scheduled: ten years. More is a mistake of units.
pub const DELAY_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long one attempt may run.
pub const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 3600);

/// How long a pull, or a wait for a job's end, may take: proxies close what is silent for longer.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a lease lasts that does not hang on a connection, unless extended.
pub const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// How long the worker of a cancelled job has to end it, if the request says nothing.
pub const CANCEL_GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// How long it may have.
pub const CANCEL_GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Such a lease, if the pull says nothing.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// Jobs that one subscription may hold at once.
pub const CREDIT_MAX: u32 = 10_000;

/// Subscriptions of one connection.
pub const SUBSCRIPTIONS_MAX: usize = 100;

/// Streams of events at once on a node: each reads for itself.
pub const EVENT_STREAMS_MAX: usize = 256;

/// Events that a stream reads at once.
pub const EVENTS_PAGE: usize = 200;

/// Bytes of messages, and of parts of results, with which such a page ends: a stream holds a page for
/// as long as its client takes to read it.
pub const EVENTS_PAGE_BYTES: usize = 1024 * 1024;

/// The length of a webhook's name in bytes: it is part of the key of each delivery.
pub const WEBHOOK_NAME_BYTES: RangeInclusive<usize> = 1..=128;

/// Webhooks of a cluster: the leader reads the events for each of them.
pub const WEBHOOKS_MAX: usize = 100;

/// The length of a webhook's address in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// The length of a webhook's secret in bytes: a shorter one could be guessed.
pub const SECRET_BYTES: RangeInclusive<usize> = 16..=256;

/// The same of a webhook that is told as flashQ tells them: there are receivers with shorter ones.
pub const FLASHQ_SECRET_BYTES: RangeInclusive<usize> = 1..=256;

/// Queues, or kinds of events, that one webhook names.
pub const WEBHOOK_FILTER_MAX: usize = 100;

/// Connections of both transports together.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Requests of one connection that wait for their answers; then the node reads no further.
pub const IN_FLIGHT_MAX: usize = 4096;

/// Bytes of requests that wait to be stored, over all connections; beyond this: `OVERLOADED`.
pub const BYTES_IN_FLIGHT_MAX: usize = 256 * 1024 * 1024;

/// Bytes of answers that wait for one client to read them; then the node gives it nothing more.
pub const UNREAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a client may take for its preface and `Hello`.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the body of an HTTP request may take.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave its answers unread before it is cut off.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an HTTP connection may take from the end of one request to the end of the next one's
/// head: it bounds idle connections and slow heads alike.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Entries of one page of a list.
pub const PAGE_MAX: usize = 1000;

/// Entries of one page, if the request says nothing.
pub const PAGE_DEFAULT: usize = 50;

/// Jobs that one bulk request changes.
pub const BULK_MAX: usize = 10_000;

/// Jobs that a dry run of one counts; then it says that there is more.
pub const BULK_COUNT_MAX: usize = 100_000;

/// Attempts shown in a timeline: the last ones.
pub const TIMELINE_MAX: usize = 256;

/// What is noted of a job beside its leases: the last of it.
pub const NOTES_MAX: usize = 256;

/// The length of a failure's message where it is told a second time, in the story of its job.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 512;

/// Lines kept of a job's log: the last ones.
pub const LOGS_MAX: usize = 100;

/// The length of such a line. Longer ones are cut, not refused; all that are kept of a job fit into
/// one answer.
pub const LOG_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The length of a line's level: it is a word, as `info`. Longer ones are cut.
pub const LOG_LEVEL_BYTES_MAX: usize = 16;

/// The length of a key of the key-value store in bytes, and of a pattern of keys: it is stored in
/// an index.
pub const KV_KEY_BYTES: RangeInclusive<usize> = 1..=1024;

/// Keys in one list: at their longest, as many as an answer can hold without harm.
pub const KV_KEYS_MAX: usize = 10_000;

/// Workers in the list of those that have said that they are at work: a cluster that has more is
/// looked at by other means.
pub const WORKER_NOTES_MAX: usize = 1000;

/// The length of the name that such a worker gives itself, in bytes: it is part of a key.
pub const WORKER_NOTE_ID_BYTES: RangeInclusive<usize> = 1..=WORKER_NAME_BYTES_MAX;

/// Queues that it may name.
pub const WORKER_NOTE_QUEUES_MAX: usize = 64;

/// Refusals that are being noted at the same time; those beyond are not noted, since a flood of
/// late answers must not keep others from the store.
pub const REFUSALS_NOTED_MAX: usize = 4;

/// Up to where an explanation counts the jobs that come before another one: what is beyond takes
/// long either way.
pub const AHEAD_MAX: usize = 1000;

/// Jobs that an explanation names of those that hold a key: enough to look at some.
pub const HOLDERS_SHOWN_MAX: usize = 100;

/// Queues of which a node remembers who pulls from them: the list goes with each heartbeat.
pub const DEMAND_MAX: usize = 1000;

/// Queues with metrics of their own; the others are counted together as `_other`.
pub const METRIC_QUEUES_MAX: usize = 1000;

/// One request of a client of flashQ, or one answer to it: as much as its own server takes in a frame.
pub const FLASHQ_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a pull of such a client may wait: nobody wants to wait for longer than a day, and times
/// without a bound can not be computed with.
pub const FLASHQ_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a job is a worker's that pulled it over HTTP, from the pull or its last heartbeat on: there
/// is no connection that would show that it lives.
pub const FLASHQ_HTTP_LEASE: Duration = Duration::from_secs(120);

/// Leases of such clients that a node remembers, so that an ack by number needs no look; what it has
/// forgotten it asks the store for. Some 10 MiB.
pub const FLASHQ_LEASES_MAX: usize = 131_072;

/// Payloads and results in one list for a client of flashQ, which has each of them twice: some of its
/// clients read the one, some the other.
pub const FLASHQ_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a pull over HTTP waits if nobody says: clients give up after five seconds, and do not say
/// so.
pub const FLASHQ_HTTP_WAIT: Duration = Duration::from_secs(3);

/// Requests with large answers that are served over HTTP at the same time; the rest have to wait.
pub const FLASHQ_HTTP_LOOKS_MAX: usize = 64;

/// Queues whose events one connection of such a client listens to: each is a stream of events.
pub const FLASHQ_SUBSCRIPTIONS_MAX: usize = 16;

/// WebSockets at once on a node, as many as flashQ itself has.
pub const FLASHQ_SOCKETS_MAX: usize = 100;

/// One message of the client of a WebSocket: all that it has to say is its token.
pub const FLASHQ_SOCKET_MESSAGE_BYTES_MAX: usize = 4096;
