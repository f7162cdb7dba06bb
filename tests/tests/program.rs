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
fn schedules_are_made_and_looked_at_on_the_command_line() {
    let server = Server::start();
    let put = ["cron", "put", "nightly", "30 2 * * *", "reports", "{\"n\":1}"];
    let more = ["--timezone", "Asia/Tokyo", "--overlap", "skip", "--catch-up", "none"];
    let more = [&more[..], &["--jitter", "10s", "--runs-max", "3", "--priority", "-2"]].concat();
    let told = json(&server, &[&put[..], &more].concat());
    let next = told["next_at"].as_str().unwrap();
    assert!(next.contains("T17:30:00"), "{next} is no half past two in Tokyo");
    let listed = json(&server, &["cron", "ls"]);
    for (field, expected) in [
        ("name", "nightly"),
        ("schedule", "30 2 * * *"),
        ("timezone", "Asia/Tokyo"),
        ("queue", "reports"),
        ("overlap", "skip"),
        ("catch_up", "none"),
    ] {
        assert_eq!(listed[0][field], expected, "{field}");
    }
    assert_eq!(json(&server, &["cron", "run", "nightly"])["id"], 1);
    let job = json(&server, &["jobs", "get", "1"]);
    assert_eq!((&job["payload"]["n"], &job["priority"]), (&1.into(), &(-2).into()));
    let fires = json(&server, &["cron", "history", "nightly"]);
    assert_eq!((&fires[0]["outcome"], &fires[0]["job"]), (&"manual".into(), &1.into()));
    assert_eq!(run(&server, &["cron", "pause", "nightly"]).0, 0);
    assert_eq!(json(&server, &["cron", "ls"])[0]["paused"], true);
    assert_eq!(run(&server, &["cron", "resume", "nightly"]).0, 0);
    assert_eq!(json(&server, &["cron", "ls"])[0]["paused"], false);
    assert_eq!(run(&server, &["cron", "rm", "nightly"]).0, 0);
    assert_eq!(run(&server, &["cron", "rm", "nightly"]).0, 3, "it is gone");
    assert_eq!(json(&server, &["cron", "ls"]), Value::Array(Vec::new()));
    assert_eq!(run(&server, &["jobs", "get", "1"]).0, 0, "its jobs stay");
}

#[test]
fn a_schedule_that_was_put_fires() {
    let server = Server::start();
    json(&server, &["cron", "put", "tick", "@every 1s", "q"]);
    assert_eq!(json(&server, &["pull", "q", "--wait", "20s"])[0]["payload"], Value::Null);
    assert_eq!(json(&server, &["cron", "history", "tick", "--limit", "1"])[0]["outcome"], "fired");
}

#[test]
fn limits_are_pushed_set_and_looked_at_on_the_command_line() {
    let server = Server::start();
    for _ in 0..3 {
        json(&server, &["push", "q", "1", "--concurrency", "tenant=2", "--rate", "api=100/1m"]);
    }
    assert_eq!(json(&server, &["pull", "q", "--count", "9"]).as_array().unwrap().len(), 2);
    let limits = json(&server, &["limits", "q"]);
    let of = |key: &str| limits.as_array().unwrap().iter().find(|it| it["key"] == key).unwrap();
    assert_eq!(
        (&of("tenant")["limit"], &of("tenant")["waiting"]),
        (&"2 at once".into(), &1.into())
    );
    assert_eq!(of("tenant")["holders"].as_array().unwrap().len(), 2);
    assert_eq!(of("api")["limit"], "100 in 1m00s");
    let settings = "{\"keys\":{\"tenant\":{\"concurrency\":3}}}";
    assert_eq!(run(&server, &["settings", "q", settings]).0, 0);
    assert_eq!(json(&server, &["settings", "q"])["keys"]["tenant"]["concurrency"], 3);
    assert_eq!(json(&server, &["pull", "q"]).as_array().unwrap().len(), 1);
    json(&server, &["settings", "q", "{}"]);
    assert_eq!(json(&server, &["settings", "q"]), serde_json::json!({}));
}

