//! A stream of events, as a browser reads it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;

use super::SOON;

/// An open stream.
#[derive(Debug)]
pub struct Live {
    body: Incoming,
    text: String,
    /// The last number that was seen: what to come back with.
    pub last: Option<u64>,
    // The connection lives as long as this.
    _sender: SendRequest<Full<Bytes>>,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its kind.
    pub kind: String,
    /// What it says.
    pub data: Value,
}

impl Seen {
    /// The number of the event.
    pub fn id(&self) -> u64 {
        self.data["id"].as_u64().unwrap_or_default()
    }

    /// The job that it is about.
    pub fn job(&self) -> u64 {
        self.data["job"].as_u64().unwrap_or_default()
    }
}

impl Live {
    pub(super) fn new(body: Incoming, sender: SendRequest<Full<Bytes>>) -> Self {
        Self { body, text: String::new(), last: None, _sender: sender }
    }

    /// The next event; `None`: the stream has ended.
    ///
    /// # Panics
    ///
    /// If neither comes soon.
    pub async fn next(&mut self) -> Option<Seen> {
        tokio::time::timeout(SOON, self.read()).await.expect("an event, or the end, soon")
    }

    /// So many events.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub async fn take(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(self.next().await.expect("the stream goes on"));
        }
        seen
    }

    async fn read(&mut self) -> Option<Seen> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(seen) = self.parse(&block) {
                    return Some(seen);
                }
            }
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            self.text.push_str(std::str::from_utf8(&data).expect("events are text"));
        }
    }

    fn parse(&mut self, block: &str) -> Option<Seen> {
        let (mut kind, mut data) = (String::new(), None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.last = id.parse().ok(),
                Some(("event", name)) => kind = name.to_owned(),
                Some(("data", json)) => data = serde_json::from_str(json).ok(),
                _ => {}
            }
        }
        Some(Seen { kind, data: data? })
    }
}
