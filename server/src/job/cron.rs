//! When a schedule makes jobs. Pure: the time is handed in, the time zones are built in.
//!
//! A rule is a cron expression with five fields, or six with seconds first, read in a time zone of
//! the IANA database; or `@every` and a period. Its *slots* are instants. If both the day and the
//! weekday are something else than `*`, either is enough.
//!
//! # When the clocks change
//!
//! As in Vixie cron, it depends on whether the minute or hour field begins with `*`:
//!
//! * If neither does, the rule names *fixed times*. One that does not exist (the clocks go forward
//!   over it) is the next instant that does. One that comes twice (the clocks go back) is the first
//!   of the two. Several that become the same instant are one slot.
//! * If one does, the rule is about the *hands of the clock*: it fires whenever they match, in both
//!   hours if an hour comes twice, and not at all in one that is left out.
//!
//! The library reads expressions and enumerates local times; which instants those are is decided
//! here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;

use super::{InvalidField, Timestamp};
use crate::limits;

/// How far a fixed time is looked for before the local time: more than any clock goes back at once.
const BACK: i64 = 3 * 3600;

/// No slots are looked for beyond the year 2200.
const LAST_SECOND: i64 = 7_258_118_400;

/// When a schedule makes jobs.
#[derive(Debug, Clone)]
pub struct CronRule {
    expression: String,
    timezone: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Multiples of so many seconds since 1970.
    Every(i64),
    /// At fixed times.
    Fixed(Box<Cron>, TimeZone),
    /// Whenever the hands of the clock match.
    Hands(Box<Cron>, TimeZone),
}

impl PartialEq for CronRule {
    fn eq(&self, other: &Self) -> bool {
        (&self.expression, &self.timezone) == (&other.expression, &other.timezone)
    }
}

impl CronRule {
    /// Reads a rule. An empty time zone is UTC.
    ///
    /// # Errors
    ///
    /// If it is none, or never has a slot; naming `schedule` or `timezone`.
    pub fn parse(expression: &str, timezone: &str) -> Result<Self, InvalidField> {
        let invalid = |detail: String| InvalidField::new("schedule", detail);
        let expression = expression.trim();
        if expression.len() > limits::CRON_BYTES_MAX {
            return Err(invalid(format!("longer than {} bytes", limits::CRON_BYTES_MAX)));
        }
        let timezone = if timezone.is_empty() { "UTC" } else { timezone };
        let zone = TimeZone::get(timezone).map_err(|_| {
            let fix = "must be a name of the IANA database, as Europe/Berlin or UTC";
            InvalidField::new("timezone", fix)
        })?;
        let kind = match expression.strip_prefix("@every") {
            Some(period) => Kind::Every(parse_period(period.trim()).map_err(invalid)?),
            None => parse_cron(expression, zone).map_err(invalid)?,
        };
        let rule = Self { expression: expression.into(), timezone: timezone.into(), kind };
        match rule.next(Timestamp(1_600_000_000_000)) {
            Some(_) => Ok(rule),
            None => Err(InvalidField::new("schedule", "never comes: there is no such date")),
        }
    }

    /// As it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Its time zone.
    pub fn timezone(&self) -> &str {
        &self.timezone
    }

