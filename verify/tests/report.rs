//! What is told of a run is what was found, in the same words each time.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use batonq_verify::check::Verdict;
use batonq_verify::check::{Bound, Figures, Finding, Invariant, Judgement, Quantiles, Standing};
use batonq_verify::field::NODES_MAX;
use batonq_verify::history::{
    Call, Duty, End, Fault, History, How, LeaseEnd, Outcome, Record, Waits, What,
};
use batonq_verify::nemesis::{Kind, LeftOut};
use batonq_verify::report::{Report, timeline};
use batonq_verify::summary::{Course, NodeFacts, Summary};
use serde_json::Value;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn quantiles(count: usize, p50: u64, p99: u64, max: u64) -> Quantiles {
    Quantiles { count, p50: ms(p50), p99: ms(p99), max: ms(max) }
}

fn figures() -> Figures {
    let counts =
        |all: &[(&str, u64)]| all.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    Figures {
        records: 5200,
        is_cut: false,
        calls: 4100,
        unknown: 12,
        jobs: 1000,
        recovered: 3,
        leases: 1030,
        redelivered: counts(&[("crashed", 3), ("failed", 20), ("node_lost", 2), ("released", 5)]),
        duplicates: 5,
        late_in_peace: quantiles(80, 3, 12, 40),
        late_near_faults: quantiles(20, 30, 1900, 2100),
        slots_late_in_peace: quantiles(50, 4, 9, 10),
        slots_late_near_faults: quantiles(10, 5, 800, 800),
        faults: counts(&[("freeze", 1), ("kill", 2), ("partition_in", 1)]),
        failovers: [("kill".to_owned(), quantiles(2, 310, 640, 640))].into(),
    }
}

fn bounds() -> Vec<Bound> {
    let bound = |invariant, name: &str, measured, max, unit| Bound {
        invariant,
        name: name.to_owned(),
        measured,
        max,
        unit,
    };
    vec![
        bound(Invariant::Explained, "jobs given out again unasked", Some(0.5), 1.0, "%"),
        bound(Invariant::NotEarly, "jobs late, p99", Some(0.012), 1.0, "s"),
        bound(Invariant::EverySlotOnce, "slots late, p99", None, 1.0, "s"),
        bound(Invariant::Alive, "failover after kill, longest", Some(0.64), 1.0, "s"),
    ]
}

fn summary() -> Summary {
    let held = |invariant: Invariant| Judgement {
        invariant,
        standing: Standing::Held,
        checked: 100 * (invariant as u64 + 1),
        broken: 0,
        findings: Vec::new(),
    };
    let node = |name: &str| NodeFacts { name: name.to_owned(), version: Some("0.1.0".to_owned()) };
    let left_out =
        LeftOut { kind: Kind::ClockOffset, count: 3, why: "faketime is not installed".to_owned() };
    let invariants = Invariant::ALL.into_iter().map(held).collect();
    Summary {
        profile: "quick".to_owned(),
        seed: Some(7),
        repeat: Some("batonq verify --quick --seed 7".to_owned()),
        started: Some("2026-11-21T15:00:00.25Z".parse().expect("a time")),
        duration: ms(93_400),
        nodes: vec![node("n1"), node("n2"), node("n3")],
        postgres: Some("PostgreSQL 15.4".to_owned()),
        jobs: 1000,
        faults_planned: 7,
        left_out: vec![left_out],
        notes: vec!["nginx is not installed: clients choose a node".to_owned()],
        cores: 2,
        course: Course::AsPlanned,
        verdict: Verdict { invariants, bounds: bounds(), figures: figures() },
    }
}

fn call(at_ms: u64, what: What, outcome: Outcome) -> Record {
    let (start_ns, end_ns) = (at_ms * 1_000_000, (at_ms + 4) * 1_000_000);
    Record::Call(Call { start_ns, end_ns, client: 3, node: 1, what, outcome })
}

fn push(at_ms: u64, key: u64, outcome: Outcome) -> Record {
    let (waits, repeated) = (Waits::ForWorkers, false);
    let what = What::Push { key, queue: 2, job: key + 100, run_at_ms: 0, waits, repeated };
    call(at_ms, what, outcome)
}

fn ack(at_ms: u64, job: u64, delivery: u32) -> Record {
    call(at_ms, What::Settle { job, delivery, how: How::Ack, until_ms: 0 }, Outcome::Ok)
}

fn fault(kind: &str, node: u8, times: (u64, u64, u64)) -> Record {
    let [start_ns, end_ns, led_again_ns] = [times.0, times.1, times.2].map(|ms| ms * 1_000_000);
    let (kind, was_leader) = (kind.to_owned(), led_again_ns != 0);
    Record::Fault(Fault { start_ns, end_ns, kind, node, was_leader, led_again_ns })
}

