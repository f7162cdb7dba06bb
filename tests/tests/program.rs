//! The program as a user meets it: starting, stopping, refusing, and the command line.

use std::io::Write;
use std::process::Stdio;

use batonq_client::NewJob;
use batonq_tests::harness::{Server, batonq, eventually};
use serde_json::Value;

fn said(output: &std::process::Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn run(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    said(&server.command(arguments).output().expect("it runs"))
}

fn json(server: &Server, arguments: &[&str]) -> Value {
    let (code, out, err) = run(server, &[arguments, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

#[test]
fn the_demo_loses_nothing() {
    let (code, out, err) = said(&batonq().arg("demo").output().expect("it runs"));
    assert_eq!(code, 0, "{err}");
    let last = out.lines().last().unwrap_or_default();
    assert!(last.starts_with("demo: "), "{last}");
    assert!(last.ends_with("jobs completed, 5 dead-lettered, 0 lost"), "{last}");
}

#[test]
fn a_cluster_without_postgres_is_refused_naming_both_settings() {
    let mut serve = batonq();
    let (code, _, err) = said(&serve.arg("serve").env("CLUSTER_MODE", "1").output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("CLUSTER_MODE") && err.contains("DATABASE_URL"), "{err}");
    let mut serve = batonq();
    serve.arg("serve").env("CLUSTER_MODE", "1").env("DATABASE_URL", "sqlite://x");
    let (code, _, err) = said(&serve.output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("postgres://"), "{err}");
}

#[test]
fn a_second_process_on_the_same_files_is_refused() {
    let server = Server::start();
    let mut second = batonq();
    second.args(["serve", "--port", "0", "--http-port", "0", "--data-dir"]).arg(server.dir());
    let (code, _, err) = said(&second.output().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains(&format!("process {}", server.pid())), "{err}");
    assert!(err.contains("BATONQ_DATA_DIR"), "{err}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let mut second = batonq();
    let port = server.tcp.port().to_string();
    second.args(["serve", "--port", &port, "--data-dir"]).arg(dir.path());
    let (code, _, err) = said(&second.output().unwrap());
    assert_eq!(code, 1);
    assert!(err.contains("PORT") && err.contains(&port), "{err}");
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_ends_well_and_keeps_everything() {
    let mut server = Server::start();
    let client = server.client().await;
    let id = client.push(NewJob::new("q", "{}")).await.unwrap().id.0;
    drop(client);
    server.signal("-TERM");
    assert_eq!(server.wait(), 0);
    eventually("it says so", async || server.log().contains("stopped").then_some(())).await;
    let server = server.restart();
    assert!(server.client().await.job(id).await.is_ok());
}

#[test]
fn a_job_goes_from_push_to_ack_on_the_command_line() {
    let server = Server::start();
    let pushed = json(&server, &["push", "q", "{\"n\":1}", "--tag", "t", "--priority", "-3"]);
    assert_eq!((&pushed["id"], &pushed["state"]), (&1.into(), &"ready".into()));
    let pulled = json(&server, &["pull", "q", "--lease", "10s"]);
    let lease = pulled[0]["lease"].as_str().unwrap().to_owned();
    assert_eq!(pulled[0]["payload"]["n"], 1);
    assert_eq!(run(&server, &["ack", &lease, "--result", "{\"ok\":true}"]).0, 0);
    assert_eq!(run(&server, &["fail", &lease]).0, 1, "the lease is gone");
    let job = json(&server, &["jobs", "get", "1"]);
    assert_eq!((&job["state"], &job["result"]["ok"]), (&"completed".into(), &true.into()));
    assert_eq!(json(&server, &["timeline", "1"])["attempts"][0]["ending"], "completed");
    assert_eq!(json(&server, &["jobs", "ls", "--tag", "t"])["jobs"][0]["id"], 1);
    assert_eq!(json(&server, &["queues"])[0]["completed"], 1);
    let (code, out, _) = run(&server, &["wait", "1"]);
    assert_eq!((code, out.as_str()), (0, "{\"ok\":true}"));
    assert_eq!(run(&server, &["pull", "q"]).0, 6, "nothing is left");
    for look in
        [&["queues"][..], &["top", "--once"], &["workers"], &["nodes"], &["stats"], &["jobs", "ls"]]
    {
        assert_eq!(run(&server, look).0, 0, "{look:?}");
    }
}

#[test]
fn dead_jobs_are_found_and_sent_round_again() {
    let server = Server::start();
    for _ in 0..2 {
        json(&server, &["push", "q", "1"]);
        let lease = json(&server, &["pull", "q"])[0]["lease"].as_str().unwrap().to_owned();
        let fail = ["fail", &lease, "--reject", "--code", "BAD", "--message", "no use"];
        assert_eq!(run(&server, &fail).0, 0);
    }
    let dead = json(&server, &["dlq", "ls", "--reason", "REJECTED"]);
    assert_eq!(dead["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(run(&server, &["wait", "1"]).0, 7);
    assert_eq!(run(&server, &["retry", "1"]).0, 0);
    assert_eq!(json(&server, &["jobs", "get", "1"])["state"], "ready");
    let (code, _, err) = run(&server, &["dlq", "replay"]);
    assert_eq!(code, 2);
    assert!(err.contains("--all"), "{err}");
    let copies = json(&server, &["dlq", "replay", "--queue", "q"]);
    assert_eq!(json(&server, &["jobs", "get", &copies["ids"][0].to_string()])["replay_of"], 2);
    assert_eq!(run(&server, &["cancel", "1"]).0, 0);
    json(&server, &["push", "q", "1", "--delay", "1h"]);
    assert_eq!(run(&server, &["pause", "q"]).0, 0);
    assert_eq!(json(&server, &["queues"])[0]["paused"], true);
    assert_eq!(run(&server, &["resume", "q"]).0, 0);
}

#[test]
fn bad_arguments_say_what_to_do() {
    let server = Server::start();
    for (arguments, code, part) in [
        (&["push", "q", "not json"][..], 2, "--content-type"),
        (&["push", "a b", "1"], 2, "queue"),
        (&["push", "q", "1", "--delay", "10"], 2, "unit"),
        (&["jobs", "get", "99"], 3, "no job 99"),
        (&["ack", "nonsense"], 2, "lease"),
    ] {
        let (is, _, err) = run(&server, arguments);
        assert_eq!(is, code, "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let mut lost = batonq();
    let (code, _, err) =
        said(&lost.args(["queues", "--url", "tcp://127.0.0.1:1"]).output().unwrap());
    assert_eq!(code, 4, "{err}");
}

#[test]
fn lines_are_pushed_as_jobs() {
    let server = Server::start();
    let mut push = server.command(&["push", "q", "--lines", "-o", "json"]);
    let mut push =
        push.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines: String = (0..1200).map(|number| format!("{number}\n")).collect();
    push.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let (code, out, err) = said(&push.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (0, "{\"pushed\":1200}"), "{err}");
    assert_eq!(json(&server, &["queues"])[0]["ready"], 1200);
}

#[tokio::test]
async fn a_command_works_on_jobs_and_its_exit_code_settles_them() {
    let server = Server::start();
    let client = server.client().await;
    for payload in ["\"fine\"", "\"bad\"", "\"worse\""] {
        client.push(NewJob::new("q", payload).max_attempts(1)).await.unwrap();
    }
    let script = "read -r p; echo \"$p $BATONQ_JOB_ID\" >&2; case $p in *fine*) echo '\"done\"';; \
                  *bad*) exit 3;; *) exit 100;; esac";
    let mut work = server.command(&["work", "q", "--exec", script]);
    let mut work = work.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut ends = Vec::new();
    for id in 1..=3 {
        let job = client.wait_job(id, std::time::Duration::from_secs(20)).await.unwrap();
        ends.push((job.error_code.clone(), job.reason.clone(), job.error_message.clone()));
        if id == 1 {
            assert_eq!(&job.result[..], b"\"done\"\n");
        }
    }
    let expected = [
        ("", "", ""),
        ("EXIT_3", "MAX_ATTEMPTS_EXCEEDED", "\"bad\" 2\n"),
        ("EXIT_100", "REJECTED", "\"worse\" 3\n"),
    ];
    for (end, expected) in ends.iter().zip(expected) {
        assert_eq!((end.0.as_str(), end.1.as_str(), end.2.as_str()), expected);
    }
    let stopped = std::process::Command::new("kill").arg(work.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(work.wait().unwrap().code(), Some(0), "it stops when told to");
}

#[test]
fn the_bench_prints_one_line_and_counts_each_job() {
    let server = Server::start();
    for mode in ["cycle", "push", "single", "latency"] {
        let bench = ["bench", "--mode", mode, "--seconds", "1", "--batch", "50", "--queue", mode];
        let (code, out, err) = run(&server, &bench);
        assert_eq!(code, 0, "{mode}: {err}{out}");
        let start = format!("BENCH_RESULT mode={mode} jobs_per_sec=");
        assert!(out.starts_with(&start), "{out}");
        assert!(out.contains(" p50_ms=") && out.contains(" p99_ms="), "{out}");
    }
}
