//! Schedules, as clients of flashQ make them: crons.
//!
//! A cron is a schedule in UTC whose job is pushed as if by `PUSH`. Putting one of a name that is
//! taken begins anew: what the old one has done is forgotten. One that has come to its end is gone
//! as far as clients can see.
//!
//! A slot is in whole seconds. A period that is not is rounded up, and slots of a period are the
//! multiples of it since 1970.

use batonq_protocol::ErrorCode;
use serde_json::Value;

use super::flow::job_of;
use super::job::{at, object};
use super::look::check_bytes;
use super::options::Extra;
use super::{Answer, Client, Fields, Refused, fields};
use crate::error::Error;
use crate::job::{CatchUp, CronRule, Overlap, QueueName, ScheduleName, ScheduleSpec};
use crate::limits;
use crate::store::Schedule;

/// Schedules that are read at once, with their payloads.
const AT_ONCE: usize = 50;

pub(super) async fn cron(client: Client<'_>, fields: Fields) -> Answer {
    let name = ScheduleName::parse(fields::text(&fields, "name")?)?;
    let schedule = fields::opt_text(&fields, "schedule")?;
    let repeat_every = fields::opt_number(&fields, "repeat_every")?;
    let rule = rule_of(schedule, repeat_every)?;
    let runs_max = fields::opt_number(&fields, "limit")?;
    let mut job = job_of(&fields)?;
    job.options.extra = Extra { repeat_every, ..Extra::of(&job.options) }.kept();
    let spec = ScheduleSpec {
        rule,
        overlap: Overlap::default(),
        catch_up: CatchUp::default(),
        jitter: std::time::Duration::ZERO,
        ends_at: None,
        runs_max,
        job,
    };
    // What is refused must not have taken the old one away.
    let spec = spec.check()?;
    delete(&client, name.clone()).await?;
    client.door.broker.put_schedule(name, spec).await?;
    Ok(Fields::new())
}

/// When a cron fires. A period comes before an expression.
fn rule_of(schedule: Option<&str>, repeat_every: Option<u64>) -> Result<CronRule, Refused> {
    if let Some(millis) = repeat_every {
        let wrong = |_| Refused::invalid(format_args!("repeat_every is too long: {millis}"));
        return every(millis.div_ceil(1000)).map_err(wrong);
    }
    let Some(schedule) = schedule else {
        return Err(Refused(
            "Must provide either 'schedule' or 'repeat_every'".into(),
            ErrorCode::Invalid,
        ));
    };
    let schedule = schedule.trim();
    if schedule.len() > limits::CRON_BYTES_MAX {
        let max = limits::CRON_BYTES_MAX;
        return Err(Refused(
            format!("Invalid cron expression: longer than {max} bytes"),
            ErrorCode::Invalid,
        ));
    }
    let interval = schedule.strip_prefix("*/").filter(|rest| !rest.contains(char::is_whitespace));
    if let Some(seconds) = interval {
        let wrong = || Refused(format!("Invalid interval format: {schedule}"), ErrorCode::Invalid);
        return every(seconds.parse().map_err(|_| wrong())?).map_err(|_| wrong());
    }
    CronRule::parse(schedule, "").map_err(|invalid| {
        Refused(
            format!("Invalid cron expression '{schedule}': {}", invalid.detail),
            ErrorCode::Invalid,
        )
    })
}

/// Every so many seconds, though not more often than each.
fn every(seconds: u64) -> Result<CronRule, Error> {
    Ok(CronRule::parse(&format!("@every {}s", seconds.max(1)), "")?)
}

/// An expression as a client may have written it.
fn written(expression: &str) -> String {
    let seconds = expression.strip_prefix("@every ").and_then(|rest| rest.strip_suffix('s'));
    match seconds.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(seconds) => format!("*/{seconds}"),
        None => expression.into(),
    }
}

pub(super) async fn crondelete(client: Client<'_>, fields: Fields) -> Answer {
    let name = ScheduleName::parse(fields::text(&fields, "name")?);
    let is_gone = match name {
        Ok(name) => delete(&client, name).await?,
        // There can be none of that name.
        Err(_) => false,
    };
    match is_gone {
        true => Ok(Fields::new()),
        false => Err(Refused("Cron job not found".into(), ErrorCode::NotFound)),
    }
}