fn duty(at_ms: i64, epoch: u64, node: &str) -> Record {
    let (node, name) = (node.to_owned(), "due".to_owned());
    let at_ms = OFFSET_MS + at_ms;
    Record::Duty(Duty { at_ms, epoch, token: u128::from(epoch) << 96, node, name, count: 4 })
}

const OFFSET_MS: i64 = 1_800_000_000_000;

fn end() -> Record {
    Record::End(End {
        healed_ns: 60_000_000_000,
        served_ns: 60_450_000_000,
        drained_ns: 63_000_000_000,
        leaders: 1,
        database_offset_ms: OFFSET_MS,
        offset_error_ms: 2,
    })
}

/// Some of all that is drawn.
fn history() -> History {
    let mut records: Vec<Record> = (0..60)
        .flat_map(|second| {
            let at_ms = 1000 + 1000 * second;
            (0..5).map(move |one| push(at_ms + 10 * one, at_ms + one, Outcome::Ok))
        })
        .collect();
    records.extend((0..60).map(|second| ack(1500 + 1000 * second, 200 + second, 1)));
    records.push(push(20_100, 9001, Outcome::Unknown));
    records.push(push(20_200, 9002, Outcome::Rejected(ErrorCode::Unavailable)));
    records.extend([
        fault("kill", 1, (20_000, 20_800, 20_310)),
        fault("kill", 2, (30_000, 30_500, 0)),
        fault("partition_in", 2, (40_000, 48_000, 42_900)),
        fault("postgres_restart_fast", 0, (55_000, 56_200, 0)),
        duty(1100, 1, "n1"),
        duty(2100, 1, "n1"),
        duty(20_400, 2, "n2"),
        duty(43_000, 3, "n3"),
        end(),
    ]);
    History::from(records)
}

/// A job was acked twice, and failovers took too long.
fn broken() -> Summary {
    let mut summary = summary();
    let ending = "node_lost".to_owned();
    let lease =
        LeaseEnd { job: 12, delivery: 1, attempt: 1, begins_ms: 100, ended_ms: 140, ending };
    let finding = Finding {
        sentence: "job 12 was acked with delivery 1 and with delivery 2".to_owned(),
        records: vec![ack(1234, 12, 1), ack(5678, 12, 2), Record::Lease(lease)],
    };
    let judgement = &mut summary.verdict.invariants[Invariant::OneSuccess as usize];
    judgement.standing = Standing::Violated;
    judgement.broken = 8;
    judgement.findings = vec![finding; 8];
    summary.verdict.bounds[3].measured = Some(1.25);
    summary
}

/// A history that was judged again, without its end.
fn not_checked() -> Summary {
    let mut summary = summary();
    for invariant in [Invariant::NothingLost, Invariant::EndsAsTold, Invariant::Alive] {
        let judgement = &mut summary.verdict.invariants[invariant as usize];
        judgement.standing = Standing::NotChecked("the history has no end");
        judgement.checked = 0;
    }
    summary.verdict.invariants[Invariant::OneTermAtATime as usize].standing =
        Standing::NotChecked("nothing is known of what leaders did");
    summary.verdict.figures.faults.clear();
    summary.verdict.figures.is_cut = true;
    Summary {
        profile: "replay".to_owned(),
        seed: None,
        repeat: None,
        started: None,
        nodes: Vec::new(),
        postgres: None,
        jobs: 0,
        faults_planned: 0,
        left_out: Vec::new(),
        notes: Vec::new(),
        course: Course::Interrupted,
        ..summary
    }
}

#[test]
fn a_clean_run_is_told() {
    let report = Report::new(&summary(), &history());
    assert_eq!(report.terminal(), include_str!("report/clean.txt"));
    assert_eq!(report.markdown(), include_str!("report/clean.md"));
}

#[test]
fn what_was_broken_comes_with_its_proof() {
    let report = Report::new(&broken(), &history());
    assert_eq!(report.terminal(), include_str!("report/broken.txt"));
    assert_eq!(report.markdown(), include_str!("report/broken.md"));
}

#[test]
fn what_was_not_checked_says_why() {
    let report = Report::new(&not_checked(), &History::default());
    assert_eq!(report.terminal(), include_str!("report/not_checked.txt"));
}