    /// The first slot after `after`, in whole seconds. `None`: there is none until the year 2200.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.0.div_euclid(1000);
        let slot = match &self.kind {
            Kind::Every(period) => Some((after.div_euclid(*period) + 1) * period),
            Kind::Fixed(cron, zone) => next_fixed(cron, zone, after),
            Kind::Hands(cron, zone) => next_by_hands(cron, zone, after),
        };
        slot.filter(|slot| *slot < LAST_SECOND).map(|slot| Timestamp(slot * 1000))
    }

    /// The last slots in `after..=until`, at most `count`, in order.
    pub fn last(&self, after: Timestamp, until: Timestamp, count: usize) -> Vec<Timestamp> {
        // Look back further and further: each time there is at most a few times too much.
        let mut back = Duration::from_secs(60);
        loop {
            let from = Timestamp(until.0.saturating_sub(millis(back)).max(after.0));
            let mut slots = self.between(from, until);
            if slots.len() >= count || from == after {
                slots.drain(..slots.len().saturating_sub(count));
                return slots;
            }
            back *= 2;
        }
    }

    /// How many slots there are in `after..=until`, counted up to `most`.
    pub fn count(&self, after: Timestamp, until: Timestamp, most: usize) -> usize {
        let slots = std::iter::successors(self.next(after), |slot| self.next(*slot));
        slots.take_while(|slot| *slot <= until).take(most).count()
    }

    fn between(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let slots = std::iter::successors(self.next(after), |slot| self.next(*slot));
        slots.take_while(|slot| *slot <= until).collect()
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn parse_period(text: &str) -> Result<i64, String> {
    let wrong = || "@every needs a time, as @every 30s, 5m, 2h, 1d or 1h30m".to_owned();
    let (mut total, mut number) = (0_i64, String::new());
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: i64 = number.parse().map_err(|_| wrong())?;
        total =
            count.checked_mul(unit).and_then(|time| time.checked_add(total)).ok_or_else(wrong)?;
        number.clear();
    }
    let range = limits::CRON_EVERY;
    let is_in_range = u64::try_from(total).is_ok_and(|it| range.contains(&Duration::from_secs(it)));
    match number.is_empty() && is_in_range {
        true => Ok(total),
        false => Err(format!("{}, from 1s to 366d", wrong())),
    }
}

fn parse_cron(expression: &str, zone: TimeZone) -> Result<Kind, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(expression).map_err(|error| {
        let fix = "write five fields, minute hour day month weekday, or six with seconds first";
        format!("{error}: {fix}")
    })?;
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let (minute, hour) = match fields[..] {
        [nickname] if nickname.eq_ignore_ascii_case("@hourly") => ("0", "*"),
        [_] => ("0", "0"),
        [minute, hour, _, _, _] | [_, minute, hour, _, _, _] => (minute, hour),
        _ => return Err("has neither five nor six fields".into()),
    };
    let is_by_hands = minute.starts_with('*') || hour.starts_with('*');
    Ok(match is_by_hands {
        true => Kind::Hands(Box::new(cron), zone),
        false => Kind::Fixed(Box::new(cron), zone),
    })
}

/// The first local time after `local` that matches, both as if they were seconds of UTC.
fn next_local(cron: &Cron, local: i64) -> Option<i64> {
    if local >= LAST_SECOND {
        return None;
    }
    let local: DateTime<Utc> = DateTime::from_timestamp(local, 0)?;
    cron.find_next_occurrence(&local, false).ok().map(|next| next.timestamp())
}

fn offset(zone: &TimeZone, at: i64) -> i64 {
    let at = jiff::Timestamp::from_second(at).unwrap_or(jiff::Timestamp::MAX);
    i64::from(zone.to_offset(at).seconds())
}

/// The next instant after `at` at which the zone's clocks change.
fn next_change(zone: &TimeZone, at: i64) -> Option<i64> {
    let at = jiff::Timestamp::from_second(at).ok()?;
    zone.following(at).next().map(|change| change.timestamp().as_second())
}

fn next_fixed(cron: &Cron, zone: &TimeZone, after: i64) -> Option<i64> {
    let mut local = after + offset(zone, after) - BACK;
    loop {
        local = next_local(cron, local)?;
        let at = instant(zone, local)?;
        if at > after {
            return Some(at);
        }
    }
}

/// The instant of a local time: the first of two, or the first after those that are left out.
fn instant(zone: &TimeZone, local: i64) -> Option<i64> {
    // A day before it, the clocks had not changed yet, or long ago.
    let before = offset(zone, local - 86_400 - 14 * 3600);
    let mut at = local - 86_400 - before;
    let mut offset_now = offset(zone, at);
    loop {
        let change = next_change(zone, at).filter(|change| *change <= local + 15 * 3600);
        let candidate = local - offset_now;
        let Some(change) = change else { return Some(candidate) };
        if candidate < change {
            return Some(candidate);
        }
        let offset_then = offset(zone, change);
        // The clocks went forward over it.
        if local < change + offset_then {
            return Some(change);
        }
        (at, offset_now) = (change, offset_then);
    }
}

