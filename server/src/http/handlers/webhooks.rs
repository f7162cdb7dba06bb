//! Webhooks.

use hyper::StatusCode;

use super::{Answered, Call, ok};
use crate::error::Error;
use crate::http::model::look::NoBody;
use crate::http::model::webhook::{PutWebhookBody, WebhookBody, WebhooksBody};
use crate::job::WebhookName;

impl Call {
    fn webhook(&self) -> Result<WebhookName, Error> {
        Ok(WebhookName::parse(self.named("name"))?)
    }
}

pub(in crate::http) async fn put(call: Call, put: PutWebhookBody) -> Answered<WebhookBody> {
    let name = call.webhook()?;
    let (spec, secret) = put.parse(call.door.reach)?;
    let is_new = call.door.broker.put_webhook(name.clone(), spec, secret).await?;
    let webhook = call.door.broker.webhook(&name).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, webhook.into()))
}

pub(in crate::http) async fn one(call: Call, _: NoBody) -> Answered<WebhookBody> {
    ok(call.door.broker.webhook(&call.webhook()?).await?.into())
}

pub(in crate::http) async fn list(call: Call, _: NoBody) -> Answered<WebhooksBody> {
    let webhooks = call.door.broker.webhooks().await?;
    ok(WebhooksBody { webhooks: webhooks.into_iter().map(Into::into).collect() })
}

pub(in crate::http) async fn delete(call: Call) -> Result<(), Error> {
    call.door.broker.delete_webhook(call.webhook()?).await
}
