//! The ground that faults are tried on: each fault does what it says, each is healed, and nothing
//! is left behind.

#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong fails the test, with an error that says it"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use batonq_client::{NewJob, PullOptions};
use batonq_tests::harness::{Http, SOON, eventually};
use batonq_verify::clock::RunClock;
use batonq_verify::field::{
    Apart, Balancer, ClusterOptions, Cut, DatabaseWay, Direction, Drain, EmbeddedOptions, Field,
    FieldError, NamedOptions, Node, Probe, Proxy, Sight, Stop, Verb,
};
use batonq_verify::history::Fault;
use batonq_verify::nemesis::{Kind, Nemesis, Plan, Profile};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_batonq-under-test");

/// Longer than a leader may be silent.
const SILENCE: Duration = Duration::from_secs(4);

const CUTS: [Cut; 3] = [Cut::Both, Cut::Inwards, Cut::Outwards];

fn options(nodes: u8) -> ClusterOptions {
    ClusterOptions { nodes, apart: Apart::Proxies, ..ClusterOptions::new(PROGRAM) }
}

async fn cluster(nodes: u8) -> Field {
    Field::cluster(options(nodes)).await.expect("all that it needs is installed")
}

fn node(field: &Field, number: u8) -> &Node {
    field.node(number).expect("it is ours")
}

async fn sight(node: &Node) -> Sight {
    Probe::new(node.http()).look(Duration::from_secs(1)).await
}

async fn is_ready(node: &Node) -> bool {
    Probe::new(node.http()).is_ready(Duration::from_secs(1)).await
}

/// Waits until a node that is not this one leads.
async fn successor(field: &Field, before: u8) -> u8 {
    eventually("another node leads", async || {
        for number in field.numbers().filter(|number| *number != before) {
            if sight(node(field, number)).await == Sight::Leads {
                return Some(number);
            }
        }
        None
    })
    .await
}

async fn epoch(field: &Field) -> u64 {
    let rows = field.postgres().unwrap().column("SELECT epoch FROM batonq.leader").await.unwrap();
    rows[0].parse().unwrap()
}

// --- nodes

#[tokio::test]
async fn a_killed_node_is_gone_and_comes_back_with_its_name() {
    let field = cluster(2).await;
    let node = node(&field, 2);
    let pid = node.pid().unwrap();
    node.kill().await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(sight(node).await, Sight::Gone);
    assert!(node.kill().await.is_err() && node.still_runs().is_err());
    node.start().unwrap();
    field.ready(SOON).await.unwrap();
    assert_ne!(node.pid().unwrap(), pid);
    let health = Http::new(node.http()).get("/health").await.json();
    assert_eq!(health["node_id"], "n2");
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert_eq!(log.matches("batonq ready").count(), 2, "{log}");
}

#[tokio::test]
async fn a_node_that_ends_by_itself_is_an_error_with_its_log() {
    let field = cluster(1).await;
    Command::new("kill")
        .args(["-9", &node(&field, 1).pid().unwrap().to_string()])
        .status()
        .unwrap();
    let ended = node(&field, 1).ready(SOON).await.unwrap_err();
    assert!(matches!(ended, FieldError::Ended { .. }), "{ended}");
    assert!(ended.to_string().contains("signal: 9") && ended.to_string().contains("batonq ready"));
    // It says so once, and is whole again.
    field.heal(SOON).await.unwrap();
    assert!(is_ready(node(&field, 1)).await);
}

#[tokio::test]
async fn a_node_that_does_not_start_is_an_error_with_its_log() {
    let mut options = EmbeddedOptions::new(PROGRAM);
    options.settings.push(("BATONQ_LOG_FORMAT".into(), "xml".into()));
    let error = Field::embedded(options).await.unwrap_err();
    assert!(error.to_string().contains("BATONQ_LOG_FORMAT"), "{error}");
    let error = Field::embedded(EmbeddedOptions::new("/no/such/batonq")).await.unwrap_err();
    assert!(error.to_string().contains("starting n1"), "{error}");
}

