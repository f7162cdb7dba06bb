//! A run as a picture: what was broken when, who led, which calls nobody answered, and how many jobs
//! were pushed and acked in a second meanwhile.
//!
//! ```text
//!   kill        ▌  ▌▌     ▌        one line for each kind of fault, bars in the colour of the node
//!   freeze        ███
//!   leader     ██████▓▓▓▓▓▓██      the colour of who leads
//!   unknown       ▂ █              calls without an outcome
//!   jobs/s     ╱╲_╱╲__╱╲           pushes and acks that were answered ok
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::history::{Call, Duty, End, Fault, History, How, Record, What};
use crate::nemesis::Kind;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 420.0;
/// Room for what is written beside the lines.
const LEFT: f64 = 120.0;
const RIGHT: f64 = 20.0;
/// Below the title and the legend.
const TOP: f64 = 52.0;
/// Room for the times.
const BOTTOM: f64 = 34.0;

/// The height of one line, and of all lines of faults together, at most.
const LINE: f64 = 14.0;
const FAULTS_MAX: f64 = 150.0;
const UNKNOWN: f64 = 24.0;
const GAP: f64 = 10.0;

/// A bar is not narrower, however short the fault was.
const BAR_MIN: f64 = 2.0;
/// A point of a curve for so many pixels, at most.
const POINT: f64 = 3.0;

/// Steps of an axis, at most.
const STEPS_X: f64 = 15.0;
const STEPS_Y: f64 = 5.0;

/// Nodes in turn; apart also for those who do not see all colours.
const NODES: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31"];
/// The database, or all nodes.
const ALL: &str = "#999999";
const PUSHES: &str = "#7b3fa0";
const ACKS: &str = "#222222";
const LOST: &str = "#c0182b";

/// Draws a run.
///
/// An SVG of 1200 by 420 without scripts. Who led is only known if the history has what leaders did,
/// and a moment of the database's clock only if it has an end.
pub fn timeline(title: &str, history: &History) -> String {
    let picture = Picture::of(history);
    let mut out = Svg::begin(title);
    picture.draw_legend(&mut out);
    let below = picture.draw_faults(&mut out, TOP);
    let below = picture.draw_leaders(&mut out, below);
    let below = picture.draw_unknown(&mut out, below);
    picture.draw_curves(&mut out, below + GAP);
    out.end()
}

/// What of a history is drawn. Times are seconds since the start of the run.
#[derive(Debug, Default)]
struct Picture<'h> {
    from: f64,
    to: f64,
    /// What a point of a curve stands for.
    bin: f64,
    faults: BTreeMap<&'h str, Vec<&'h Fault>>,
    nodes: BTreeSet<u8>,
    reigns: Vec<Reign>,
    /// Where it is not known who led: when somebody led again.
    changes: Vec<f64>,
    unknown: Vec<u64>,
    pushes: Vec<u64>,
    acks: Vec<u64>,
    end: Option<&'h End>,
}

/// From the first deed of a term to that of the next.
#[derive(Debug)]
struct Reign {
    from: f64,
    to: f64,
    name: String,
    node: u8,
    term: u64,
}

impl<'h> Picture<'h> {
    fn of(history: &'h History) -> Self {
        let mut picture = Self { from: f64::INFINITY, ..Self::default() };
        let mut duties: Vec<&Duty> = Vec::new();
        for record in &history.records {
            match record {
                Record::Call(call) => picture.widen(call.start_ns, call.end_ns),
                Record::Fault(fault) => picture.add_fault(fault),
                Record::Duty(duty) => duties.push(duty),
                Record::End(end) => picture.end = Some(end),
                Record::Job(_) | Record::Lease(_) | Record::Slot(_) | Record::Rule(_) => {}
            }
        }
        picture.from = picture.from.min(picture.to).floor();
        picture.to = picture.to.max(picture.from + 1.0);
        let points = (WIDTH - LEFT - RIGHT) / POINT;
        picture.bin = step(picture.to - picture.from, points).max(1.0);
        picture.count(history);
        picture.find_reigns(&duties);
        picture
    }

    fn widen(&mut self, start_ns: u64, end_ns: u64) {
        self.from = self.from.min(seconds(start_ns));
        self.to = self.to.max(seconds(end_ns));
    }

    fn add_fault(&mut self, fault: &'h Fault) {
        self.widen(fault.start_ns, fault.end_ns.max(fault.led_again_ns));
        self.nodes.insert(fault.node);
        self.faults.entry(kind_of(&fault.kind)).or_default().push(fault);
    }

    fn count(&mut self, history: &History) {
        let bins = whole((self.to - self.from) / self.bin) + 1;
        self.unknown = vec![0; bins];
        self.pushes = vec![0; bins];
        self.acks = vec![0; bins];
        for record in &history.records {
            let Record::Call(call) = record else { continue };
            let bin = whole((seconds(call.end_ns) - self.from) / self.bin).min(bins - 1);
            self.unknown[bin] += u64::from(call.outcome.is_unknown());
            self.pushes[bin] += u64::from(is_push(call));
            self.acks[bin] += u64::from(is_ack(call));
        }
    }

