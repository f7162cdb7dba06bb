//! What the environment says of the broker to talk to.

use batonq_client::Client;

use crate::Shared;
use crate::exit::Failure;

const DEFAULT_URL: &str = "tcp://127.0.0.1:6789";

fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    (!value.is_empty()).then_some(value)
}

/// The database of the node, for those who look at it from beside.
pub(crate) fn database_url() -> Option<String> {
    variable("DATABASE_URL")
}

impl Shared {
    /// Where the broker is.
    pub(crate) fn url(&self) -> String {
        let url = self.url.clone().or_else(|| variable("BATONQ_URL"));
        url.unwrap_or_else(|| DEFAULT_URL.into())
    }

    /// What to be let in with.
    pub(crate) fn token(&self) -> Option<String> {
        self.token.clone().or_else(|| variable("BATONQ_TOKEN"))
    }

    /// A client under this worker's name.
    pub(crate) async fn connect(&self, worker: &str) -> Result<Client, Failure> {
        let mut client = Client::builder().url(&self.url()).worker(worker).program("batonq");
        if let Some(token) = self.token() {
            client = client.token(token);
        }
        Ok(client.connect().await?)
    }
}
