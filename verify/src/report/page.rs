//! What people are told of a run, in its order: the answer, then what it rests on.

use std::collections::BTreeMap;

use super::document::{Block, Item};
use super::{
    BoundRow, Counts, CourseName, EndFacts, InvariantRow, PromiseRow, Report, RunFacts, Spread,
    Standing,
};

/// Findings of an invariant that people are shown, and records of a finding.
const FINDINGS_SHOWN: usize = 5;
const RECORDS_SHOWN: usize = 8;

/// All of it.
pub(super) fn blocks(report: &Report) -> Vec<Block> {
    let mut blocks = vec![Block::Title(title(report))];
    run(&report.run, &mut blocks);
    promises(report, &mut blocks);
    findings(report, &mut blocks);
    numbers(report, &mut blocks);
    faults(report, &mut blocks);
    counts(&report.counts, &mut blocks);
    end(report.end.as_ref(), &mut blocks);
    if let Some(repeat) = &report.run.repeat {
        blocks.push(Block::Heading("Repeat".to_owned()));
        blocks.push(Block::Command(repeat.clone()));
    }
    blocks
}

fn title(report: &Report) -> String {
    let numbers = |standing: Standing| -> Vec<String> {
        let rows = report.promises.iter().filter(|row| row.standing == standing);
        rows.map(|row| row.number.to_string()).collect()
    };
    let (held, broken) = (numbers(Standing::Held), numbers(Standing::Broken));
    let all = report.promises.len();
    let verdict = match (broken.as_slice(), all - held.len()) {
        ([], 0) => format!("all {all} promises held"),
        ([], unchecked) => format!("{} promises held, {unchecked} not checked", held.len()),
        ([one], _) => format!("promise {one} is BROKEN"),
        (several, _) => format!("promises {} are BROKEN", several.join(", ")),
    };
    let course = match report.run.course {
        CourseName::AsPlanned => "",
        CourseName::Interrupted => "; the run was interrupted",
        CourseName::Broken => "; the run could not go on",
    };
    format!("batonq verify, {}: {verdict}{course}", report.run.profile)
}

fn run(run: &RunFacts, blocks: &mut Vec<Block>) {
    let mut lines = Vec::new();
    if let Some(why) = &run.course_why {
        lines.push(format!("could not go on: {why}"));
    }
    if let Some(seed) = run.seed {
        let (jobs, faults) = (run.jobs_planned, run.faults_planned);
        lines.push(format!("seed {seed}: {jobs} jobs, {faults} faults"));
    }
    if !run.nodes.is_empty() {
        let unknown = || "(version not known)".to_owned();
        let name = |node: &super::NodeRow| {
            format!("{} {}", node.name, node.version.clone().unwrap_or_else(unknown))
        };
        lines.push(format!("nodes: {}", listed(run.nodes.iter().map(name))));
    }
    lines.extend(run.postgres.clone());
    let began = run.started.map(|at| format!("began {at:.0}, ")).unwrap_or_default();
    let (took, cores) = (seconds(run.duration_ms), run.cores);
    lines.push(format!("{began}took {took} on {cores} cores"));
    lines.extend(run.notes.iter().map(|note| format!("note: {note}")));
    blocks.push(Block::List(lines.into_iter().map(Item::from).collect()));
}

fn promises(report: &Report, blocks: &mut Vec<Block>) {
    let row = |row: &PromiseRow| {
        let (number, promise) = (row.number.to_string(), row.promise.clone());
        vec![number, promise, word(row.standing).to_owned(), decided_by(row, report)]
    };
    let rows = report.promises.iter().map(row).collect();
    blocks.push(Block::Heading("Promises".to_owned()));
    blocks.push(Block::Table(vec!["", "promise", "verdict", "decided by"], rows));
    let beyond = |row: &PromiseRow| {
        let beyond = row.beyond.as_ref()?;
        Some(Item::from(format!("not looked at, of {}: {beyond}", row.number)))
    };
    blocks.push(Block::List(report.promises.iter().filter_map(beyond).collect()));
    let row = |row: &InvariantRow| {
        let verdict = match row.standing {
            Standing::Broken => format!("BROKEN {} times", row.broken),
            standing => word(standing).to_owned(),
        };
        let checked = row.why.clone().unwrap_or_else(|| row.checked.to_string());
        vec![row.name.clone(), row.rule.clone(), verdict, checked]
    };
    let rows = report.invariants.iter().map(row).collect();
    blocks.push(Block::Heading("Invariants".to_owned()));
    blocks.push(Block::Table(vec!["", "invariant", "verdict", "checked"], rows));
}

