//! Connections, and which node each of them goes to.

use std::sync::atomic::{AtomicUsize, Ordering};

use batonq_client::Client;

use crate::Shared;
use crate::exit::Failure;

/// Makes connections.
pub(super) struct Dial {
    /// Where they go, in turn.
    pub(super) urls: Vec<String>,
    pub(super) token: Option<String>,
    next: AtomicUsize,
}

impl Dial {
    /// To any of the addresses that the user has named.
    pub(super) fn new(shared: &Shared) -> Self {
        Self { urls: vec![shared.url()], token: shared.token(), next: AtomicUsize::new(0) }
    }

    /// To the addresses in turn, of a URL for HTTP.
    pub(super) fn over_http(shared: &Shared) -> Result<Self, Failure> {
        let url = shared.url();
        let Some(list) = url.strip_prefix("http://") else {
            return Err(Failure::usage(format!("{url}: mode http needs --url http://HOST:PORT")));
        };
        Ok(Self::new(shared).in_turn(list))
    }

    /// To the addresses in turn, for the protocol of flashQ.
    pub(super) fn over_flashq(shared: &Shared) -> Self {
        let url = shared.url();
        Self::new(shared).in_turn(url.strip_prefix("tcp://").unwrap_or(&url))
    }

    /// To the addresses of a list in turn.
    fn in_turn(self, list: &str) -> Self {
        let list = list.trim_end_matches('/').split(',');
        Self { urls: list.map(|one| one.trim().to_owned()).collect(), ..self }
    }

    /// To all nodes in turn: those that the user has named or, if it is one, those that it names.
    pub(super) async fn spread(self) -> Result<Self, Failure> {
        let list = self.urls[0].trim_start_matches("tcp://").trim_end_matches('/').to_owned();
        let mut urls: Vec<String> = list.split(',').map(|one| one.trim().to_owned()).collect();
        if urls.len() == 1 {
            let nodes = self.connect("bench").await?.nodes().await?.into_iter();
            urls = nodes
                .filter(|node| node.state == "active")
                .map(|node| format!("{}:{}", node.host, node.tcp_port))
                .collect();
        }
        if urls.is_empty() {
            return Err(Failure::other("the cluster names no active node"));
        }
        Ok(Self { urls, ..self })
    }

    pub(super) fn next_url(&self) -> &str {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.urls[next % self.urls.len()]
    }

    /// A connection that shares the threads of all others: what one of its own costs would be
    /// counted as the node's.
    pub(super) async fn connect(&self, worker: &str) -> Result<Client, Failure> {
        let builder = Client::builder().url(self.next_url()).worker(worker);
        let mut builder = builder.program("batonq bench").on_this_runtime();
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        Ok(builder.connect().await?)
    }
}
