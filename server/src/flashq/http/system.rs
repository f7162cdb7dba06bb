//! What the process takes of its machine. Linux tells; elsewhere those numbers are 0.

use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{Answer, Fields};
use super::Front;
use super::route::{Call, with_data};

/// Over a shorter time the use of the processor can not be told.
const SPAN_MIN: Duration = Duration::from_secs(1);

const MIB: f64 = 1024.0 * 1024.0;

/// What is remembered of the process: its use of the processor when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Process(Mutex<Option<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    busy: Duration,
    percent: f64,
}

/// What the system says of a process and its machine, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    resident: u64,
    reserved: u64,
    machine: u64,
    read: u64,
    written: u64,
    busy: Duration,
}

pub(super) async fn serve(call: Call<'_>) -> Answer {
    Ok(with_data(numbers(call.front), Fields::new()))
}

/// The numbers, in the names and units of flashQ. The processor's are of the time since they were
/// asked for before, or since the start; 100 is one core.
pub(super) fn numbers(front: &Front) -> Value {
    let usage = usage();
    let uptime = front.door().broker.health().uptime;
    let percent = front.0.process.percent(usage.busy, uptime, Instant::now());
    let memory_percent = 100.0 * usage.resident as f64 / usage.machine.max(1) as f64;
    json!({
        "memory_used_mb": usage.resident as f64 / MIB,
        "memory_total_mb": usage.machine as f64 / MIB,
        "memory_percent": memory_percent,
        "memory_rss_mb": usage.resident as f64 / MIB,
        "memory_virtual_mb": usage.reserved as f64 / MIB,
        "cpu_percent": percent,
        "disk_read_bytes": usage.read,
        "disk_written_bytes": usage.written,
        "disk_read_mb": usage.read as f64 / MIB,
        "disk_written_mb": usage.written as f64 / MIB,
        "process_id": std::process::id(),
        "tcp_connections": front.door().broker.metrics().connections(),
        "uptime_seconds": uptime.as_secs(),
    })
}

impl Process {
    fn percent(&self, busy: Duration, uptime: Duration, now: Instant) -> f64 {
        let mut last = self.0.lock();
        let (before, span) = match *last {
            Some(look) if now - look.at < SPAN_MIN => return look.percent,
            Some(look) => (look.busy, now - look.at),
            None => (Duration::ZERO, uptime.max(SPAN_MIN)),
        };
        let percent = 100.0 * busy.saturating_sub(before).as_secs_f64() / span.as_secs_f64();
        *last = Some(Look { at: now, busy, percent });
        percent
    }
}

#[cfg(target_os = "linux")]
fn usage() -> Usage {
    read_usage().unwrap_or_else(|error| {
        tracing::debug!(%error, "the system does not tell about this process");
        Usage::default()
    })
}

#[cfg(target_os = "linux")]
fn read_usage() -> Result<Usage, procfs::ProcError> {
    use procfs::Current;
    let process = procfs::process::Process::myself()?;
    let stat = process.stat()?;
    // Not every container lets a process look at its own.
    let (read, written) = process.io().map_or((0, 0), |io| (io.read_bytes, io.write_bytes));
    let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Ok(Usage {
        resident: stat.rss * procfs::page_size(),
        reserved: stat.vsize,
        machine: procfs::Meminfo::current()?.mem_total,
        read,
        written,
        busy: Duration::from_secs_f64(ticks),
    })
}

#[cfg(not(target_os = "linux"))]
fn usage() -> Usage {
    Usage::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_use_of_the_processor_is_that_since_the_last_look() {
        let (process, now) = (Process::default(), Instant::now());
        let second = Duration::from_secs(1);
        let percent = |busy, at| process.percent(busy, 10 * second, at).round();
        assert_eq!(percent(5 * second, now), 50.0);
        assert_eq!(percent(6 * second, now + second / 2), 50.0);
        assert_eq!(percent(7 * second, now + 2 * second), 100.0);
        assert_eq!(percent(7 * second, now + 4 * second), 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_about_this_process() {
        let usage = read_usage().unwrap();
        assert!(usage.resident > 0 && usage.resident < usage.machine, "{usage:?}");
    }
}