#[test]
fn whatever_is_wrong_breaks_a_promise() {
    let is_broken = |summary: &Summary| {
        let json = Report::new(summary, &history()).json();
        let report: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(report["is_good"], summary.is_good());
        let promises = report["promises"].as_array().expect("a list");
        promises.iter().any(|promise| promise["standing"] == "broken")
    };
    assert!(!is_broken(&summary()));
    for invariant in Invariant::ALL {
        let mut summary = summary();
        summary.verdict.invariants[invariant as usize].standing = Standing::Violated;
        summary.verdict.figures.faults.clear();
        assert!(is_broken(&summary), "{invariant:?}");
    }
    for bound in 0..bounds().len() {
        let mut summary = summary();
        summary.verdict.bounds[bound].measured = Some(100.0);
        assert!(is_broken(&summary), "{:?}", summary.verdict.bounds[bound]);
    }
}

#[test]
fn what_was_read_from_json_is_the_same_report() {
    for summary in [summary(), broken(), not_checked()] {
        let report = Report::new(&summary, &history());
        let read: Report = serde_json::from_str(&report.json()).expect("it was written so");
        assert_eq!(read, report);
    }
}

/// All paths of a value; lists by their first element.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                paths(field, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(all) if all.first().is_some_and(Value::is_object) => {
            paths(&all[0], &format!("{path}[]"), found);
        }
        _ => found.push(path.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn the_names_in_json_stay() {
    let report = Report::new(&broken(), &history());
    let value = serde_json::from_str(&report.json()).expect("it is JSON");
    let mut found = Vec::new();
    paths(&value, "", &mut found);
    found.sort();
    let expected: Vec<&str> = include_str!("report/names.txt").lines().collect();
    assert_eq!(found, expected);
}

/// The attributes of all bars of a class.
fn bars(svg: &str, class: &str) -> Vec<(f64, f64)> {
    let document = roxmltree::Document::parse(svg).expect("it is well-formed");
    let number = |node: &roxmltree::Node<'_, '_>, name: &str| -> f64 {
        node.attribute(name).and_then(|text| text.parse().ok()).expect("a number")
    };
    let nodes = document.descendants().filter(|node| node.attribute("class") == Some(class));
    nodes.map(|node| (number(&node, "x"), number(&node, "width"))).collect()
}

#[test]
fn a_picture_has_a_bar_for_each_fault_and_each_term() {
    let svg = timeline("batonq verify, quick <7> & \"more\"", &history());
    assert_eq!(bars(&svg, "fault").len(), 4);
    assert_eq!(bars(&svg, "leader").len(), 3);
    assert_eq!(bars(&svg, "unknown").len(), 1);
    assert!(!svg.contains("<script"));
}

#[test]
fn a_bar_is_as_long_as_its_fault() {
    let records =
        [fault("freeze", 1, (10_000, 14_000, 0)), fault("freeze", 2, (20_000, 28_000, 0))];
    let svg = timeline("freezes", &History::from(records.to_vec()));
    let bars = bars(&svg, "fault");
    let (first, second) = (bars[0], bars[1]);
    assert!((second.1 / first.1 - 2.0).abs() < 0.01, "{bars:?}");
    assert!((second.0 - first.0 - 2.5 * first.1).abs() < 0.2, "{bars:?}");
}

#[test]
fn nothing_is_outside_the_picture() {
    let kinds = Kind::ALL.iter().enumerate();
    let all = kinds.map(|(place, kind)| {
        let at_ms = 100_000 * (place as u64 + 1);
        fault(kind.name(), place as u8 % (NODES_MAX + 1), (at_ms, at_ms + 50_000, 0))
    });
    let mut records: Vec<Record> = all.collect();
    records.extend((0..200_000).map(|one| push(one * 9, one, Outcome::Ok)));
    records.extend([duty(-5000, 1, "n1"), duty(900_000_000, 2, "n2"), end()]);
    let svg = timeline("all", &History::from(records));
    let document = roxmltree::Document::parse(&svg).expect("it is well-formed");
    for node in document.descendants() {
        for (names, max) in [(["x", "width"], 1200.0), (["y", "height"], 420.0)] {
            let number = |name| node.attribute(name).and_then(|text| text.parse::<f64>().ok());
            let from = number(names[0]).unwrap_or(0.0);
            let to = from + number(names[1]).unwrap_or(0.0);
            assert!(from >= 0.0 && to <= max, "{node:?}");
        }
    }
    let points = document.descendants().filter_map(|node| node.attribute("points"));
    let ys = points.flat_map(str::split_whitespace).filter_map(|point| point.split(',').nth(1));
    let highest = ys.filter_map(|y| y.parse::<f64>().ok()).fold(420.0, f64::min);
    assert!(highest > 200.0 && highest < 380.0, "{highest}");
}

#[test]
fn an_empty_history_has_a_picture() {
    let svg = timeline("nothing", &History::default());
    roxmltree::Document::parse(&svg).expect("it is well-formed");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}
