//! What is committed is what the `.proto` says: the messages, and the descriptors that generators of
//! other languages begin with, so that they need no compiler of their own.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Messages that are seldom and large: kept in a box, so that a push or an ack is not as large as they.
const LARGE: [&str; 10] = [
    "hello",
    "welcome",
    "job",
    "list_jobs",
    "timeline",
    "explanation",
    "stats",
    "replay_job",
    "edit_job",
    "put_schedule",
];

/// What few jobs ask for: kept in a box, so that the others are not as large as if they did.
const SELDOM: [&str; 3] = ["unique", "concurrency", "rate"];

/// The messages in Rust, and the descriptors with their comments; made without `protoc`.
fn generate() -> (Vec<u8>, Vec<u8>) {
    let descriptors =
        protox::compile(["batonq.proto"], [root().join("proto")]).expect("the .proto compiles");
    let encoded = descriptors.encode_to_vec();
    let out = tempfile::tempdir().expect("a temporary directory");
    let mut config = prost_build::Config::new();
    config.bytes(["."]).out_dir(out.path());
    for message in LARGE {
        config.boxed(format!(".batonq.v1.Envelope.message.{message}"));
    }
    for field in SELDOM {
        config.boxed(format!(".batonq.v1.NewJob.{field}"));
    }
    config.compile_fds(descriptors).expect("messages are generated");
    let messages = std::fs::read(out.path().join("batonq.v1.rs")).expect("they are in one file");
    (messages, encoded)
}

#[test]
fn what_is_committed_is_fresh() {
    let (messages, descriptors) = generate();
    for (name, fresh) in
        [("src/messages.rs", messages), ("proto/batonq.descriptors.bin", descriptors)]
    {
        let path = root().join(name);
        if std::env::var_os("BATONQ_BLESS").is_some() {
            std::fs::write(&path, &fresh).expect("it can be written");
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(
            committed == fresh,
            "protocol/{name} is stale: BATONQ_BLESS=1 cargo test -p batonq-protocol"
        );
    }
}
