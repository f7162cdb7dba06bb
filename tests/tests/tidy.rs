//! What no lint can check: the arrows between modules, the head of each file, and words that must
//! not come in.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("it is a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn all_sources() -> Vec<(String, String)> {
    let crates = ["protocol", "server", "client-rs", "verify", "cli", "tests"];
    let files = crates.iter().flat_map(|name| rust_files(&root().join(name)));
    files
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("source is text");
            let name = path.strip_prefix(root()).expect("it is below").display().to_string();
            (name, text)
        })
        .collect()
}

/// A part of `server/src`, and what it may import of ours beside itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("job/", &["limits"]),
    ("limits.rs", &[]),
    ("origins.rs", &[]),
    ("clock.rs", &["job"]),
    ("error.rs", &["job"]),
    ("secrets.rs", &["job"]),
    ("leader.rs", &["mutants"]),
    ("mutants.rs", &[]),
    ("cluster.rs", &["error", "job", "leader", "limits"]),
    ("metrics.rs", &["limits", "store"]),
    ("access.rs", &["error"]),
    ("group_commit.rs", &["error"]),
    ("store/", &["clock", "cluster", "error", "job", "leader", "limits", "mutants", "secrets"]),
    (
        "broker/",
        &[
            "clock",
            "cluster",
            "error",
            "group_commit",
            "job",
            "leader",
            "limits",
            "metrics",
            "secrets",
            "store",
        ],
    ),
    ("explain.rs", &["broker", "cluster", "job", "limits", "store"]),
    ("duties/", &["broker", "cluster", "error", "leader", "store"]),
    ("webhooks/", &["broker", "error", "job", "leader", "limits", "store"]),
    (
        "door.rs",
        &[
            "access", "broker", "cluster", "error", "explain", "job", "leader", "limits",
            "mutants", "origins", "webhooks",
        ],
    ),
    (
        "config.rs",
        &["access", "broker", "leader", "mutants", "origins", "secrets", "store", "webhooks"],
    ),
    (
        "tcp/",
        &[
            "access", "broker", "cluster", "door", "error", "explain", "flashq", "job", "limits",
            "metrics", "store",
        ],
    ),
    // Both ways: one port serves both HTTP APIs, and what reads and writes HTTP is in `http`.
    (
        "flashq/",
        &["access", "broker", "door", "error", "http", "job", "limits", "metrics", "store"],
    ),
    (
        "http/",
        &[
            "access", "broker", "cluster", "door", "error", "explain", "flashq", "job", "limits",
            "metrics", "origins", "store", "webhooks",
        ],
    ),
];

/// The names after `crate::`, without those in tests.
fn imports(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let names = text.split("crate::").skip(1);
    names
        .flat_map(|rest| {
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (end > 0).then(|| rest[..end].to_owned())
        })
        .collect()
}

#[test]
fn arrows_between_modules_point_down() {
    let server = root().join("server/src");
    for path in rust_files(&server) {
        let name = path.strip_prefix(&server).expect("it is below").display().to_string();
        if name == "lib.rs" || name == "node.rs" {
            continue;
        }
        let arrow = ARROWS.iter().find(|(part, _)| name.starts_with(part));
        let Some((part, allowed)) = arrow else { panic!("{name} is not on the map: add it") };
        let own = part.trim_end_matches(".rs").trim_end_matches('/');
        let text = std::fs::read_to_string(&path).expect("source is text");
        for import in imports(&text) {
            let is_allowed = import == own || allowed.contains(&import.as_str());
            assert!(is_allowed, "server/src/{name} must not import crate::{import}");
        }
    }
}

#[test]
fn only_the_node_names_a_store() {
    for (name, text) in all_sources() {
        let is_free = name == "server/src/node.rs"
            || name.starts_with("server/src/store/")
            || name.starts_with("tests/");
        let names_one = text.contains("SqliteStore") || text.contains("PostgresStore");
        assert!(is_free || !names_one, "{name} names a concrete store");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (name, text) in all_sources() {
        let is_generated = name == "protocol/src/messages.rs";
        assert!(is_generated || text.starts_with("//! "), "{name} has no head");
    }
}

#[test]
fn nothing_is_left_undone_or_left_out() {
    // Put together, so that this file does not find itself.
    let words = ["to", "do!("].concat();
    let words = [words, ["unimple", "mented!("].concat(), ["#[ign", "ore"].concat()];
    for (name, text) in all_sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} has {word}");
        }
    }
}

/// The sources of the TypeScript client, without what is generated.
fn typescript_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in ["src", "test", "examples", "bench"] {
        let entries = std::fs::read_dir(root().join("sdk-ts").join(dir)).expect("it is there");
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_generated = path.ends_with("src/messages.ts");
            if path.extension().is_some_and(|extension| extension == "ts") && !is_generated {
                let name = path.strip_prefix(root()).expect("it is below").display().to_string();
                files.push((name, std::fs::read_to_string(&path).expect("source is text")));
            }
        }
    }
    files
}

#[test]
fn the_typescript_client_keeps_the_same_rules() {
    let words = ["TODO", "as any", "@ts-ignore", ".only(", ".skip(", "eslint-disable"];
    for (name, text) in typescript_files() {
        assert!(text.starts_with("/**"), "{name} has no head");
        for word in words {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn the_typescript_client_names_no_registry() {
    let lock = std::fs::read_to_string(root().join("sdk-ts/package-lock.json"));
    let lock = lock.expect("dependencies are locked");
    assert!(!lock.contains("\"resolved\""), "npm config set omit-lockfile-registry-resolved true");
}

#[test]
fn every_limit_stands_in_one_place_with_its_reason() {
    let text = std::fs::read_to_string(root().join("server/src/limits.rs")).expect("it is there");
    let lines: Vec<&str> = text.lines().collect();
    for (place, line) in lines.iter().enumerate() {
        if line.starts_with("pub const") {
            assert!(lines[place - 1].starts_with("///"), "{line} has no reason");
        }
    }
}
