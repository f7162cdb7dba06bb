//! Webhooks as clients of flashQ make them: ours, whose deliveries have flashQ's format. They are
//! kept, retried and guarded as ours are. Webhooks of our own format are not seen from here.

use serde_json::Value;

use super::super::events::{kind_name, kinds_of};
use super::super::job::{at, object, text};
use super::super::{Answer, Fields, Refused, fields};
use super::route::{Call, with_data};
use crate::broker::Broker;
use crate::error::Error;
use crate::job::WebhookName;
use crate::limits;
use crate::store::{EventKind, Secret, Webhook, WebhookFormat, WebhookSpec};

pub(super) async fn create(call: Call<'_>) -> Answer {
    let (spec, secret) = read(&call.fields)?;
    let door = call.front.door();
    door.reach.check(&spec.url)?;
    let id = format!("wh_{:016x}", rand::random::<u64>());
    door.broker.put_webhook(WebhookName::parse(&id)?, spec, secret).await?;
    Ok(with_data(id.into(), Fields::new()))
}

fn read(fields: &Fields) -> Result<(WebhookSpec, Option<Secret>), Refused> {
    let events = fields::opt_texts(fields, "events")?;
    let events = events.ok_or_else(|| fields::missing("events"))?;
    if events.len() > limits::WEBHOOK_FILTER_MAX {
        let max = limits::WEBHOOK_FILTER_MAX;
        return Err(Refused::invalid(format_args!("events: more than {max}")));
    }
    let mut kinds = if events.is_empty() { Vec::new() } else { kinds_of(&events)? };
    if kinds.is_empty() {
        kinds.extend(EventKind::ALL.into_iter().filter(|kind| kind_name(*kind).is_some()));
    }
    let queue = fields::opt_text(fields, "queue")?.filter(|queue| !queue.is_empty());
    let secret = fields::opt_text(fields, "secret")?.filter(|secret| !secret.is_empty());
    let spec = WebhookSpec {
        url: fields::text(fields, "url")?.to_owned(),
        queues: queue.map(fields::parse_queue).transpose()?.into_iter().collect(),
        kinds,
        format: WebhookFormat::Flashq,
    };
    let secret = secret.map(|secret| Secret::parse(secret, spec.format)).transpose()?;
    Ok((spec, secret))
}

pub(super) async fn list(call: Call<'_>) -> Answer {
    let webhooks = known(&call.front.door().broker).await?;
    Ok(with_data(webhooks.iter().map(shown).collect(), Fields::new()))
}

async fn known(broker: &Broker) -> Result<Vec<Webhook>, Error> {
    let mut webhooks = broker.webhooks().await?;
    webhooks.retain(|webhook| webhook.spec.format == WebhookFormat::Flashq);
    Ok(webhooks)
}

fn shown(webhook: &Webhook) -> Value {
    let spec = &webhook.spec;
    Value::Object(object([
        ("id", webhook.name.as_str().into()),
        ("url", spec.url.as_str().into()),
        ("events", spec.kinds.iter().filter_map(|kind| kind_name(*kind)).collect()),
        ("queue", text(spec.queues.first().map(|queue| queue.as_str()))),
        ("created_at", at(webhook.created_at).into()),
    ]))
}

/// Deletes a webhook. Whether there was one is the answer.
pub(super) async fn delete(call: Call<'_>) -> Answer {
    let broker = &call.front.door().broker;
    let known = known(broker).await?;
    let Some(webhook) = known.into_iter().find(|it| it.name.as_str() == call.named("id")) else {
        return Ok(with_data(false.into(), Fields::new()));
    };
    let is_gone = match broker.delete_webhook(webhook.name).await {
        Ok(()) => true,
        Err(Error::NotFound(_)) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(with_data(is_gone.into(), Fields::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: Value) -> Result<(WebhookSpec, Option<Secret>), Refused> {
        read(json.as_object().unwrap())
    }

    #[test]
    fn a_webhook_names_its_events_or_wants_all_that_are_shown() {
        let (some, secret) =
            spec(serde_json::json!({"url": "u", "events": ["completed"], "queue": "q"})).unwrap();
        assert_eq!((some.kinds, secret), (vec![EventKind::Completed], None));
        assert_eq!(some.queues[0].as_str(), "q");
        for events in [serde_json::json!(["*"]), serde_json::json!([])] {
            let (all, _) = spec(serde_json::json!({"url": "u", "events": events})).unwrap();
            assert!(all.kinds.contains(&EventKind::Dead));
            assert!(!all.kinds.contains(&EventKind::Paused));
        }
    }

    #[test]
    fn what_can_not_be_a_webhook_is_refused_by_the_name_of_its_field() {
        for (json, field) in [
            (serde_json::json!({"events": ["*"]}), "url"),
            (serde_json::json!({"url": "u"}), "events"),
            (serde_json::json!({"url": "u", "events": ["*"], "secret": "s".repeat(257)}), "secret"),
            (serde_json::json!({"url": "u", "events": ["*"], "queue": "no way"}), "Queue name"),
        ] {
            let refused = spec(json).unwrap_err();
            assert!(refused.0.contains(field), "{refused:?}");
        }
    }
}