const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Held => "held",
        Standing::Broken => "BROKEN",
        Standing::NotChecked => "not checked",
    }
}

fn decided_by(row: &PromiseRow, report: &Report) -> String {
    if let Some(why) = row.why.as_ref().filter(|_| row.standing == Standing::NotChecked) {
        return why.clone();
    }
    let of = |invariant: &InvariantRow| match invariant.standing {
        Standing::Held => invariant.name.clone(),
        Standing::Broken => format!("{} (BROKEN)", invariant.name),
        Standing::NotChecked => format!("{} (not checked)", invariant.name),
    };
    let is_its = |invariant: &&InvariantRow| row.invariants.contains(&invariant.name);
    let invariants = report.invariants.iter().filter(is_its).map(of);
    let exceeded = row.exceeded.iter().map(|name| format!("{name} (EXCEEDED)"));
    listed(invariants.chain(exceeded))
}

fn findings(report: &Report, blocks: &mut Vec<Block>) {
    let is_broken = |row: &&InvariantRow| row.standing == Standing::Broken;
    for invariant in report.invariants.iter().filter(is_broken) {
        let InvariantRow { name, rule, broken, .. } = invariant;
        let found = || report.findings.iter().filter(|finding| finding.invariant == *name);
        let item = |finding: &super::FindingRow| {
            let mut below: Vec<String> =
                finding.records.iter().take(RECORDS_SHOWN).cloned().collect();
            below.extend(more(finding.records.len(), RECORDS_SHOWN, "records"));
            Item { text: finding.sentence.clone(), below }
        };
        let mut items: Vec<Item> = found().take(FINDINGS_SHOWN).map(item).collect();
        let count = usize::try_from(*broken).unwrap_or(usize::MAX);
        items.extend(more(count, FINDINGS_SHOWN, "places").map(Item::from));
        blocks.push(Block::Heading(format!("{name} is broken")));
        blocks.push(Block::Paragraph(format!("It says: {rule}.")));
        blocks.push(Block::List(items));
    }
}

/// That there are more than are shown.
fn more(count: usize, shown: usize, what: &str) -> Option<String> {
    (count > shown).then(|| format!("and {} more {what}", count - shown))
}

fn numbers(report: &Report, blocks: &mut Vec<Block>) {
    let row = |bound: &BoundRow| {
        let unit = &bound.unit;
        let measured = bound.measured.map(|measured| format!("{measured:.3} {unit}"));
        let verdict = match (bound.is_kept, &measured) {
            (_, None) => "not checked",
            (true, _) => "kept",
            (false, _) => "EXCEEDED",
        };
        let measured = measured.unwrap_or_else(|| "none".to_owned());
        vec![
            bound.name.clone(),
            measured,
            format!("{} {unit}", (bound.max * 1e3).round() / 1e3),
            verdict.to_owned(),
        ]
    };
    blocks.push(Block::Heading("Bounds".to_owned()));
    let rows = report.bounds.iter().map(row).collect();
    blocks.push(Block::Table(vec!["what", "was", "at most", "verdict"], rows));
    if !report.failovers.is_empty() {
        let row = |row: &super::FailoverRow| {
            let bound = row.bound_ms.map_or_else(|| "no bound".to_owned(), seconds);
            [vec![row.kind.clone()], spread(&row.spread), vec![bound]].concat()
        };
        let head = vec!["another leader after", "times", "p50", "p99", "longest", "at most"];
        blocks.push(Block::Heading("Failovers".to_owned()));
        blocks.push(Block::Table(head, report.failovers.iter().map(row).collect()));
    }
    if !report.lateness.is_empty() {
        let row = |row: &super::LatenessRow| {
            let near = if row.is_near_faults { "near faults" } else { "in peace" };
            [vec![format!("{}, {near}", row.what)], spread(&row.spread)].concat()
        };
        let head = vec!["late", "times", "p50", "p99", "longest"];
        blocks.push(Block::Heading("Lateness".to_owned()));
        blocks.push(Block::Table(head, report.lateness.iter().map(row).collect()));
    }
}