#[test]
fn options_of_a_push_do_what_they_say_on_the_command_line() {
    let server = Server::start();
    let pushed = |options: &[&str]| {
        let told = json(&server, &[&["push", "q", "1"], options].concat());
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        (told["id"].as_u64().unwrap(), text("outcome"), text("state"))
    };
    let answers = [
        (&["--unique", "u"][..], 1, "inserted", "ready"),
        (&["--unique", "u"], 1, "duplicate", "ready"),
        (&["--unique", "w", "--window", "1h"], 2, "inserted", "ready"),
        (&["--unique", "w", "--window", "1h"], 2, "throttled", "ready"),
        (&["--debounce", "d", "--delay", "1h"], 3, "inserted", "scheduled"),
        (&["--debounce", "d", "--delay", "2h"], 3, "replaced", "scheduled"),
        (&["--idempotency-key", "i"], 4, "inserted", "ready"),
        (&["--idempotency-key", "i"], 4, "repeated", "ready"),
        (&["--after", "1", "--after", "2"], 5, "inserted", "blocked"),
        (&["--fair", "tenant", "--ttl", "1h", "--timeout", "1m"], 6, "inserted", "ready"),
        (&["--run-at", "2100-01-01T00:00:00Z"], 7, "inserted", "scheduled"),
        (&["--max-attempts", "2", "--backoff", "fixed:5s"], 8, "inserted", "ready"),
    ];
    for (options, id, outcome, state) in answers {
        assert_eq!(pushed(options), (id, outcome.into(), state.into()), "{options:?}");
    }
    let job = |id: &str| json(&server, &["jobs", "get", id]);
    assert_eq!(job("4")["idempotency_key"], "i");
    assert_eq!(job("5")["depends_on"], serde_json::json!([1, 2]));
    assert_eq!(job("6")["concurrency"]["key"], "tenant");
    assert_eq!(job("6")["timeout_ms"], 60_000);
    assert_eq!(job("8")["max_attempts"], 2);
    for (options, part) in [
        (&["--concurrency", "tenant"][..], "tenant-7=3"),
        (&["--rate", "api=10"], "api=10/1s"),
        (&["--window", "1h"], "--unique"),
        (&["--fair", "a", "--concurrency", "a=1"], "--fair"),
    ] {
        let (code, _, err) = run(&server, &[&["push", "q", "1"], options].concat());
        assert!(code == 2 && err.contains(part), "{options:?}: {code} {err}");
    }
}

#[test]
fn a_waiting_job_is_changed_and_a_leased_one_cancelled_on_the_command_line() {
    let server = Server::start();
    json(&server, &["push", "q", "1"]);
    let edit = ["edit", "1", "--priority", "-4", "--payload", "[2]", "--queue", "other"];
    assert_eq!(run(&server, &edit).0, 0);
    let job = json(&server, &["jobs", "get", "1"]);
    assert_eq!((&job["priority"], &job["queue"]), (&(-4).into(), &"other".into()));
    assert_eq!(job["payload"], serde_json::json!([2]));
    assert_eq!(run(&server, &["edit", "1", "--delay", "1h"]).0, 0);
    assert_eq!(json(&server, &["jobs", "get", "1"])["state"], "scheduled");
    assert_eq!(run(&server, &["edit", "1", "--delay", "0s"]).0, 0);
    json(&server, &["pull", "other"]);
    let (code, _, err) = run(&server, &["edit", "1", "--priority", "1"]);
    assert!(code == 1 && err.contains("leased"), "{code} {err}");
    let (code, _, err) = run(&server, &["edit", "1", "--payload", "no"]);
    assert!(code == 2 && err.contains("JSON"), "{code} {err}");
    assert_eq!(json(&server, &["cancel", "1", "--grace", "1h"])["status"], "requested");
    assert_eq!(json(&server, &["jobs", "get", "1"])["state"], "leased");
    assert_eq!(json(&server, &["cancel", "1", "--grace", "100ms"])["status"], "requested");
    assert_eq!(run(&server, &["wait", "1"]).0, 7);
    assert_eq!(json(&server, &["jobs", "get", "1"])["state"], "cancelled");
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
fn a_flow_is_pushed_as_a_whole_and_a_job_snoozed() {
    let server = Server::start();
    let file = server.dir().join("flow.json");
    let of = |last: &str| {
        format!(
            r#"{{"jobs":[{{"ref":"a","queue":"q","payload":1}},
                 {{"queue":"q","payload":2,"depends_on":["{last}"],"on_failure":"ignore"}}]}}"#
        )
    };
    std::fs::write(&file, of("b")).unwrap();
    let path = file.to_str().unwrap();
    let (code, _, err) = run(&server, &["flow", path]);
    assert_eq!((code, err.contains("\"b\"")), (2, true), "{err}");
    std::fs::write(&file, of("a")).unwrap();
    assert_eq!(json(&server, &["flow", path])["ids"], serde_json::json!([1, 2]));
    assert_eq!(json(&server, &["jobs", "get", "2"])["state"], "blocked");
    let pulled = json(&server, &["pull", "q", "--lease", "60s"]);
    let lease = pulled[0]["lease"].as_str().expect("a lease");
    assert_eq!(run(&server, &["release", lease, "--delay", "1h"]).0, 0);
    assert_eq!(json(&server, &["jobs", "get", "1"])["state"], "scheduled");
}
