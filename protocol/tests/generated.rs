//! The committed messages are what the `.proto` says.

use std::path::Path;

/// Compiles `proto/batonq.proto` without `protoc`.
fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors =
        protox::compile(["batonq.proto"], [root.join("proto")]).expect("the .proto compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("messages are generated");
    std::fs::read_to_string(out.path().join("batonq.v1.rs")).expect("they are in one file")
}

#[test]
fn committed_messages_are_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/messages.rs");
    let fresh = generate();
    if std::env::var_os("BATONQ_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("messages.rs can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "protocol/src/messages.rs is stale: BATONQ_BLESS=1 cargo test -p batonq-protocol"
    );
}
