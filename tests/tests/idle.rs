//! Waiting costs nothing, and being woken takes no time.

use std::time::Duration;

use batonq_client::NewJob;
use batonq_protocol::Message;
use batonq_protocol::messages as wire;
use batonq_tests::harness::{Server, Wire};
use tokio::time::Instant;

const PULLERS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pullers_on_a_thousand_queues_cost_no_time_and_each_gets_its_job() {
    let server = Server::start();
    let mut pullers = Vec::new();
    for number in 0..PULLERS {
        let mut puller = Wire::greeted(server.tcp).await;
        let pull =
            wire::Pull { queue: format!("q{number}"), wait_ms: 60_000, ..wire::Pull::default() };
        puller.say(2, Message::Pull(pull)).await;
        pullers.push(puller);
    }
    let (started, before) = (Instant::now(), server.cpu_time());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let share = (server.cpu_time() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    // A busy loop would take a core or two.
    assert!(share < 0.2, "a thousand idle pullers take {:.0} % of a core", share * 100.0);
    let client = server.client().await;
    for (number, puller) in pullers.iter_mut().enumerate() {
        client.push(NewJob::new(format!("q{number}"), "{}")).await.unwrap();
        let Message::Pulled(pulled) = puller.answer().await else { panic!("no jobs") };
        assert_eq!(pulled.jobs.len(), 1);
    }
}