#[tokio::test]
async fn a_frozen_leader_is_replaced_and_steps_down_when_it_goes_on() {
    let field = cluster(2).await;
    let leader = field.leader().await.unwrap();
    node(&field, leader).freeze().await.unwrap();
    assert_eq!(sight(node(&field, leader)).await, Sight::Silent);
    let next = successor(&field, leader).await;
    node(&field, leader).thaw().unwrap();
    eventually("the old leader follows", async || {
        (sight(node(&field, leader)).await == Sight::Follows).then_some(())
    })
    .await;
    assert_eq!(successor(&field, leader).await, next);
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_finishes_and_hands_over() {
    let field = cluster(2).await;
    let leader = field.leader().await.unwrap();
    node(&field, leader).stop(SOON).await.unwrap();
    assert_eq!(sight(node(&field, leader)).await, Sight::Gone);
    successor(&field, leader).await;
    field.heal(SOON).await.unwrap();
}

#[tokio::test]
async fn nodes_can_be_of_two_releases_and_change_them() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, format!("#!/bin/sh\necho the other release\nexec {PROGRAM} \"$@\"\n"))
        .unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = ClusterOptions { other_program: Some(other), ..options(2) };
    let field = Field::cluster(options).await.unwrap();
    let is_other = |number| {
        let log = std::fs::read_to_string(node(&field, number).log()).unwrap();
        log.contains("the other release")
    };
    assert!(!is_other(1) && is_other(2));
    roll(&field).await;
    assert!(is_other(1));
}

#[tokio::test]
async fn a_clock_can_be_an_hour_off() {
    let field = cluster(1).await;
    let node = node(&field, 1);
    let started = |log: &str| {
        let line = log.lines().rfind(|line| line.contains("settings")).unwrap().to_owned();
        line.split_whitespace().next().unwrap()[..13].to_owned()
    };
    let log = || std::fs::read_to_string(node.log()).unwrap();
    let before = started(&log());
    node.set_clock_offset(-36_000).unwrap();
    node.kill().await.unwrap();
    node.start().unwrap();
    field.ready(SOON).await.unwrap();
    assert_ne!(started(&log()), before);
    field.heal(SOON).await.unwrap();
    assert_eq!(node.clock_offset_seconds(), 0);
    assert_eq!(started(&log())[..10], before[..10]);
}

// --- the way to the database