/// False: there was none.
async fn delete(client: &Client<'_>, name: ScheduleName) -> Result<bool, Refused> {
    match client.door.broker.delete_schedule(name).await {
        Ok(()) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes the schedules of a queue.
pub(super) async fn delete_all_of(client: &Client<'_>, queue: &QueueName) -> Result<(), Refused> {
    let mut after = None;
    loop {
        let page = client.door.broker.schedules(after, AT_ONCE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.name.clone());
        for schedule in page.into_iter().filter(|it| it.spec.job.queue == *queue) {
            delete(client, schedule.name).await?;
        }
    }
}

pub(super) async fn cronlist(client: Client<'_>, _: Fields) -> Answer {
    let (mut after, mut crons, mut bytes) = (None, Vec::new(), 0);
    loop {
        let page = client.door.broker.schedules(after, AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for schedule in page.iter().filter(|schedule| schedule.next_at.is_some()) {
            bytes += schedule.spec.job.payload.bytes.len();
            crons.push(shown(schedule));
        }
        check_bytes(bytes)?;
    }
    let crons = Value::Array(crons);
    // Some clients read the one, some the other.
    Ok(object([("jobs", crons.clone()), ("crons", crons)]))
}

fn shown(schedule: &Schedule) -> Value {
    let (spec, job) = (&schedule.spec, &schedule.spec.job);
    let repeat_every = Extra::of(&job.options).repeat_every;
    let expression = match repeat_every {
        Some(_) => Value::Null,
        None => written(spec.rule.expression()).into(),
    };
    Value::Object(object([
        ("name", schedule.name.as_str().into()),
        ("queue", job.queue.as_str().into()),
        ("data", fields::shown(&job.payload.bytes)),
        ("schedule", expression),
        ("repeat_every", repeat_every.into()),
        ("priority", job.priority.into()),
        ("next_run", schedule.next_at.map_or(0, at).into()),
        ("executions", schedule.runs.into()),
        ("limit", spec.runs_max.into()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Timestamp;

    fn refusal(schedule: Option<&str>, repeat_every: Option<u64>) -> String {
        rule_of(schedule, repeat_every).unwrap_err().0
    }

    /// The first slots from 1970 on, in seconds.
    fn slots(schedule: Option<&str>, repeat_every: Option<u64>) -> [i64; 2] {
        let rule = rule_of(schedule, repeat_every).unwrap();
        let first = rule.next(Timestamp(0)).unwrap();
        [first, rule.next(first).unwrap()].map(|at| at.0 / 1000)
    }

    #[test]
    fn all_forms_of_a_schedule_have_their_slots() {
        for (schedule, repeat_every, expected) in [
            (Some("*/5"), None, [5, 10]),
            (Some("*/90"), None, [90, 180]),
            (Some("*/0"), None, [1, 2]),
            (Some("*/30 * * * * *"), None, [30, 60]),
            (Some("*/5 * * * *"), None, [300, 600]),
            (Some("15 * * * * *"), None, [15, 75]),
            (Some("0 2 * * ?"), None, [7200, 93_600]),
            (Some("@daily"), None, [86_400, 172_800]),
            (Some("@hourly"), None, [3600, 7200]),
            (None, Some(30_000), [30, 60]),
            (None, Some(1500), [2, 4]),
            (None, Some(0), [1, 2]),
            (Some("nonsense"), Some(1000), [1, 2]),
        ] {
            assert_eq!(slots(schedule, repeat_every), expected, "{schedule:?} {repeat_every:?}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_the_words_that_clients_know() {
        assert_eq!(refusal(None, None), "Must provide either 'schedule' or 'repeat_every'");
        assert_eq!(refusal(Some("*/x"), None), "Invalid interval format: */x");
        assert_eq!(refusal(Some("*/"), None), "Invalid interval format: */");
        assert!(refusal(Some("61 * * * *"), None).starts_with("Invalid cron expression '61"));
        assert!(refusal(Some(""), None).starts_with("Invalid cron expression ''"));
        assert!(refusal(Some(&"*".repeat(300)), None).contains("longer than 256"));
        assert!(refusal(None, Some(u64::MAX)).starts_with("Invalid: repeat_every"));
    }

    #[test]
    fn a_schedule_is_shown_as_it_was_written() {
        for text in ["*/5", "0 2 * * *", "@daily", "@every 1h30m"] {
            let rule = rule_of(Some(text), None).unwrap();
            assert_eq!(written(rule.expression()), text);
        }
    }
}
