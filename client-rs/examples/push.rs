//! Pushes one job and waits for its end: `cargo run --example push -- QUEUE JSON [URL]`.

use std::time::Duration;

use batonq_client::{Client, NewJob};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().ok_or("which queue?")?;
    let payload = arguments.next().ok_or("which payload?")?;
    let url = arguments.next().unwrap_or_else(|| "tcp://127.0.0.1:6789".to_owned());

    let client = Client::connect(&url).await?;
    let pushed = client.push(NewJob::new(queue, payload).max_attempts(3)).await?;
    say(format_args!("job {}: {:?}", pushed.id, pushed.outcome));
    let job = client.wait_job(pushed.id, Duration::from_secs(30)).await?;
    say(format_args!("{:?} {}", job.state(), String::from_utf8_lossy(&job.result)));
    client.close().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "it is what the example is for")]
fn say(text: std::fmt::Arguments<'_>) {
    println!("{text}");
}
