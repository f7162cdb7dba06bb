//! What happens, as it happens, over a connection of flashQ's own protocol.

use batonq_tests::harness::flashq::Mode;
use batonq_tests::harness::{Cluster, FlashQ, Server};
use serde_json::{Value, json};

use crate::tokens::guarded;
use crate::{assert_told, fail_for_good, life, live_a_life, push};

/// Subscriptions of a connection.
const SUBSCRIPTIONS_MAX: usize = 16;

/// The next event, which belongs to no request.
async fn event(client: &mut FlashQ) -> Value {
    let told = client.reply().await;
    assert!(told.get("reqId").is_none() && told.get("ok").is_none(), "{told}");
    told["event"].clone()
}

async fn take(client: &mut FlashQ, count: usize) -> Vec<Value> {
    let mut told = Vec::new();
    while told.len() < count {
        told.push(event(client).await);
    }
    told
}

fn all_of(queue: &str) -> Value {
    json!({ "queue": queue, "events": ["*"] })
}

#[tokio::test]
async fn a_subscriber_is_told_the_life_of_the_jobs_of_its_queue() {
    let server = Server::start();
    let http = server.http();
    for (mode, queue) in Mode::ALL.into_iter().zip(["text", "binary"]) {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        client.done("SUBSCRIBE", all_of(queue)).await;
        push(&http, "other", json!(1)).await;
        let id = live_a_life([&http; 3], queue).await;
        assert_told(&life(queue, id), &take(&mut client, 4).await);
        let failed = fail_for_good(&http, queue).await;
        let told = take(&mut client, 2).await;
        assert_eq!((&told[1]["error"], &told[1]["job_id"]), (&json!("boom"), &json!(failed)));
    }
}

#[tokio::test]
async fn a_subscriber_is_told_what_it_asked_for_and_served_meanwhile() {
    let server = Server::start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        let ends = json!({ "queue": "q", "events": ["completed", "failed"] });
        client.done("SUBSCRIBE", ends).await;
        // All of it over the same connection.
        let pushed = client.done("PUSH", json!({ "queue": "q", "data": 1 })).await;
        let pulled = client.done("PULL", json!({ "queue": "q", "timeout": 10_000 })).await;
        assert_eq!(pulled["job"]["id"], pushed["id"]);
        let ack = json!({ "cmd": "ACK", "id": pushed["id"], "result": 7, "reqId": "ack" });
        client.say(&ack).await;
        // In either order: they have nothing to do with each other.
        let (mut is_acked, mut told) = (false, None);
        while !is_acked || told.is_none() {
            let heard = client.reply().await;
            match heard["reqId"] == "ack" {
                true => is_acked = heard["ok"] == true,
                false => told = Some(heard["event"].clone()),
            }
        }
        let completed = json!({ "event_type": "completed", "job_id": pushed["id"], "data": 7 });
        assert_told(&[completed], &[told.unwrap()]);
    }
}

#[tokio::test]
async fn after_its_end_a_subscription_tells_nothing_more() {
    let server = Server::start();
    let http = server.http();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        let mut other = FlashQ::connect(server.tcp, mode).await;
        other.done("SUBSCRIBE", all_of("q")).await;
        client.done("SUBSCRIBE", all_of("q")).await;
        client.done("SUBSCRIBE", all_of("r")).await;
        push(&http, "q", json!(1)).await;
        assert_eq!(event(&mut client).await["queue"], "q");
        client.done("UNSUBSCRIBE", json!({ "queue": "q" })).await;
        client.done("UNSUBSCRIBE", json!({ "queue": "none" })).await;
        push(&http, "q", json!(2)).await;
        push(&http, "r", json!(3)).await;
        assert_eq!(event(&mut client).await["queue"], "r");
        // That of somebody else goes on.
        assert_eq!(take(&mut other, 2).await[1]["data"], 2);
    }
}

#[tokio::test]
async fn bad_subscriptions_are_refused_and_good_ones_are_counted() {
    let server = Server::start();
    for mode in Mode::ALL {
        let mut client = FlashQ::connect(server.tcp, mode).await;
        for (fields, words) in [
            (json!({ "events": ["*"] }), "queue"),
            (json!({ "queue": "a b!", "events": ["*"] }), "queue"),
            (json!({ "queue": "q", "events": "completed" }), "events"),
            (json!({ "queue": "q", "events": ["born"] }), "events"),
            (json!({ "queue": "q", "events": [1] }), "events"),
        ] {
            let told = client.ask("SUBSCRIBE", fields.clone()).await;
            let error = told["error"].as_str().unwrap_or_default().to_lowercase();
            assert!(told["ok"] == false && error.contains(words), "{fields}: {told}");
        }
        for number in 0..SUBSCRIPTIONS_MAX {
            client.done("SUBSCRIBE", all_of(&format!("q{number}"))).await;
        }
        assert_eq!(client.ask("SUBSCRIBE", all_of("more")).await["ok"], false);
        // Again of the same queue is none more; one that has ended leaves room.
        client.done("SUBSCRIBE", all_of("q0")).await;
        client.done("UNSUBSCRIBE", json!({ "queue": "q0" })).await;
        client.done("SUBSCRIBE", all_of("more")).await;
    }
}

#[tokio::test]
async fn a_subscriber_needs_a_token_that_may_listen() {
    let server = guarded();
    for mode in Mode::ALL {
        for (token, is_let_in) in [("prod", false), ("cons", false), ("obs", true), ("adm", true)] {
            let mut client = FlashQ::connect(server.tcp, mode).await;
            assert_eq!(client.ask("SUBSCRIBE", all_of("q")).await["ok"], false);
            client.done("AUTH", json!({ "token": token })).await;
            let told = client.ask("SUBSCRIBE", all_of("q")).await;
            assert_eq!(told["ok"], is_let_in, "{token}: {told}");
        }
    }
}

#[tokio::test]
async fn a_subscriber_at_one_node_is_told_what_is_done_at_the_others() {
    let cluster = Cluster::of(3).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    let mut client = FlashQ::connect(cluster.nodes[0].tcp, Mode::Binary).await;
    client.done("SUBSCRIBE", all_of("q")).await;
    let id = live_a_life([&nodes[1], &nodes[2], &nodes[1]], "q").await;
    assert_told(&life("q", id), &take(&mut client, 4).await);
}

/// A subscriber that does not read is cut off, or waited for, at a bounded cost.
#[tokio::test]
async fn a_subscriber_that_does_not_read_costs_little() {
    let server = Server::start();
    let http = server.http();
    let mut greedy = FlashQ::connect(server.tcp, Mode::Text).await;
    greedy.done("SUBSCRIBE", all_of("big")).await;
    let before = server.memory_kib();
    let job = json!({ "data": "x".repeat(900_000) });
    for _ in 0..150 {
        crate::post(&http, "/queues/big/jobs", job.clone()).await;
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "memory grew by {grown} KiB for 135 MB of events");
    assert_eq!(http.get("/health/ready").await.status, 200);
}