fn spread(of: &Spread) -> Vec<String> {
    let times = [of.p50_ms, of.p99_ms, of.max_ms].map(seconds);
    [vec![of.count.to_string()], times.to_vec()].concat()
}

fn faults(report: &Report, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading("Faults".to_owned()));
    let count: u64 = report.faults.iter().map(|row| row.count).sum();
    let planned = match (report.run.seed, report.run.faults_planned) {
        (Some(_), planned) => {
            format!("; {planned} were planned, a rolling restart of all nodes being one")
        }
        (None, _) => String::new(),
    };
    blocks.push(Block::Paragraph(format!("{count} were injected{planned}.")));
    if !report.faults.is_empty() {
        let row = |row: &super::FaultRow| vec![row.kind.clone(), row.count.to_string()];
        let rows = report.faults.iter().map(row).collect();
        blocks.push(Block::Table(vec!["kind", "count"], rows));
    }
    if !report.left_out.is_empty() {
        let row = |row: &super::LeftOutRow| {
            vec![row.kind.clone(), row.count.to_string(), row.why.clone()]
        };
        let rows = report.left_out.iter().map(row).collect();
        blocks.push(Block::Table(vec!["left out", "count", "because"], rows));
    }
}

fn counts(counts: &Counts, blocks: &mut Vec<Block>) {
    let Counts { calls, unknown, jobs, recovered, leases, duplicates, slots, .. } = counts;
    let cut = if counts.is_cut { ", and more that was cut off" } else { "" };
    let endings = |of: &BTreeMap<String, u64>| match of.is_empty() {
        true => "none".to_owned(),
        false => listed(of.iter().map(|(ending, count)| format!("{ending} {count}"))),
    };
    let (asked, unasked) =
        (endings(&counts.redelivered_as_asked), endings(&counts.redelivered_unasked));
    let percent = counts.duplicates_percent;
    let lines = [
        format!("history: {} records{cut}", counts.records),
        format!("calls: {calls}, of which {unknown} with an unknown outcome"),
        format!("jobs: {jobs}, of which {recovered} by pushes that nobody answered"),
        format!("leases: {leases}"),
        format!("delivered again as somebody asked: {asked}"),
        format!("delivered again unasked: {unasked}"),
        format!("jobs of the latter: {duplicates}, {percent:.3} % of all"),
        format!("slots of schedules: {slots}"),
    ];
    blocks.push(Block::Heading("Counts".to_owned()));
    blocks.push(Block::List(lines.into_iter().map(Item::from).collect()));
}

fn end(end: Option<&EndFacts>, blocks: &mut Vec<Block>) {
    let after = |time: Option<u64>, what: &str| match time {
        Some(time) => format!("{what} {} later", seconds(time)),
        None => format!("{what}: never"),
    };
    let lines = match end {
        None => vec!["the history has no end".to_owned()],
        Some(end) => vec![
            format!("last fault healed at {}", seconds(end.healed_ms)),
            after(end.served_after_ms, "all clients served again"),
            after(end.drained_after_ms, "all work done"),
            format!("nodes that lead: {}", end.leaders),
        ],
    };
    blocks.push(Block::Heading("End".to_owned()));
    blocks.push(Block::List(lines.into_iter().map(Item::from).collect()));
}

fn listed(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn seconds(ms: u64) -> String {
    format!("{:.3} s", ms as f64 / 1000.0)
}
