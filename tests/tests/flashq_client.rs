//! The published Rust client of flashQ, as it is: its tests pass, and its examples print what they
//! should, against one node and against three behind nginx.
//!
//! It is no dependency of ours. Cargo fetches it, and it is built where cargo keeps it, from its own
//! lock file, into `target/flashq`; the first time that takes a minute or two. What it has to print
//! stands in `data/flashq/examples.txt`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use batonq_tests::harness::{Cluster, Server};
use serde_json::Value;

/// The version that is meant, exactly.
const VERSION: &str = "0.4.0";

/// How long one program may take, in seconds. The longest takes seven.
const TIME_MAX: &str = "60";

#[tokio::test]
async fn the_published_client_works_with_one_node() {
    let client = Published::built();
    let server = Server::start();
    client.pass_tests(server.tcp.port());
    client.print_what_they_should(server.tcp.port());
}

#[tokio::test]
async fn the_published_client_works_with_three_nodes_behind_nginx() {
    let client = Published::built();
    let cluster = Cluster::of(3).await;
    let nginx = cluster.nginx();
    client.pass_tests(nginx.tcp.port());
    client.print_what_they_should(nginx.tcp.port());
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flashq").join(name)
}

/// Runs a command to its good end. What it printed.
fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (printed, said) = (out.stdout, String::from_utf8_lossy(&out.stderr));
    let printed = String::from_utf8(printed).expect("it prints text");
    assert!(out.status.success(), "{command:?}: {}\n{printed}\n{said}", out.status);
    printed
}

/// The published client's programs.
struct Published {
    /// By their names: `integration`, `01_basic`, …
    programs: HashMap<String, PathBuf>,
    /// What leads them to the node under test.
    redirect: PathBuf,
}

impl Published {
    /// Builds what is not built yet.
    fn built() -> Self {
        let here = std::env::current_exe().expect("a test knows where it is");
        let target = here.ancestors().find(|dir| dir.ends_with("target"));
        let home = target.expect("cargo builds tests").join("flashq");
        std::fs::create_dir_all(home.join("fetch/src")).expect("it is ours");
        // Tests are processes; one of them builds.
        let lock = File::create(home.join("lock")).expect("it is ours");
        lock.lock().expect("a file can be locked");
        let programs = build(&source(&home.join("fetch")), &home);
        let (redirect, new) = (home.join("redirect.so"), home.join("redirect.new"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&new).arg(data("redirect.c"));
        run(cc.arg("-ldl"));
        // In one step: the programs of another test may just be loading it.
        std::fs::rename(new, &redirect).expect("it has just been built");
        Self { programs, redirect }
    }

    /// What a program prints that speaks with this port.
    fn say(&self, name: &str, arguments: &[&str], port: u16) -> String {
        let program = self.programs.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let mut command = Command::new("timeout");
        command.args(["-k", "1", TIME_MAX]).arg(program).args(arguments);
        run(command.env("LD_PRELOAD", &self.redirect).env("FLASHQ_PORT", port.to_string()))
    }

    fn pass_tests(&self, port: u16) {
        let printed = self.say("integration", &["--ignored"], port);
        assert!(printed.contains("test result: ok. 11 passed; 0 failed"), "{printed}");
    }

    fn print_what_they_should(&self, port: u16) {
        let expected = std::fs::read_to_string(data("examples.txt")).expect("it is there");
        let parts: Vec<_> = expected.split("\n== ").skip(1).collect();
        assert_eq!(parts.len(), 23);
        let wrong: Vec<_> = parts.iter().filter_map(|part| self.is_wrong(part, port)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What is wrong with what an example prints.
    fn is_wrong(&self, part: &str, port: u16) -> Option<String> {
        let (head, expected) = part.split_once('\n').unwrap_or((part, ""));
        let (name, order) = head.split_once(", ").unwrap_or((head, ""));
        let printed = self.say(name, &[], port);
        let (expected, lines) = (lines(expected), lines(&printed));
        let is_right = match order {
            "" => are(&expected, &lines),
            "in any order" => are_in_any_order(&expected, lines),
            other => panic!("{name}: what is {other:?}?"),
        };
        (!is_right).then(|| format!("{name} printed\n{printed}"))
    }
}

/// Where cargo keeps the source.
fn source(fetch: &Path) -> PathBuf {
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [workspace]\n[dependencies]\nflashq = \"={VERSION}\"\n"
    );
    std::fs::write(fetch.join("Cargo.toml"), manifest).expect("it is ours");
    std::fs::write(fetch.join("src/lib.rs"), "").expect("it is ours");
    // Without the network only if it was fetched before.
    let metadata = run(cargo(fetch).args(["metadata", "--format-version", "1"]));
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("it has packages");
    let client = packages.iter().find(|package| package["name"] == "flashq");
    let client = client.expect("it is a dependency");
    assert_eq!(client["version"], VERSION);
    let manifest = client["manifest_path"].as_str().expect("a package has a manifest");
    Path::new(manifest).parent().expect("it is in a directory").to_owned()
}

/// Builds all tests and examples. Where each of them is.
fn build(source: &Path, home: &Path) -> HashMap<String, PathBuf> {
    let mut build = cargo(source);
    build.args(["build", "--locked", "--jobs", "2", "--tests", "--examples"]);
    build.arg("--message-format=json-render-diagnostics").env("CARGO_TARGET_DIR", home);
    // It is built once and never debugged.
    build.env("CARGO_INCREMENTAL", "0").env("CARGO_PROFILE_DEV_DEBUG", "false");
    let printed = run(&mut build);
    let messages = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs: HashMap<String, PathBuf> = messages
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        })
        .collect();
    assert!(programs.len() > 23, "{programs:?}");
    programs
}

