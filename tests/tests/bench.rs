//! `batonq bench`: what it counts, what it says, what it refuses. Not how fast anything is.

use std::collections::HashMap;
use std::process::{Output, Stdio};

use batonq_tests::harness::{Cluster, Postgres, Server, eventually};

/// What a run ended with.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The fields of the one line that a run which went well prints.
    fn fields(&self) -> HashMap<&str, &str> {
        assert_eq!(self.code, 0, "{} {}", self.err, self.out);
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        let line = self.out.strip_prefix("BENCH_RESULT ").expect("the line says what it is");
        line.split(' ').filter_map(|field| field.split_once('=')).collect()
    }

    fn number(&self, field: &str) -> f64 {
        self.fields()[field].parse().expect("a number")
    }
}

/// A run of a second.
fn bench(server: &Server, arguments: &[&str]) -> Run {
    let all = [&["bench", "--seconds", "1", "--batch", "50"], arguments].concat();
    Run::of(&server.command(&all).output().expect("it runs"))
}

#[test]
fn each_mode_prints_one_line_and_counts_each_job() {
    let server = Server::start();
    let http = format!("http://{}", server.http().address);
    for mode in
        ["cycle", "push", "pipelined", "single", "latency", "http", "flashq-text", "flashq-binary"]
    {
        let url = if mode == "http" { http.clone() } else { server.url() };
        let run = bench(&server, &["--mode", mode, "--queue", mode, "--url", &url]);
        let start = format!("BENCH_RESULT mode={mode} jobs_per_sec=");
        assert!(run.out.starts_with(&start), "{} {}", run.err, run.out);
        for field in ["p50_ms", "p99_ms", "seconds", "generator_cpu"] {
            assert!(run.number(field) > 0.0, "{field} in {}", run.out);
        }
    }
}

#[tokio::test]
async fn jobs_spread_over_queues_and_priorities() {
    let server = Server::start();
    let run = bench(&server, &["--mode", "push", "--queues", "2", "--priorities", "3"]);
    let queues = server.client().await.queues().await.unwrap();
    let ready: Vec<_> = queues.iter().map(|queue| (queue.name.as_str(), queue.ready)).collect();
    let half = run.number("left") / 2.0;
    assert_eq!(ready, [("bench-1", half as u64), ("bench-2", half as u64)]);
    let cycle = bench(&server, &["--queues", "2", "--priorities", "3"]);
    let acked = cycle.number("acked");
    assert_eq!(acked, cycle.number("pushed") + 2.0 * half, "it empties all of them");
}

#[test]
fn jobs_that_are_delayed_or_fail_once_are_done_in_the_end() {
    let server = Server::start();
    let run = bench(&server, &["--delayed", "10", "--failing", "50"]);
    assert_eq!((run.number("acked"), run.number("left")), (run.number("pushed"), 0.0));
    assert!(run.number("failed") > 0.0, "{}", run.out);
}

#[test]
fn a_backlog_is_there_before_the_clock_starts_and_what_is_left_of_it_stays() {
    let server = Server::start();
    let push = bench(&server, &["--mode", "push", "--backlog", "2345"]);
    assert_eq!(push.number("left"), push.number("pushed") + 2345.0);
    let cycle = bench(&server, &["--backlog", "1"]);
    let there = push.number("left") + 1.0;
    assert_eq!(cycle.number("acked") + cycle.number("left"), cycle.number("pushed") + there);
}

#[test]
fn a_rate_is_offered_in_batches_or_singly() {
    let server = Server::start();
    for mode in ["cycle", "latency"] {
        let run = bench(&server, &["--mode", mode, "--rate", "200", "--connections", "2"]);
        assert_eq!(run.number("acked"), run.number("pushed"));
        assert!(run.number("delivery_p99_ms") > 0.0, "{}", run.out);
    }
}

#[test]
fn what_happens_while_all_is_new_is_not_counted() {
    let server = Server::start();
    let run = bench(&server, &["--rate", "200", "--warm-up", "1", "--connections", "1"]);
    assert_eq!((run.number("acked"), run.number("left")), (run.number("pushed"), 0.0));
    let counted = run.number("jobs");
    assert!(counted > 0.0 && counted < run.number("acked"), "{}", run.out);
}

#[test]
fn over_the_flashq_protocol_each_job_is_acked_whatever_its_size() {
    let server = Server::start();
    for mode in ["flashq-text", "flashq-binary"] {
        let bounds = ["--ahead", "100", "--in-flight", "200", "--connections", "2"];
        for bytes in ["0", "9000"] {
            let arguments = [&["--mode", mode, "--payload-bytes", bytes], &bounds[..]].concat();
            let run = bench(&server, &arguments);
            assert!(run.number("acked") > 0.0, "{}", run.out);
            assert_eq!((run.number("acked"), run.number("left")), (run.number("pushed"), 0.0));
        }
    }
}

