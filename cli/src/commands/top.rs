//! `batonq top`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use batonq_client::Client;

use super::view::{QueueRow, WorkerRow};
use crate::Shared;
use crate::exit::Failure;
use crate::output::{length, parse_duration, say, table};

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// How often to look
    #[arg(long, value_parser = parse_duration, default_value = "2s", value_name = "TIME")]
    interval: Duration,

    /// Look once and end
    #[arg(long)]
    once: bool,
}

/// The other screen, which a person's own is kept behind; shown again when this is dropped.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Self> {
        let mut out = std::io::stdout().lock();
        write!(out, "\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self)
    }

    fn show(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        // Home, then line by line over what was there, so that nothing flickers.
        write!(out, "\x1b[H")?;
        for line in text.lines() {
            write!(out, "{line}\x1b[K\r\n")?;
        }
        write!(out, "\x1b[J")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        write!(std::io::stdout(), "\x1b[?25h\x1b[?1049l").ok();
        std::io::stdout().flush().ok();
    }
}

impl Top {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("batonq top").await?;
        if self.once || !std::io::stdout().is_terminal() {
            say(&snapshot(&client).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let screen = Screen::open()?;
        loop {
            screen.show(&snapshot(&client).await?)?;
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

async fn snapshot(client: &Client) -> Result<String, Failure> {
    let stats = client.stats().await?;
    let queues: Vec<QueueRow> = client.queues().await?.into_iter().map(Into::into).collect();
    let workers: Vec<WorkerRow> = client.workers().await?.into_iter().map(Into::into).collect();
    let node = client.node();
    let window = u64::from(stats.window_s).min(stats.uptime_s.max(1)) as f64;
    let rate = |count: u64| count as f64 / window;
    Ok(format!(
        "{} {}, up for {}, {} connections\n\
         per second, over the last minute: {:.1} pushed, {:.1} claimed, {:.1} acked, {:.1} failed\n\
         p99 in ms: push {:.1}, claim {:.1}, settle {:.1}\n\n{}\n\n{}",
        node.node_id,
        node.server_version,
        length(stats.uptime_s * 1000),
        stats.connections,
        rate(stats.pushed),
        rate(stats.claimed),
        rate(stats.acked),
        rate(stats.failed),
        stats.push_p99_ms,
        stats.claim_p99_ms,
        stats.settle_p99_ms,
        table(&queues),
        table(&workers),
    ))
}
