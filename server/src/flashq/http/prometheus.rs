//! Metrics under flashQ's names, for Prometheus. Ours, at `/metrics`, say more.

use prometheus::{
    Encoder, Gauge, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, Result as Made, TextEncoder,
};

use super::super::Refused;
use super::super::look::is_public;
use super::route::Call;
use super::routes::data_of;
use crate::error::Error;
use crate::limits;
use crate::metrics::Counted;
use crate::store::{Counts, Queue};

/// What there is to tell.
struct Told<'a> {
    pushed: u64,
    completed: u64,
    failed: u64,
    per_second: f64,
    latency_ms: f64,
    workers: usize,
    queues: Vec<&'a Queue>,
}

/// The text that Prometheus reads (version 0.0.4).
pub(super) async fn text(call: Call<'_>) -> Result<String, Refused> {
    let broker = &call.front.door().broker;
    let (metrics, rates) = (broker.metrics(), data_of(call.front, "METRICS").await?);
    let rate = |name| rates[name].as_f64().unwrap_or_default();
    let queues = broker.queues_lately().await?;
    let told = Told {
        pushed: metrics.total(Counted::Pushed),
        completed: metrics.total(Counted::Acked),
        failed: metrics.total(Counted::Failed),
        per_second: rate("jobs_per_second"),
        latency_ms: rate("avg_latency_ms"),
        workers: broker.noted_workers().await?.len(),
        queues: queues.iter().filter(|queue| is_public(&queue.name)).collect(),
    };
    let written = told.write().map_err(|error| Error::Internal(error.to_string().into()))?;
    Ok(written)
}

impl Told<'_> {
    fn write(&self) -> Made<String> {
        let registry = Registry::new();
        for (name, help, count) in [
            ("flashq_jobs_pushed_total", "Jobs pushed through this node", self.pushed),
            ("flashq_jobs_completed_total", "Jobs completed through this node", self.completed),
            ("flashq_jobs_failed_total", "Attempts failed through this node", self.failed),
        ] {
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(count);
            registry.register(Box::new(counter))?;
        }
        for (name, help, value) in [
            ("flashq_throughput_per_second", "Jobs completed a second", self.per_second),
            ("flashq_latency_ms", "From push to completion, on average", self.latency_ms),
        ] {
            let gauge = Gauge::new(name, help)?;
            gauge.set(value);
            registry.register(Box::new(gauge))?;
        }
        let workers = IntGauge::new("flashq_workers_active", "Workers that were seen lately")?;
        workers.set(int(self.workers as u64));
        registry.register(Box::new(workers))?;
        self.jobs(&registry)?;
        self.queue_jobs(&registry)?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn jobs(&self, registry: &Registry) -> Made<()> {
        let jobs = Opts::new("flashq_jobs_current", "Jobs by state");
        let jobs = IntGaugeVec::new(jobs, &["state"])?;
        let sum = |of: fn(&Counts) -> u64| self.queues.iter().map(|it| of(&it.counts)).sum::<u64>();
        for (state, count) in [
            ("queued", sum(|counts| counts.ready)),
            ("processing", sum(|counts| counts.leased)),
            ("delayed", sum(|counts| counts.scheduled)),
            ("dlq", sum(|counts| counts.dead)),
            ("completed", sum(|counts| counts.completed)),
        ] {
            jobs.with_label_values(&[state]).set(int(count));
        }
        registry.register(Box::new(jobs))
    }

    fn queue_jobs(&self, registry: &Registry) -> Made<()> {
        let jobs = Opts::new("flashq_queue_jobs", "Jobs by queue and state");
        let jobs = IntGaugeVec::new(jobs, &["queue", "state"])?;
        for queue in self.queues.iter().take(limits::METRIC_QUEUES_MAX) {
            let (name, counts) = (queue.name.as_str(), &queue.counts);
            for (state, count) in [
                ("pending", counts.ready + counts.scheduled),
                ("processing", counts.leased),
                ("dlq", counts.dead),
            ] {
                jobs.with_label_values(&[name, state]).set(int(count));
            }
        }
        registry.register(Box::new(jobs))
    }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_announced_under_its_own_name_and_type() {
        let told = Told {
            pushed: 7,
            completed: 5,
            failed: 1,
            per_second: 1.5,
            latency_ms: 20.0,
            workers: 2,
            queues: Vec::new(),
        };
        let text = told.write().unwrap();
        for line in [
            "# TYPE flashq_jobs_pushed_total counter\nflashq_jobs_pushed_total 7\n",
            "# TYPE flashq_jobs_completed_total counter\nflashq_jobs_completed_total 5\n",
            "# TYPE flashq_jobs_failed_total counter\nflashq_jobs_failed_total 1\n",
            "# TYPE flashq_jobs_current gauge\n",
            "flashq_jobs_current{state=\"dlq\"} 0\n",
            "# TYPE flashq_throughput_per_second gauge\nflashq_throughput_per_second 1.5\n",
            "# TYPE flashq_workers_active gauge\nflashq_workers_active 2\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