    fn find_reigns(&mut self, duties: &[&Duty]) {
        if let Some(end) = self.end {
            let (from, to) = (self.from, self.to);
            let at = |duty: &Duty| {
                let since_ms = (duty.at_ms - end.database_offset_ms) as f64;
                (since_ms / 1000.0).clamp(from, to)
            };
            let terms: Vec<&Duty> = duties
                .chunk_by(|before, next| before.token == next.token)
                .filter_map(|term| term.first().copied())
                .collect();
            let ends = terms.iter().skip(1).map(|next| at(next)).chain([to]);
            for (first, to) in terms.iter().zip(ends) {
                if to <= at(first) {
                    continue;
                }
                let (name, term) = (first.node.clone(), first.epoch);
                self.reigns.push(Reign { from: at(first), to, node: number_of(&name), name, term });
            }
            self.nodes.extend(self.reigns.iter().map(|reign| reign.node));
        }
        if self.reigns.is_empty() {
            let again = self.faults.values().flatten().map(|fault| fault.led_again_ns);
            self.changes = again.filter(|at_ns| *at_ns != 0).map(seconds).collect();
        }
    }

    fn x(&self, at: f64) -> f64 {
        let share = ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn draw_legend(&self, out: &mut Svg) {
        let mut x = LEFT;
        let nodes = self.nodes.iter().map(|node| (name_of(*node), colour_of(*node)));
        let curves = [
            ("pushes".to_owned(), PUSHES),
            ("acks".to_owned(), ACKS),
            ("unknown outcomes".to_owned(), LOST),
        ];
        for (name, colour) in nodes.chain(curves) {
            out.line(&format!(
                "<rect x=\"{x:.1}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
            ));
            out.text((x + 14.0, 41.0), "start", &name);
            x += 32.0 + 6.5 * name.chars().count() as f64;
        }
    }

    /// One line for each kind.
    fn draw_faults(&self, out: &mut Svg, top: f64) -> f64 {
        let height = (FAULTS_MAX / self.faults.len().max(1) as f64).min(LINE);
        let mut y = top;
        for (kind, faults) in &self.faults {
            self.draw_line(out, y, height, kind);
            for fault in faults {
                let (start, end) = (seconds(fault.start_ns), seconds(fault.end_ns));
                let told = format!(
                    "{} of {}, {start:.1} s to {end:.1} s{}",
                    fault.kind,
                    name_of(fault.node),
                    if fault.was_leader { ", which led" } else { "" },
                );
                let bar = Bar { from: start, to: end, colour: colour_of(fault.node), told };
                self.draw_bar(out, "fault", (y + 1.0, height - 2.0), &bar);
            }
            y += height;
        }
        y
    }

    /// Who led.
    fn draw_leaders(&self, out: &mut Svg, y: f64) -> f64 {
        if self.reigns.is_empty() && self.changes.is_empty() {
            return y;
        }
        self.draw_line(out, y, LINE, "leader");
        for reign in &self.reigns {
            let Reign { from, to, name, term, .. } = reign;
            let told = format!("{name} in term {term}, from {from:.1} s");
            // A gap shows that the same node led again.
            let to = (to - (self.to - self.from) / WIDTH).max(*from);
            let bar = Bar { from: *from, to, colour: colour_of(reign.node), told };
            self.draw_bar(out, "leader", (y + 1.0, LINE - 2.0), &bar);
        }
        for at in &self.changes {
            let told = format!("another leader at {at:.1} s");
            let bar = Bar { from: *at, to: *at, colour: ALL, told };
            self.draw_bar(out, "leader", (y + 1.0, LINE - 2.0), &bar);
        }
        y + LINE
    }

    /// Calls of which nobody knows what came of them.
    fn draw_unknown(&self, out: &mut Svg, y: f64) -> f64 {
        let most = self.unknown.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return y;
        }
        self.draw_line(out, y, UNKNOWN, &format!("unknown, to {most}"));
        for (bin, count) in self.unknown.iter().enumerate().filter(|(_, count)| **count > 0) {
            let from = self.from + bin as f64 * self.bin;
            let height = (*count as f64 / most as f64 * (UNKNOWN - 2.0)).max(2.0);
            let told = format!("{count} unknown outcomes from {from:.0} s");
            let bar = Bar { from, to: from + self.bin, colour: LOST, told };
            self.draw_bar(out, "unknown", (y + UNKNOWN - height, height), &bar);
        }
        y + UNKNOWN
    }

    fn draw_line(&self, out: &mut Svg, y: f64, height: f64, name: &str) {
        let (bottom, right) = (y + height, WIDTH - RIGHT);
        out.line(&format!("<path d=\"M{LEFT} {bottom:.1}H{right}\" stroke=\"#eee\"/>"));
        out.text((LEFT - 8.0, y + height / 2.0 + 4.0), "end", name);
    }