fn cargo(dir: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(dir);
    // How this program was built is nothing to that one.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    cargo
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect()
}

/// Whether the lines are the expected ones.
fn are(expected: &[&str], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((&"...", expected)), None) => are(expected, lines),
        (Some((&"...", rest)), Some((_, others))) => are(rest, lines) || are(expected, others),
        (Some((one, expected)), Some((line, lines))) => is(one, line) && are(expected, lines),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn are_in_any_order(expected: &[&str], mut lines: Vec<&str>) -> bool {
    let is_there = |one: &&str| {
        let place = lines.iter().position(|line| is(one, line));
        place.map(|place| lines.remove(place)).is_some()
    };
    expected.iter().all(is_there) && lines.is_empty()
}

/// Whether a line is the expected one.
fn is(expected: &str, line: &str) -> bool {
    let digits = |c: char| c.is_ascii_digit();
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let taken =
        |allowed: &dyn Fn(char) -> bool| line.find(|c: char| !allowed(c)).unwrap_or(line.len());
    if let Some(expected) = expected.strip_prefix("{n}") {
        let end = taken(&digits);
        return end > 0 && is(expected, &line[end..]);
    }
    if let Some(expected) = expected.strip_prefix("{1+}") {
        let end = taken(&number);
        let is_enough = line[..end].parse::<f64>().is_ok_and(|number| number >= 1.0);
        return is_enough && is(expected, &line[end..]);
    }
    if let Some(expected) = expected.strip_prefix("{*}") {
        return line.char_indices().any(|(place, _)| is(expected, &line[place..]))
            || expected.is_empty();
    }
    match (expected.chars().next(), line.chars().next()) {
        (None, None) => true,
        (Some(one), Some(other)) if one == other => {
            is(&expected[one.len_utf8()..], &line[one.len_utf8()..])
        }
        _ => false,
    }
}

#[test]
fn the_comparison_of_what_is_printed_sees_what_is_wrong() {
    for (expected, line, is_right) in [
        ("Pushed job: {n}", "Pushed job: 17", true),
        ("Pushed job: {n}", "Pushed job: ", false),
        ("Pushed job: {n}", "Pushed job: 17 ", false),
        ("in {1+}s", "in 1.0s", true),
        ("in {1+}s", "in 0.9s", false),
        ("Duplicate: {*}", "Duplicate: k", true),
        ("[{n}, {n}]", "[1, 2]", true),
        ("[{n}, {n}]", "[1]", false),
        ("Object {\"a\": 1}", "Object {\"a\": 1}", true),
    ] {
        assert_eq!(is(expected, line), is_right, "{expected} {line}");
    }
    assert!(are(&["a", "...", "b", "..."], &["a", "x", "y", "b"]));
    assert!(!are(&["a", "...", "b"], &["a", "x", "b", "y"]));
    assert!(are_in_any_order(&["a{n}", "a{n}", "b"], vec!["a1", "b", "a2"]));
    assert!(!are_in_any_order(&["a{n}", "b"], vec!["a1", "b", "a2"]));
    assert!(!are_in_any_order(&["a{n}", "a{n}"], vec!["a1"]));
}
