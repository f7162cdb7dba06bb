//! The wire protocol of batonq: what travels between a client and a node.
//!
//! This crate holds the messages ([`messages`]), their framing ([`FrameCodec`]), the one table of
//! error codes ([`ErrorCode`]) and the [versions](negotiate) both sides speak. It does no I/O.
//! The messages themselves are explained where they are defined, in `proto/batonq.proto`.
//!
//! # A connection
//!
//! The client opens with eight bytes, the preface, and then both sides send frames:
//!
//! ```text
//!        client sends once
//!  ┌─────────────────────────┐
//!  │ B A T O N Q  00  01     │   preface: name, a zero, version of the framing
//!  └─────────────────────────┘
//!
//!        then, both ways, any number of
//!  ┌──────────┬──────────────────────────────────────────────┐
//!  │ length   │ Envelope                                     │
//!  │ u32, big │   request_id: u64                            │
//!  │ endian   │   message:    one of Hello, Push, Pulled, …  │
//!  └──────────┴──────────────────────────────────────────────┘
//!    4 bytes     `length` bytes of protobuf, 1 to the maximum
//! ```
//!
//! The preface lets one port serve other protocols beside this one: no frame of theirs can begin
//! with it. The length comes before the envelope so that a node knows what a frame will cost it
//! before it reads the frame: at most [`FRAME_BYTES_MAX_UNAUTHENTICATED`] before the client has
//! shown who it is, at most [`FRAME_BYTES_MAX`] after.
//!
//! # Who may say what, when
//!
//! 1. The first frame is a `Hello`: the versions the client speaks, its token, its worker's name.
//!    The node answers `Welcome` with the version chosen, a session and the limits, or an `Error`
//!    (`UNAUTHENTICATED`, `UNSUPPORTED_VERSION`) and closes. Nothing else is decoded before it.
//! 2. Then the client asks as much as it likes without waiting, up to `in_flight_max` at once.
//!    Each request has an id of the client's choice, not 0 and not in use; its answer carries the
//!    same id. **Answers come in the order in which they are ready**, so a push never waits behind
//!    a pull.
//! 3. A request that fails as a whole is answered by `Error`. The connection stays. In a batch one
//!    refused item has its error in its place and its neighbours succeed.
//! 4. A `Subscribe` is answered by `Done`; from then on the node sends `Delivery` frames with
//!    request id 0 that name the subscription (the request id of the `Subscribe`). The node sends
//!    at most as many jobs as the client has credit for; each settled job returns one.
//! 5. The client must be heard from within `heartbeat_timeout_ms`. Any frame will do, a `Ping`
//!    costs least. The node may send a `Ping` too; answer it with `Pong` and the same id.
//! 6. Leases that came without a time of their own belong to the **session**. They last as long as
//!    the session's connection is heard from, and `reconnect_grace_ms` beyond its loss: a client
//!    that connects again in time, to this or another node, and names the session in its `Hello`
//!    keeps them, and `Welcome` lists them.
//! 7. `LeasesLost` and `GoAway` come unasked, with request id 0.
//!
//! # When something is wrong
//!
//! | what | the node |
//! |---|---|
//! | no preface, or another protocol's | closes without a word |
//! | length 0 or above the maximum, bytes that are no envelope | sends `Error` `FRAMING`, closes |
//! | an envelope without a message it knows | answers `Error` `INVALID`, stays |
//! | a request with a bad field | answers `Error` `INVALID` that names the field, stays |
//! | a request the token's roles do not allow | answers `Error` `FORBIDDEN`, stays |
//! | nothing heard in time | closes, gives the session's jobs back |
//!
//! # An example session
//!
//! ```text
//! C  BATONQ\0\1
//! C  1  Hello   { version_min: 1, version_max: 1, token: "s3cret", worker: "mailer-1" }
//! S  1  Welcome { version: 1, node_id: "node-1", session: 8812…, limits: {…} }
//! C  2  Push    { jobs: [{ queue: "mail", payload: "{\"to\":\"ada\"}" }] }
//! C  3  Subscribe { queue: "mail", credit: 10 }
//! S  3  Done    {}
//! S  2  Pushed  { results: [{ id: 41, outcome: INSERTED, state: READY }] }
//! S  0  Delivery { subscription: 3, jobs: [{ id: 41, lease: "…", payload: …, attempt: 1 }] }
//! C  4  Ack     { items: [{ lease: "…" }] }
//! S  4  Settled { results: [{ status: OK }] }
//! C  5  Ping    {}
//! S  5  Pong    {}
//! ```
//!
//! The same frames stand byte by byte in `golden/`, for the tests of every client.

mod error_code;
mod frame;
mod version;

#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated from proto/batonq.proto, where each message is explained"
)]
#[rustfmt::skip]
pub mod messages;

pub use error_code::Meaning;
pub use frame::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNAUTHENTICATED, FrameCodec, FrameError};
pub use messages::envelope::Message;
pub use messages::{Envelope, ErrorCode};
pub use version::{PREFACE, VERSION_MAX, VERSION_MIN, negotiate};
