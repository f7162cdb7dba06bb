//! Values by key, for clients of flashQ. A value is any JSON, and kept as such.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use serde_json::Value;

use super::job::object;
use super::look::check_bytes;
use super::{Answer, Client, Fields, Refused, fields};
use crate::broker::Broker;
use crate::job::KvKey;
use crate::limits;
use crate::store::{KvEntry, KvValue};

/// Values that are read at once.
const AT_ONCE: usize = 50;

pub(super) async fn kvset(client: Client<'_>, fields: Fields) -> Answer {
    client.door.broker.kv_set(vec![entry(&fields)?]).await?;
    Ok(Fields::new())
}

pub(super) async fn kvmset(client: Client<'_>, fields: Fields) -> Answer {
    let entries = list(&fields, "entries")?;
    if entries.len() > limits::BATCH_MAX {
        let max = limits::BATCH_MAX;
        return Err(Refused(
            format!("Too many entries ({} > {max})", entries.len()),
            ErrorCode::Invalid,
        ));
    }
    // What is wrong with some of them does not concern the others.
    let good = entries.iter().filter_map(|it| entry(it.as_object()?).ok());
    let good: Vec<KvEntry> = good.collect();
    let count = good.len();
    if count > 0 {
        client.door.broker.kv_set(good).await?;
    }
    Ok(object([("count", count.into())]))
}

fn entry(fields: &Fields) -> Result<KvEntry, Refused> {
    let key = key_of(fields::text(fields, "key")?)?;
    let value = fields::json(fields::value(fields, "value")?);
    if value.len() > limits::PAYLOAD_BYTES_MAX {
        let max = limits::PAYLOAD_BYTES_MAX;
        return Err(Refused(
            format!("Value too large ({} > {max} bytes)", value.len()),
            ErrorCode::PayloadTooLarge,
        ));
    }
    let ttl = fields::opt_number(fields, "ttl")?.map(Duration::from_millis);
    Ok(KvEntry { key, value, ttl })
}

pub(super) async fn kvget(client: Client<'_>, fields: Fields) -> Answer {
    Ok(object([("value", shown(get(&client, &fields).await?))]))
}

pub(super) async fn kvexists(client: Client<'_>, fields: Fields) -> Answer {
    Ok(object([("exists", get(&client, &fields).await?.is_some().into())]))
}

pub(super) async fn kvttl(client: Client<'_>, fields: Fields) -> Answer {
    let ttl = match get(&client, &fields).await?.map(|found| found.ttl) {
        None => -2,
        Some(None) => -1,
        Some(Some(left)) => i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
    };
    Ok(object([("ttl", ttl.into())]))
}

async fn get(client: &Client<'_>, fields: &Fields) -> Result<Option<KvValue>, Refused> {
    let found = client.door.broker.kv_get(vec![key(fields)?]).await?;
    Ok(found.into_iter().next().flatten())
}

pub(super) async fn kvmget(client: Client<'_>, fields: Fields) -> Answer {
    let keys = list(&fields, "keys")?.iter().take(limits::BATCH_MAX);
    let mut places: Vec<Option<KvKey>> =
        keys.map(|key| key.as_str().and_then(|key| key_of(key).ok())).collect();
    let mut values = Vec::with_capacity(places.len());
    let mut bytes = 0;
    for part in places.chunks_mut(AT_ONCE) {
        let good: Vec<bool> = part.iter().map(Option::is_some).collect();
        let asked = part.iter_mut().filter_map(Option::take).collect();
        let mut found = client.door.broker.kv_get(asked).await?.into_iter();
        for is_good in good {
            let value = if is_good { found.next().flatten() } else { None };
            bytes += value.as_ref().map_or(0, |found| found.value.len());
            values.push(shown(value));
        }
        check_bytes(bytes)?;
    }
    Ok(object([("values", Value::Array(values))]))
}

pub(super) async fn kvdel(client: Client<'_>, fields: Fields) -> Answer {
    let existed = client.door.broker.kv_delete(key(&fields)?).await?;
    Ok(object([("exists", existed.into())]))
}

pub(super) async fn kvexpire(client: Client<'_>, fields: Fields) -> Answer {
    let ttl = Duration::from_millis(fields::number(&fields, "ttl")?);
    let exists = client.door.broker.kv_expire(key(&fields)?, ttl).await?;
    Ok(object([("exists", exists.into())]))
}

pub(super) async fn kvkeys(client: Client<'_>, fields: Fields) -> Answer {
    let pattern = fields::opt_text(&fields, "pattern")?.unwrap_or("*");
    let keys = client.door.broker.kv_keys(pattern).await?;
    Ok(object([("keys", keys.iter().map(|key| key.as_str()).collect())]))
}

pub(super) async fn kvincr(client: Client<'_>, fields: Fields) -> Answer {
    let by = fields::opt_signed(&fields, "by")?.unwrap_or(1);
    let value = client.door.broker.kv_add(key(&fields)?, by).await.map_err(|error| {
        match error.field() == Some("value") {
            true => Refused(
                "Value is not an integer, or would be too large for one".into(),
                ErrorCode::Invalid,
            ),
            false => error.into(),
        }
    })?;
    Ok(object([("value", value.into())]))
}

fn shown(found: Option<KvValue>) -> Value {
    found.map_or(Value::Null, |found| fields::shown(&found.value))
}

fn key(fields: &Fields) -> Result<KvKey, Refused> {
    key_of(fields::text(fields, "key")?)
}

fn key_of(text: &str) -> Result<KvKey, Refused> {
    match KvKey::parse(text) {
        Ok(key) => Ok(Broker::check_key(&key).map(|()| key)?),
        Err(_) if text.is_empty() => Err(Refused("Key cannot be empty".into(), ErrorCode::Invalid)),
        Err(_) if text.len() > *limits::KV_KEY_BYTES.end() => {
            let max = limits::KV_KEY_BYTES.end();
            Err(Refused(format!("Key too long ({} > {max} bytes)", text.len()), ErrorCode::Invalid))
        }
        Err(invalid) => Err(invalid.into()),
    }
}

fn list<'a>(fields: &'a Fields, name: &str) -> Result<&'a [Value], Refused> {
    match fields::value(fields, name)? {
        Value::Array(list) => Ok(list),
        _ => Err(Refused::invalid(format_args!("{name} must be a list"))),
    }
}