fn next_by_hands(cron: &Cron, zone: &TimeZone, after: i64) -> Option<i64> {
    let mut from = after;
    let mut offset_now = offset(zone, from);
    loop {
        let candidate = next_local(cron, from + offset_now)? - offset_now;
        match next_change(zone, from) {
            Some(change) if candidate >= change => {
                offset_now = offset(zone, change);
                // The change itself may be a slot.
                let first = next_local(cron, change - 1 + offset_now)? - offset_now;
                if first == change {
                    return Some(first);
                }
                from = change;
            }
            _ => return Some(candidate),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn slots(rule: (&str, &str), after: &str, count: usize) -> Vec<String> {
        let rule = CronRule::parse(rule.0, rule.1).unwrap();
        let slots = std::iter::successors(rule.next(at(after)), |slot| rule.next(*slot));
        let text = |slot: Timestamp| jiff::Timestamp::from_millisecond(slot.0).unwrap().to_string();
        slots.take(count).map(text).collect()
    }

    #[test]
    fn expressions_of_all_kinds_have_their_slots() {
        for (rule, after, expected) in [
            ("*/5 * * * *", "2026-01-01T00:00:01Z", "2026-01-01T00:05:00Z"),
            ("30 */10 * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:10:30Z"),
            ("0 9 * * MON-FRI", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 1 JAN *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 L * *", "2026-02-01T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("0 0 13 * FRI", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z"),
            ("@hourly", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
            ("@every 1h30m", "1970-01-01T00:00:00Z", "1970-01-01T01:30:00Z"),
        ] {
            assert_eq!(slots((rule, ""), after, 1), [expected], "{rule}");
        }
    }

    #[test]
    fn a_fixed_time_that_does_not_exist_is_the_next_that_does() {
        let berlin = ("30 2 * * *", "Europe/Berlin");
        let expected = ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(slots(berlin, "2026-03-28T12:00:00Z", 2), expected);
        let both = ("0,30 2 * * *", "Europe/Berlin");
        let expected = ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"];
        assert_eq!(slots(both, "2026-03-28T12:00:00Z", 2), expected);
        let new_york = ("15 2 * * *", "America/New_York");
        assert_eq!(slots(new_york, "2026-03-08T00:00:00Z", 1), ["2026-03-08T07:00:00Z"]);
        let half = ("15 2 * * *", "Australia/Lord_Howe");
        assert_eq!(slots(half, "2026-10-03T00:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
        let skipped_day = ("0 12 30 12 *", "Pacific/Apia");
        assert_eq!(slots(skipped_day, "2011-12-29T12:00:00Z", 1), ["2011-12-30T10:00:00Z"]);
    }

    #[test]
    fn a_fixed_time_that_comes_twice_is_the_first() {
        let berlin = ("30 2 * * *", "Europe/Berlin");
        let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(slots(berlin, "2026-10-24T12:00:00Z", 2), expected);
        let half = ("45 1 * * *", "Australia/Lord_Howe");
        let expected = ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"];
        assert_eq!(slots(half, "2026-04-04T12:00:00Z", 2), expected);
    }

    #[test]
    fn by_the_hands_of_the_clock_it_fires_in_both_hours_and_in_none() {
        let half_past = ("30 * * * *", "Europe/Berlin");
        let expected = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
        assert_eq!(slots(half_past, "2026-10-25T00:00:00Z", 3), expected);
        let at_two = ("*/30 2 * * *", "Europe/Berlin");
        let expected = ["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(slots(at_two, "2026-03-28T12:00:00Z", 2), expected);
        let expected = [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-26T01:00:00Z",
        ];
        assert_eq!(slots(at_two, "2026-10-24T12:00:00Z", 5), expected);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (rule, zone, field) in [
            ("", "", "schedule"),
            ("* * * *", "", "schedule"),
            ("* * * * * * 2027", "", "schedule"),
            ("61 * * * *", "", "schedule"),
            ("0 0 30 2 *", "", "schedule"),
            ("@every", "", "schedule"),
            ("@every 0s", "", "schedule"),
            ("@every 5", "", "schedule"),
            ("@every 367d", "", "schedule"),
            ("@every 99999999999999d", "", "schedule"),
            ("@sometimes", "", "schedule"),
            ("0 0 * * *", "Mars/Olympus", "timezone"),
        ] {
            assert_eq!(CronRule::parse(rule, zone).unwrap_err().field, field, "{rule:?} {zone:?}");
        }
        assert!(CronRule::parse(&"0,".repeat(200), "").is_err());
    }

    #[test]
    fn the_last_slots_are_found_however_many_there_were() {
        let rule = CronRule::parse("* * * * * *", "").unwrap();
        let (after, until) = (at("2016-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        let last = rule.last(after, until, 3);
        assert_eq!(last, [-2_000, -1_000, 0].map(|back| Timestamp(until.0 + back)));
        assert_eq!(rule.count(after, until, 10_000), 10_000);
        let yearly = CronRule::parse("@yearly", "").unwrap();
        assert_eq!(yearly.last(after, until, 100).len(), 10);
        assert_eq!(yearly.count(after, until, 10_000), 10);
    }

    /// A field as text, and what it stands for.
    fn field(least: u8, most: u8) -> impl Strategy<Value = (String, BTreeSet<u8>)> {
        let all: BTreeSet<u8> = (least..=most).collect();
        let step = move |(from, step): (u8, u8)| {
            let text = format!("{from}-{most}/{step}");
            (text, (from..=most).step_by(step.into()).collect())
        };
        let range = move |(a, b): (u8, u8)| {
            let (from, to) = (a.min(b), a.max(b));
            (format!("{from}-{to}"), (from..=to).collect())
        };
        let list = |values: BTreeSet<u8>| {
            let text: Vec<String> = values.iter().map(u8::to_string).collect();
            (text.join(","), values)
        };
        let every = (2..20_u8).prop_map(move |step| {
            (format!("*/{step}"), (least..=most).step_by(step.into()).collect())
        });
        prop_oneof![
            2 => Just(("*".to_owned(), all)),
            2 => (least..=most).prop_map(|value| (value.to_string(), BTreeSet::from([value]))),
            1 => (least..=most, 1..20_u8).prop_map(step),
            1 => (least..=most, least..=most).prop_map(range),
            1 => proptest::collection::btree_set(least..=most, 1..4).prop_map(list),
            1 => every,
        ]
    }

    type Field = (String, BTreeSet<u8>);

    #[derive(Debug, Clone)]
    struct Expression {
        minute: Field,
        hour: Field,
        day: Field,
        month: Field,
        weekday: Field,
    }

    impl Expression {
        fn text(&self) -> String {
            let Self { minute, hour, day, month, weekday } = self;
            format!("{} {} {} {} {}", minute.0, hour.0, day.0, month.0, weekday.0)
        }

        fn matches(&self, local: jiff::civil::DateTime) -> bool {
            self.minute.1.contains(&(local.minute() as u8))
                && self.hour.1.contains(&(local.hour() as u8))
                && self.matches_day(local.date())
        }

        fn matches_day(&self, date: jiff::civil::Date) -> bool {
            let is_day = self.day.1.contains(&(date.day() as u8));
            let weekday = date.weekday().to_sunday_zero_offset() as u8;
            let is_weekday = self.weekday.1.contains(&weekday);
            let is_free = |field: &Field| field.0 == "*";
            let is_right = match is_free(&self.day) || is_free(&self.weekday) {
                true => is_day && is_weekday,
                false => is_day || is_weekday,
            };
            is_right && self.month.1.contains(&(date.month() as u8))
        }

        fn is_by_hands(&self) -> bool {
            self.minute.0.starts_with('*') || self.hour.0.starts_with('*')
        }
    }

    prop_compose! {
        fn expression()(
            minute in field(0, 59),
            hour in field(0, 23),
            day in prop_oneof![3 => Just(("*".to_owned(), (1..=31).collect())), 1 => field(1, 31)],
            month in prop_oneof![3 => Just(("*".to_owned(), (1..=12).collect())), 1 => field(1, 12)],
            weekday in prop_oneof![3 => Just(("*".to_owned(), (0..=6).collect())), 1 => field(0, 6)],
        ) -> Expression {
            Expression { minute, hour, day, month, weekday }
        }
    }

    /// Zones with all kinds of changes.
    const ZONES: [&str; 30] = [
        "UTC",
        "Europe/Berlin",
        "Europe/London",
        "Europe/Dublin",
        "Europe/Lisbon",
        "Europe/Istanbul",
        "Europe/Chisinau",
        "America/New_York",
        "America/Chicago",
        "America/Denver",
        "America/Los_Angeles",
        "America/St_Johns",
        "America/Sao_Paulo",
        "America/Santiago",
        "America/Asuncion",
        "America/Havana",
        "America/Nuuk",
        "Africa/Casablanca",
        "Africa/Cairo",
        "Africa/Johannesburg",
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "Asia/Tehran",
        "Asia/Beirut",
        "Asia/Gaza",
        "Asia/Tokyo",
        "Australia/Lord_Howe",
        "Australia/Adelaide",
        "Pacific/Apia",
        "Pacific/Chatham",
    ];

    /// The slots of two days by looking at every minute there is, and every one that there is not.
    fn reference(expression: &Expression, zone: &TimeZone, from: i64, until: i64) -> BTreeSet<i64> {
        let instant = |second| jiff::Timestamp::from_second(second).unwrap();
        let minutes = (from.div_euclid(60) - 1440..=until.div_euclid(60)).map(|it| it * 60);
        let mut slots = BTreeSet::new();
        if expression.is_by_hands() {
            slots.extend(minutes.filter(|it| expression.matches(zone.to_datetime(instant(*it)))));
        } else {
            let first = zone.to_datetime(instant(from - 2 * 86_400));
            let first = first.with().second(0).build().unwrap();
            for minute in 0..(until - from) / 60 + 4 * 1440 {
                let local = first + jiff::SignedDuration::from_mins(minute);
                if expression.matches(local) {
                    let (earlier, later) = match zone.to_ambiguous_timestamp(local).offset() {
                        jiff::tz::AmbiguousOffset::Unambiguous { offset } => (offset, None),
                        jiff::tz::AmbiguousOffset::Fold { before, .. } => (before, None),
                        jiff::tz::AmbiguousOffset::Gap { before, after } => (after, Some(before)),
                    };
                    let naive = earlier.to_timestamp(local).unwrap().as_second();
                    // Of a gap: the change lies between the two readings of the local time.
                    slots.insert(match later {
                        None => naive,
                        Some(_) => zone
                            .following(instant(naive - 1))
                            .next()
                            .expect("the clocks change there")
                            .timestamp()
                            .as_second(),
                    });
                }
            }
        }
        slots.into_iter().filter(|slot| *slot > from && *slot <= until).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..<_>::default() })]

        #[test]
        fn slots_are_those_of_the_reference(
            expression in expression(),
            zone in proptest::sample::select(&ZONES[..]),
            // 2020 to 2035; half of the times near a change of the clocks.
            from in 1_577_836_800..2_082_758_400_i64,
            is_near in any::<bool>(),
        ) {
            let tz = TimeZone::get(zone).unwrap();
            let near = next_change(&tz, from).filter(|it| is_near && *it < 2_082_758_400);
            let from = near.map_or(from, |change| change - 86_000);
            let until = from + 2 * 86_400;
            let Ok(rule) = CronRule::parse(&expression.text(), zone) else {
                return Ok(());
            };
            let slots = rule.between(Timestamp(from * 1000), Timestamp(until * 1000));
            let slots: BTreeSet<i64> = slots.into_iter().map(|slot| slot.0 / 1000).collect();
            let expected = reference(&expression, &tz, from, until);
            let differing: Vec<&i64> = slots.symmetric_difference(&expected).take(5).collect();
            let text = expression.text();
            prop_assert!(differing.is_empty(), "{text} in {zone} from {from}: {differing:?}");
        }
    }
}