#[test]
fn over_the_flashq_protocol_a_token_lets_in_and_what_is_refused_is_said() {
    let server =
        Server::with().env("BATONQ_TOKENS", "t0ken:admin").env("BATONQ_BIND", "127.0.0.1").start();
    for mode in ["flashq-text", "flashq-binary"] {
        let run = bench(&server, &["--mode", mode, "--token", "t0ken"]);
        assert!(run.number("acked") > 0.0, "{}", run.out);
        for (arguments, said) in [
            (&[][..], "Authentication required"),
            (&["--token", "wrong"], "Invalid token"),
            (&["--token", "t0ken", "--queue", "no way!"], "Queue name"),
        ] {
            let run = bench(&server, &[&["--mode", mode], arguments].concat());
            assert_eq!((run.code, run.out.as_str()), (1, ""), "{arguments:?}: {}", run.err);
            assert!(run.err.contains(said), "{arguments:?}: {}", run.err);
        }
    }
}

#[test]
fn samples_go_to_standard_error_and_into_a_picture() {
    let server = Server::start();
    let file = server.dir().join("rate.svg");
    let plot = ["--seconds", "2", "--sample", "1", "--plot", file.to_str().unwrap()];
    let run = Run::of(&server.command(&[&["bench"], &plot[..]].concat()).output().unwrap());
    assert!(run.number("jobs") > 0.0);
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", run.err);
    assert!(lines[0].contains("JOBS/S") && lines[0].contains("GENERATOR CPU"), "{}", run.err);
    let picture = std::fs::read_to_string(file).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
    assert!(picture.contains("<polyline "), "{picture}");
}

#[test]
fn connections_are_held_and_what_they_cost_the_node_is_said() {
    let server = Server::start();
    let pid = server.pid().to_string();
    let run = bench(&server, &["--mode", "idle", "--connections", "30", "--pid", &pid]);
    assert_eq!((run.number("opened"), run.number("lived")), (30.0, 30.0));
    assert!(run.number("node_rss_kib") >= run.number("node_rss_before_kib"), "{}", run.out);
}

#[tokio::test]
async fn connections_go_to_all_nodes_that_one_of_them_names() {
    let cluster = Cluster::of(2).await;
    let run = bench(&cluster.nodes[0], &["--nodes", "--connections", "2"]);
    assert_eq!((run.number("nodes"), run.number("left")), (2.0, 0.0));
    let both = format!("{},{}", cluster.nodes[0].url(), cluster.nodes[1].tcp);
    let run = bench(&cluster.nodes[0], &["--nodes", "--mode", "latency", "--url", &both]);
    assert_eq!((run.number("nodes"), run.number("missed")), (2.0, 0.0));
}

#[test]
fn what_a_mode_would_not_heed_is_refused() {
    let server = Server::start();
    for (arguments, named) in [
        (&["--mode", "single", "--rate", "5"][..], "--rate"),
        (&["--mode", "push", "--failing", "5"], "--failing"),
        (&["--mode", "single", "--in-flight", "5"], "--in-flight"),
        (&["--mode", "push", "--credit", "5"], "--credit"),
        (&["--mode", "latency", "--queues", "2"], "--queues"),
        (&["--mode", "http", "--backlog", "2"], "--backlog"),
        (&["--mode", "flashq-text", "--rate", "5"], "--rate"),
        (&["--mode", "flashq-binary", "--ahead", "5"], "--ahead"),
        (&["--mode", "cycle", "--pid", "1"], "--pid"),
        (&["--mode", "idle", "--warm-up", "1"], "--warm-up"),
        (&["--connections", "1001"], "--connections"),
        (&["--mode", "http"], "http://HOST:PORT"),
        (&["--hold-snapshot"], "DATABASE_URL"),
        (&["--hold-snapshot", "--database-url", "postgres://h/d?sslmode=require"], "TLS"),
    ] {
        let run = bench(&server, arguments);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}: {}", run.err);
        assert!(run.err.contains(named), "{arguments:?}: {}", run.err);
    }
}

/// Sessions of the program that hold a snapshot.
const HOLDERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'batonq bench' AND backend_xmin IS NOT NULL";

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'batonq bench'";

#[tokio::test]
async fn a_snapshot_is_held_for_the_whole_run_or_the_run_has_failed() {
    let (server, postgres) = (Server::start(), Postgres::start());
    let dsn = postgres.dsn();
    for is_cut in [false, true] {
        let arguments = ["bench", "--seconds", "3", "--hold-snapshot", "--database-url", &dsn];
        let mut command = server.command(&arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let held = async || (postgres.value(HOLDERS).await == "1").then_some(());
        eventually("a snapshot is held", held).await;
        if is_cut {
            postgres.execute(CUT).await;
        }
        let run = Run::of(&child.wait_with_output().unwrap());
        assert_eq!(run.code, i32::from(is_cut), "{}", run.err);
        assert_eq!(run.out.is_empty(), is_cut, "{}", run.out);
        assert_eq!(run.err.contains("the snapshot is not held"), is_cut, "{}", run.err);
    }
}
