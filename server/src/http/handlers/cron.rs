//! Schedules.

use hyper::StatusCode;

use super::{Answered, Call, ok};
use crate::error::Error;
use crate::http::model::cron::{FiresBody, PutScheduleBody, ScheduleBody, SchedulesBody};
use crate::http::model::look::NoBody;
use crate::http::model::push::PushedBody;
use crate::job::ScheduleName;
use crate::store::Pausing;

impl Call {
    fn schedule(&self) -> Result<ScheduleName, Error> {
        Ok(ScheduleName::parse(self.named("name"))?)
    }
}

pub(in crate::http) async fn put(call: Call, put: PutScheduleBody) -> Answered<ScheduleBody> {
    let name = call.schedule()?;
    let is_new = call.door.broker.put_schedule(name.clone(), put.into_spec()?).await?;
    let schedule = call.door.broker.schedule(name).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, schedule.into()))
}

pub(in crate::http) async fn one(call: Call, _: NoBody) -> Answered<ScheduleBody> {
    ok(call.door.broker.schedule(call.schedule()?).await?.into())
}

pub(in crate::http) async fn list(call: Call, _: NoBody) -> Answered<SchedulesBody> {
    let (after, limit) = call.query.schedules()?;
    let schedules = call.door.broker.schedules(after, limit).await?;
    ok(SchedulesBody::new(schedules, limit))
}

pub(in crate::http) async fn delete(call: Call) -> Result<(), Error> {
    call.door.broker.delete_schedule(call.schedule()?).await
}

pub(in crate::http) async fn pause(call: Call, _: NoBody) -> Answered<ScheduleBody> {
    set_paused(call, Pausing::Pause).await
}

pub(in crate::http) async fn resume(call: Call, _: NoBody) -> Answered<ScheduleBody> {
    set_paused(call, Pausing::Resume).await
}

async fn set_paused(call: Call, pausing: Pausing) -> Answered<ScheduleBody> {
    let name = call.schedule()?;
    call.door.broker.pause_schedule(name.clone(), pausing).await?;
    ok(call.door.broker.schedule(name).await?.into())
}

pub(in crate::http) async fn run(call: Call, _: NoBody) -> Answered<PushedBody> {
    Ok((StatusCode::CREATED, call.door.broker.run_schedule(call.schedule()?).await?.into()))
}

pub(in crate::http) async fn history(call: Call, _: NoBody) -> Answered<FiresBody> {
    let limit = call.query.limit()?;
    let fires = call.door.broker.fires(call.schedule()?, limit).await?;
    ok(FiresBody { fires: fires.into_iter().map(Into::into).collect() })
}
