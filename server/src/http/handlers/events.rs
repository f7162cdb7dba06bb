//! What happens, as it happens.

use hyper::Response;

use super::Call;
use crate::error::Error;
use crate::http::live::{self, Body};

pub(in crate::http) async fn listen(call: Call) -> Result<Response<Body>, Error> {
    let (filter, after) = call.query.events(call.last_event_id.as_deref())?;
    let listener = call.door.broker.listen(filter, after).await?;
    Ok(live::stream_of(listener, &call.door))
}