    fn draw_bar(&self, out: &mut Svg, class: &str, (y, height): (f64, f64), bar: &Bar) {
        let x = self.x(bar.from);
        let width = (self.x(bar.to) - x).max(BAR_MIN);
        let (colour, told) = (bar.colour, escaped(&bar.told));
        out.line(&format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" fill=\"{colour}\" fill-opacity=\"0.85\"><title>{told}</title></rect>"
        ));
    }

    fn draw_curves(&self, out: &mut Svg, top: f64) {
        let bottom = HEIGHT - BOTTOM;
        let rate = |count: u64| count as f64 / self.bin;
        let highest = self.pushes.iter().chain(&self.acks).copied().max().unwrap_or(0);
        let step_y = step(rate(highest).max(1.0), STEPS_Y);
        let brim = (rate(highest) / step_y).ceil().max(1.0) * step_y;
        let y = |rate: f64| bottom - rate / brim * (bottom - top);

        for number in 0..=whole(brim / step_y) {
            let at = number as f64 * step_y;
            let (y, right) = (y(at), WIDTH - RIGHT);
            out.line(&format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>"));
            out.text((LEFT - 8.0, y + 4.0), "end", &short(at));
        }
        out.text((24.0, (top + bottom) / 2.0), "start", "jobs/s");
        self.draw_times(out, (top, bottom));
        for (name, counts, colour) in [("pushes", &self.pushes, PUSHES), ("acks", &self.acks, ACKS)]
        {
            let point = |(bin, count): (usize, &u64)| {
                let at = self.from + (bin as f64 + 0.5) * self.bin;
                format!("{:.1},{:.1}", self.x(at), y(rate(*count)))
            };
            let points: Vec<String> = counts.iter().enumerate().map(point).collect();
            let points = points.join(" ");
            out.line(&format!(
                "<polyline class=\"{name}\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"1.5\" points=\"{points}\"/>"
            ));
        }
    }

    /// The axis, and what happened at the end.
    fn draw_times(&self, out: &mut Svg, (top, bottom): (f64, f64)) {
        let every = step(self.to - self.from, STEPS_X).max(1.0);
        let first = (self.from / every).ceil();
        for number in 0..=whole(self.to / every - first) {
            let at = (first + number as f64) * every;
            out.text((self.x(at), HEIGHT - 14.0), "middle", &format!("{} s", short(at)));
        }
        // One below the other: they may be close.
        let end = self.end.map(|end| {
            [("healed", end.healed_ns, top + 10.0), ("drained", end.drained_ns, top + 22.0)]
        });
        for (name, at_ns, y) in end.into_iter().flatten().filter(|(_, at_ns, _)| *at_ns != 0) {
            let x = self.x(seconds(at_ns));
            out.line(&format!(
                "<path d=\"M{x:.1} {top:.1}V{bottom}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>"
            ));
            out.text((x - 4.0, y), "end", name);
        }
    }
}

/// Something that lasted.
struct Bar {
    from: f64,
    to: f64,
    colour: &'static str,
    told: String,
}

/// The text of a picture.
struct Svg(String);

impl Svg {
    fn begin(title: &str) -> Self {
        let mut out = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        ));
        let title = escaped(title);
        out.line(&format!("<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>"));
        out
    }

    fn line(&mut self, text: &str) {
        writeln!(self.0, "{text}").expect("a String takes everything");
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = escaped(text);
        self.line(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222\">{text}</text>"
        ));
    }

    fn end(self) -> String {
        self.0 + "</svg>\n"
    }
}

fn is_push(call: &Call) -> bool {
    call.outcome.is_ok() && matches!(call.what, What::Push { .. })
}

fn is_ack(call: &Call) -> bool {
    call.outcome.is_ok() && matches!(call.what, What::Settle { how: How::Ack, .. })
}

/// The kind, without how; or all that is said if nobody knows it.
fn kind_of(name: &str) -> &str {
    let known = Kind::ALL.iter().map(|kind| kind.name()).find(|kind| name.starts_with(kind));
    known.unwrap_or(name)
}

/// The number of a node that calls itself n1, n2, …; 0: not known.
fn number_of(name: &str) -> u8 {
    name.strip_prefix('n').and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn name_of(node: u8) -> String {
    match node {
        0 => "the database, or all".to_owned(),
        node => format!("n{node}"),
    }
}

fn colour_of(node: u8) -> &'static str {
    match node {
        0 => ALL,
        node => NODES[usize::from(node - 1) % NODES.len()],
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The distance between two marks so that there are not more than `count` up to `length`: 1, 2 or 5
/// times a power of ten.
fn step(length: f64, count: f64) -> f64 {
    let power = 10_f64.powf((length / count).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps.into_iter().find(|step| length / step <= count).unwrap_or(power * 10.0)
}

/// How many bins or marks there are up to here. One that is there but for rounding is there.
fn whole(count: f64) -> usize {
    (count + 1e-6) as usize
}

/// As people write it: 15000 is 15 k.
fn short(number: f64) -> String {
    match number >= 10_000.0 {
        true => format!("{} k", number / 1000.0),
        false => format!("{}", (number * 10.0).round() / 10.0),
    }
}

fn escaped(text: &str) -> String {
    // What is no character of XML can not be written at all.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
