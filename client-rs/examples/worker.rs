//! Works on jobs until it is interrupted: `cargo run --example worker -- QUEUE [URL]`.

use batonq_client::{Client, Failure, JobContext, Output, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().ok_or("which queue?")?;
    let url = arguments.next().unwrap_or_else(|| "tcp://127.0.0.1:6789".to_owned());

    let client = Client::builder().url(&url).worker("example").connect().await?;
    let worker = Worker::new(client.clone(), queue).concurrency(4);
    let stop = worker.stop_handle();
    tokio::spawn(async move {
        // Without signals there is no other way to stop it than to kill it.
        tokio::signal::ctrl_c().await.ok();
        stop.stop();
    });
    worker.run(echo).await?;
    client.close().await;
    Ok(())
}

/// Returns what it was given, in three steps.
async fn echo(job: JobContext) -> Result<Output, Failure> {
    let payload: serde_json::Value = job.json()?;
    for percent in [25, 50, 75] {
        if job.is_aborted() {
            return Err(Failure::new("ABORTED", "someone else has the job now"));
        }
        job.progress(percent, "working").await?;
    }
    Output::json(&payload)
}
