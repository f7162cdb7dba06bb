//! The rate over time, as a picture.

use std::fmt::Write as _;

use super::meter::Sample;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 360.0;
/// Room for what is written beside the axes.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;

/// Lines across the picture, at most.
const STEPS_MAX: f64 = 6.0;

/// Jobs in a second over the seconds of a run.
pub(super) fn svg(title: &str, samples: &[Sample]) -> String {
    let end = samples.last().map_or(1.0, |sample| sample.at);
    let highest = samples.iter().map(|sample| sample.rate).fold(1.0, f64::max);
    let step = step(highest);
    let top = (highest / step).ceil() * step;
    let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}: jobs/s</text>\n"
    );
    for number in 0..=whole(top / step) {
        let rate = f64::from(number) * step;
        let (y, right, before) = (y(rate), WIDTH - RIGHT, LEFT - 8.0);
        line(&mut out, &format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>"));
        let label = short(rate);
        let at = format!("x=\"{before}\" y=\"{:.1}\" text-anchor=\"end\"", y + 4.0);
        line(&mut out, &format!("<text {at}>{label}</text>"));
    }
    let every = self::step(end);
    for number in 0..=whole(end / every) {
        let at = f64::from(number) * every;
        let place = format!("x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\"", x(at), HEIGHT - 20.0);
        line(&mut out, &format!("<text {place}>{} s</text>", short(at)));
    }
    let points: Vec<String> =
        samples.iter().map(|one| format!("{:.1},{:.1}", x(one.at), y(one.rate))).collect();
    let style = "fill=\"none\" stroke=\"#0a6\" stroke-width=\"2\"";
    line(&mut out, &format!("<polyline {style} points=\"{}\"/>", points.join(" ")));
    out + "</svg>\n"
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes everything");
}

/// The distance between two lines so that few of them reach up to `highest`: 1, 2 or 5 times a
/// power of ten.
fn step(highest: f64) -> f64 {
    let power = 10_f64.powf((highest / STEPS_MAX).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| highest / step <= STEPS_MAX).unwrap_or(power * 10.0)
}

fn whole(count: f64) -> u32 {
    // It is between 0 and a few.
    count as u32
}

/// As people write it: 150000 is 150 k.
fn short(number: f64) -> String {
    match number >= 1000.0 {
        true => format!("{} k", number / 1000.0),
        false => format!("{}", (number * 10.0).round() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_at_round_numbers() {
        for (highest, expected) in
            [(0.9, 0.2), (6.0, 1.0), (7.0, 2.0), (60.0, 10.0), (171_234.0, 50_000.0)]
        {
            let step = step(highest);
            assert!((step - expected).abs() < expected / 1e6, "{highest}: {step}");
        }
    }

    #[test]
    fn numbers_are_written_short() {
        let shown = [0.0, 0.2, 500.0, 1000.0, 2500.0, 150_000.0].map(short);
        assert_eq!(shown, ["0", "0.2", "500", "1 k", "2.5 k", "150 k"]);
    }
}