async fn a_leader_that_is_cut_off_is_replaced(apart: Apart, cuts: &[Cut]) {
    let field = Field::cluster(ClusterOptions { apart, ..options(2) }).await.unwrap();
    for cut in cuts {
        let leader = field.leader().await.unwrap();
        field.database_way(leader).unwrap().cut(*cut).await.unwrap();
        successor(&field, leader).await;
        assert_eq!(sight(node(&field, leader)).await, Sight::Follows, "{cut:?}");
        field.database_way(leader).unwrap().mend().unwrap();
        field.ready(SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_leader_behind_a_proxy_that_is_cut_off_is_replaced() {
    a_leader_that_is_cut_off_is_replaced(Apart::Proxies, &CUTS).await;
}

#[tokio::test]
async fn a_leader_on_a_wire_that_is_cut_off_is_replaced() {
    a_leader_that_is_cut_off_is_replaced(Apart::AsPossible, &CUTS).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_not_ready_until_the_way_is_mended() {
    let apart = Apart::AsPossible;
    let field = Field::cluster(ClusterOptions { apart, ..options(2) }).await.unwrap();
    field.database_way(2).unwrap().cut(Cut::Both).await.unwrap();
    let is_cut_off = async || (!is_ready(node(&field, 2)).await).then_some(());
    eventually("it knows that it is cut off", is_cut_off).await;
    assert!(is_ready(node(&field, 1)).await);
    field.database_way(2).unwrap().mend().unwrap();
    field.ready(SOON).await.unwrap();
}

// --- the database

#[tokio::test]
async fn nodes_come_back_after_all_that_happens_to_the_database() {
    let field = cluster(2).await;
    let postgres = field.postgres().unwrap();
    let on = postgres.column("SELECT current_setting('fsync')").await.unwrap();
    assert_eq!(on, ["on"]);
    for stop in [Some(Stop::Fast), Some(Stop::Immediate), None] {
        let before = epoch(&field).await;
        let pid = postgres.pid().unwrap();
        match stop {
            Some(stop) => postgres.stop(stop).await.unwrap(),
            None => postgres.kill().await.unwrap(),
        }
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(postgres.client().await.is_err());
        eventually("nobody leads", async || field.leader().await.is_none().then_some(())).await;
        postgres.start().await.unwrap();
        field.ready(SOON).await.unwrap();
        assert!(epoch(&field).await > before);
    }
}

#[tokio::test]
async fn nodes_get_new_sessions_when_theirs_are_ended() {
    let field = cluster(2).await;
    let postgres = field.postgres().unwrap();
    let risen = async |before: u64| {
        eventually("a new term", async || {
            let rows = postgres.column("SELECT epoch FROM batonq.leader").await.ok()?;
            (rows[0].parse::<u64>().unwrap() > before).then_some(())
        })
        .await;
        field.ready(SOON).await.unwrap();
    };
    let before = epoch(&field).await;
    postgres.kill_backend(3).await.unwrap();
    risen(before).await;
    let before = epoch(&field).await;
    assert_eq!(postgres.terminate_leader().await.unwrap(), 1);
    risen(before).await;
    let before = epoch(&field).await;
    let mut ended = 0;
    while ended < 5 {
        ended += postgres.churn().await.unwrap();
    }
    field.ready(SOON).await.unwrap();
    assert_eq!(epoch(&field).await, before, "who leads was left alone");
}

#[tokio::test]
async fn ready_rows_that_somebody_holds_are_passed_over_and_come_back() {
    let field = cluster(1).await;
    let (client, postgres) = (field.client(1).await.unwrap(), field.postgres().unwrap());
    let pushed = client.push(NewJob::new("q", "held")).await.unwrap();
    let free = "SELECT job_id FROM batonq.ready FOR UPDATE SKIP LOCKED";
    let hold = postgres.lock_ready_rows(Duration::from_secs(2));
    let (held, ()) = tokio::join!(hold, async {
        eventually("the row is held", async || {
            postgres.column(free).await.unwrap().is_empty().then_some(())
        })
        .await;
        assert!(client.pull(PullOptions::new("q")).await.unwrap().is_empty());
    });
    held.unwrap();
    let options = PullOptions::new("q").wait(SOON);
    assert_eq!(client.pull(options).await.unwrap()[0].id, pushed.id);
}

// --- one node

#[tokio::test]
async fn what_the_embedded_database_has_taken_is_there_after_a_kill() {
    let field = Field::embedded(EmbeddedOptions::new(PROGRAM)).await.unwrap();
    let client = field.client(1).await.unwrap();
    let pushed = client.push(NewJob::new("q", "kept")).await.unwrap();
    node(&field, 1).kill().await.unwrap();
    field.heal(SOON).await.unwrap();
    let jobs = client.pull(PullOptions::new("q")).await.unwrap();
    assert_eq!(jobs[0].id, pushed.id);
    assert!(field.postgres().is_err() && field.database_way(1).is_err());
}

// --- the way of clients

/// A server that says back what it hears, and a way to it.
async fn echo() -> (Proxy, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    (Proxy::to(address.to_string()).await.unwrap(), serving)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut stream, "hello").await;
    assert_eq!(hear(&mut stream, 5).await, "hello");
    stream
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn hear(stream: &mut TcpStream, count: usize) -> String {
    let mut text = vec![0; count];
    let heard = tokio::time::timeout(SOON, stream.read_exact(&mut text)).await;
    heard.expect("soon").unwrap();
    String::from_utf8(text).unwrap()
}

/// All that comes before the end, and whether that was a reset.
async fn hear_all(stream: &mut TcpStream) -> (String, bool) {
    let mut text = Vec::new();
    let end = tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await.expect("soon");
    (String::from_utf8(text).unwrap(), end.is_err())
}

/// Whether nothing comes, as far as a short while tells.
async fn hears_nothing(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(100), stream.peek(&mut [0])).await.is_err()
}

#[tokio::test]
async fn what_is_held_arrives_when_the_way_is_open_again() {
    let (proxy, _serving) = echo().await;
    for cut in CUTS {
        let mut stream = connect(&proxy).await;
        proxy.set(Verb::Hold(cut));
        say(&mut stream, "later").await;
        assert!(hears_nothing(&mut stream).await, "{cut:?}");
        proxy.set(Verb::Pass);
        assert_eq!(hear(&mut stream, 5).await, "later");
    }
}

#[tokio::test]
async fn what_is_delayed_arrives_late_and_whole() {
    let (proxy, _serving) = echo().await;
    let mut stream = connect(&proxy).await;
    let delay = Duration::from_millis(150);
    proxy.set(Verb::Delay(delay));
    let started = tokio::time::Instant::now();
    say(&mut stream, "late").await;
    assert_eq!(hear(&mut stream, 4).await, "late");
    assert!(started.elapsed() >= delay * 2, "there and back: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_connection_ends_after_exactly_so_many_bytes() {
    let (proxy, _serving) = echo().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        for bytes in [1, 7, 9] {
            let mut stream = connect(&proxy).await;
            proxy.set(Verb::CutAfter(direction, bytes));
            say(&mut stream, "0123456789").await;
            let (heard, _) = hear_all(&mut stream).await;
            let expected = &"0123456789"[..bytes as usize];
            match direction {
                Direction::ToClient => assert_eq!(heard, expected),
                // The answer to the last of them may be cut as well.
                Direction::ToServer => assert!(expected.starts_with(&heard), "{heard}"),
            }
            proxy.set(Verb::Pass);
        }
    }
}

#[tokio::test]
async fn a_reset_and_a_half_close_are_for_the_connections_of_the_moment() {
    let (proxy, _serving) = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.reset();
    assert_eq!(hear_all(&mut stream).await, (String::new(), true));
    let mut stream = connect(&proxy).await;
    // The server hears the end, and ends as well.
    proxy.half_close(Direction::ToServer);
    assert_eq!(hear_all(&mut stream).await, (String::new(), false));
    let mut stream = connect(&proxy).await;
    proxy.half_close(Direction::ToClient);
    assert_eq!(hear_all(&mut stream).await, (String::new(), false));
    say(&mut stream, "it still listens").await;
    connect(&proxy).await;
}

#[tokio::test]
async fn what_is_dropped_is_lost_and_its_connection_with_it() {
    let (proxy, _serving) = echo().await;
    let (mut silent, mut stream) = (connect(&proxy).await, connect(&proxy).await);
    proxy.set(Verb::Drop);
    say(&mut stream, "lost").await;
    assert!(hears_nothing(&mut stream).await);
    proxy.set(Verb::Pass);
    assert_eq!(hear_all(&mut stream).await, (String::new(), true));
    // One that has lost nothing goes on.
    say(&mut silent, "hello").await;
    assert_eq!(hear(&mut silent, 5).await, "hello");
}

#[tokio::test]
async fn clients_reach_nodes_by_ways_that_can_be_cut_and_by_nginx() {
    let options = ClusterOptions { balancer: Balancer::Nginx, ..options(2) };
    let field = Field::cluster(options).await.unwrap();
    assert_eq!(field.notes(), &[] as &[String]);
    let nginx = field.nginx().unwrap();
    let client = batonq_client::Client::connect(&nginx.url()).await.unwrap();
    client.push(NewJob::new("q", "1")).await.unwrap();
    assert_eq!(Http::new(nginx.http()).get("/health").await.status, 200);
    field.clients(1).set(Verb::Hold(Cut::Both));
    let ask =
        async |address: SocketAddr| Probe::new(address).look(Duration::from_millis(300)).await;
    assert_eq!(ask(field.client_http(1).unwrap()).await, Sight::Silent);
    assert_ne!(ask(field.client_http(2).unwrap()).await, Sight::Silent);
    assert_ne!(sight(node(&field, 1)).await, Sight::Silent, "the node itself is well");
    field.mend().unwrap();
    assert_ne!(ask(field.client_http(1).unwrap()).await, Sight::Silent);
}

// --- a plan

async fn roll(field: &Field) {
    act(field, &profile(&[(Kind::RollingRestart, 1)]), 1).await;
}

fn profile(counts: &[(Kind, u32)]) -> Profile {
    let ms = Duration::from_millis;
    Profile {
        counts: counts.iter().copied().collect(),
        cut: (ms(300), ms(300)),
        delay: (ms(50), ms(50)),
        pause: (ms(0), ms(0)),
        ..Profile::none()
    }
}

/// Carries out the plan of a seed. What was told of it.
async fn act(field: &Field, profile: &Profile, seed: u64) -> Vec<Fault> {
    let faults = Mutex::new(Vec::new());
    let tell = |fault| faults.lock().push(fault);
    let nemesis = Nemesis::new(field, RunClock::new(), &tell);
    let healed_ns = nemesis.run(&Plan::new(seed, profile, field.count())).await.unwrap();
    let faults = faults.into_inner();
    for fault in &faults {
        assert!(fault.start_ns <= fault.end_ns && fault.end_ns <= healed_ns, "{fault:?}");
    }
    faults
}

#[tokio::test]
async fn a_plan_is_carried_out_to_the_last_fault_and_all_is_well_afterwards() {
    let field = cluster(3).await;
    let each: Vec<(Kind, u32)> = Kind::ALL.into_iter().map(|kind| (kind, 1)).collect();
    let (profile, left_out) = profile(&each).on(&field);
    let left_out: Vec<Kind> = left_out.iter().map(|left_out| left_out.kind).collect();
    assert_eq!(left_out, [Kind::Drain]);
    let profile = Profile { frozen: (SILENCE, SILENCE), ..profile };
    let faults = act(&field, &profile, 5).await;
    // A rolling restart is one of each node.
    assert_eq!(faults.len(), Kind::ALL.len() - 1 + 2, "{faults:#?}");
    let restarted = faults.iter().filter(|fault| fault.kind == "rolling_restart");
    assert_eq!(restarted.map(|fault| fault.node).collect::<Vec<_>>(), [1, 2, 3]);
    for fault in &faults {
        let takes_the_lead = ["postgres_restart_fast", "postgres_restart_immediate", "kill"];
        if fault.was_leader && takes_the_lead.contains(&&*fault.kind) {
            assert!(fault.led_again_ns > fault.start_ns, "{fault:?}");
        }
        assert!(fault.was_leader || fault.led_again_ns == 0, "{fault:?}");
    }
    assert!(faults.iter().filter(|fault| fault.led_again_ns > 0).count() >= 3, "{faults:#?}");
    field.ready(SOON).await.unwrap();
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_nothing_frozen_and_no_way_cut() {
    let field = cluster(2).await;
    for kind in [Kind::Freeze, Kind::ClientPartition] {
        let hour = Duration::from_secs(3600);
        let long = Profile { frozen: (hour, hour), cut: (hour, hour), ..profile(&[(kind, 1)]) };
        let tell = |fault| panic!("it is not over: {fault:?}");
        let nemesis = Nemesis::new(&field, RunClock::new(), &tell);
        let plan = Plan::new(1, &long, 2);
        let is_broken = eventually("it is broken", async || {
            for number in field.numbers() {
                let mut probe = Probe::new(field.client_http(number).unwrap());
                if probe.look(Duration::from_millis(200)).await == Sight::Silent {
                    return Some(());
                }
            }
            None
        });
        tokio::select! {
            ended = nemesis.run(&plan) => panic!("{ended:?}"),
            () = is_broken => {}
        }
        drop(nemesis);
        for number in field.numbers() {
            let mut probe = Probe::new(field.client_http(number).unwrap());
            assert_ne!(probe.look(SOON).await, Sight::Silent);
        }
    }
}

// --- a cluster that is there

#[tokio::test]
async fn of_a_cluster_by_name_the_ways_are_ours_and_nodes_may_be_drained() {
    let theirs = cluster(2).await;
    let urls = vec![format!("tcp://{},{}", node(&theirs, 1).tcp(), node(&theirs, 2).tcp())];
    let drain = Drain::Allowed;
    let named = NamedOptions { urls: urls.clone(), token: None, drain };
    let field = Field::named(named).await.unwrap();
    assert_eq!(field.count(), 2);
    assert!(field.node(1).is_err() && field.postgres().is_err());
    let (_, left_out) = profile(&[(Kind::Kill, 7), (Kind::ClientCut, 1)]).on(&field);
    assert_eq!((left_out[0].kind, left_out[0].count), (Kind::Kill, 7));
    assert_eq!((left_out.len(), &*left_out[0].why), (1, "the nodes are not ours"));
    let outside = profile(&[(Kind::ClientReset, 1), (Kind::ClientPartition, 1), (Kind::Drain, 1)]);
    // Whoever runs the cluster starts what has left.
    let keeping = async {
        loop {
            for number in theirs.numbers() {
                if node(&theirs, number).still_runs().is_err() {
                    node(&theirs, number).start().unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let faults = tokio::select! {
        faults = act(&field, &outside, 1) => faults,
        () = keeping => unreachable!("it goes on"),
    };
    assert_eq!(faults.len(), 3);
    let never = NamedOptions { urls, token: None, drain: Drain::Never };
    let field = Field::named(never).await.unwrap();
    assert_eq!(outside.on(&field).1[0].kind, Kind::Drain);
}

// --- nothing is left

/// What a field has on this machine.
#[derive(Debug, Default)]
struct Traces {
    pids: Vec<u32>,
    namespaces: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl Traces {
    fn of(field: &Field) -> Self {
        let mut traces = Self::default();
        let nodes = field.numbers().map(|number| node(field, number));
        traces.pids.extend(nodes.clone().filter_map(Node::pid));
        traces.pids.extend(field.nginx().unwrap().pid());
        traces.pids.extend(field.postgres().unwrap().pid());
        let logs = nodes.map(Node::log).chain([field.postgres().unwrap().log()]);
        traces.dirs.extend(logs.map(|log| log.parent().unwrap().to_owned()));
        for number in field.numbers() {
            if let Ok(DatabaseWay::Namespace(namespace)) = field.database_way(number) {
                traces.namespaces.push(namespace.name().to_owned());
            }
        }
        traces
    }

    /// What of it is there.
    fn left(&self) -> Vec<String> {
        let list = Command::new("ip").args(["netns", "list"]).output();
        let list = list.map_or(String::new(), |list| String::from_utf8(list.stdout).unwrap());
        let names: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
        let pids = self.pids.iter().map(|pid| format!("/proc/{pid}")).map(PathBuf::from);
        let paths = pids.chain(self.dirs.clone()).filter(|path| path.exists());
        let paths = paths.map(|path| path.display().to_string());
        let namespaces = self.namespaces.iter().filter(|name| names.contains(&name.as_str()));
        paths.chain(namespaces.cloned()).collect()
    }
}

async fn of_all_kinds() -> Field {
    let (apart, balancer) = (Apart::AsPossible, Balancer::Nginx);
    Field::cluster(ClusterOptions { apart, balancer, ..options(1) }).await.unwrap()
}

#[tokio::test]
async fn nothing_is_left_of_a_field_that_is_dropped() {
    let field = of_all_kinds().await;
    node(&field, 1).freeze().await.unwrap();
    let traces = Traces::of(&field);
    assert!(traces.left().len() >= 5, "{traces:?}");
    drop(field);
    assert_eq!(traces.left(), Vec::<String>::new());
}

/// Not a test by itself: the process that the next one kills.
#[expect(clippy::print_stdout, reason = "it tells the next one what to look for")]
#[tokio::test]
async fn a_field_is_held_for_who_asks() {
    if std::env::var_os("HOLD_A_FIELD").is_none() {
        return;
    }
    let field = of_all_kinds().await;
    // The database's children outlive it for a moment.
    field.postgres().unwrap().kill().await.unwrap();
    field.postgres().unwrap().start().await.unwrap();
    let Traces { pids, namespaces, dirs } = Traces::of(&field);
    pids.iter().for_each(|pid| println!("trace pid {pid}"));
    namespaces.iter().for_each(|name| println!("trace namespace {name}"));
    dirs.iter().for_each(|dir| println!("trace dir {}", dir.display()));
    println!("trace end");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_field_whose_process_is_killed() {
    for signal in ["-INT", "-KILL"] {
        let mut holder = Command::new(std::env::current_exe().unwrap());
        holder.args(["a_field_is_held_for_who_asks", "--exact", "--nocapture"]);
        let mut holder =
            holder.env("HOLD_A_FIELD", "1").stdout(Stdio::piped()).spawn().expect("it starts");
        let mut traces = Traces::default();
        for line in BufReader::new(holder.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split_once("trace ").and_then(|(_, trace)| trace.split_once(' ')) {
                Some(("pid", pid)) => traces.pids.push(pid.parse().unwrap()),
                Some(("namespace", name)) => traces.namespaces.push(name.into()),
                Some(("dir", dir)) => traces.dirs.push(dir.into()),
                _ if line == "trace end" => break,
                _ => {}
            }
        }
        assert!(traces.left().len() >= 5, "{traces:?}");
        let pid = holder.id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
        holder.wait().unwrap();
        eventually("it is clean", async || traces.left().is_empty().then_some(())).await;
    }
}
