//! What happens, as it happens, as server-sent events.

use batonq_tests::harness::{Cluster, Http, Live, Seen, Server};
use serde_json::{Value, json};

use crate::tokens::guarded;
use crate::{assert_told, fail_for_good, get, life, live_a_life, post, pull, push};

async fn listen(http: &Http, path: &str) -> Live {
    http.listen(path, None).await.expect("a stream")
}

async fn take(live: &mut Live, count: usize) -> Vec<Value> {
    let seen = live.take(count).await;
    // The name of an event is what it says itself, too: browsers go by the name.
    assert!(seen.iter().all(|seen| seen.data["event_type"] == seen.kind.as_str()), "{seen:?}");
    seen.into_iter().map(|seen| seen.data).collect()
}

#[tokio::test]
async fn a_stream_tells_the_life_of_a_job_with_all_that_belongs_to_it() {
    let server = Server::start();
    let http = server.http();
    let mut live = listen(&http, "/events").await;
    let id = live_a_life([&http; 3], "q").await;
    assert_told(&life("q", id), &take(&mut live, 4).await);
}

#[tokio::test]
async fn only_the_last_failure_is_told() {
    let server = Server::start();
    let http = server.http();
    let mut live = listen(&http, "/events").await;
    let twice = json!({ "data": 1, "max_attempts": 2, "backoff": 0 });
    let id = post(&http, "/queues/q/jobs", twice).await["id"].clone();
    for error in ["first", "last"] {
        pull(&http, "q").await;
        post(&http, &format!("/jobs/{id}/fail"), json!({ "error": error })).await;
    }
    let told = take(&mut live, 2).await;
    assert_eq!(told[0]["event_type"], "pushed");
    assert_eq!((&told[1]["event_type"], &told[1]["error"]), (&json!("failed"), &json!("last")));
    assert_eq!(told[1]["job_id"], id);
}

#[tokio::test]
async fn a_stream_tells_what_it_was_asked_for() {
    let server = Server::start();
    let http = server.http();
    let mut queue = listen(&http, "/events/mine").await;
    // The way of the TypeScript client.
    let mut same = listen(&http, "/queues/mine/events").await;
    let other = live_a_life([&http; 3], "other").await;
    let mine = push(&http, "mine", json!(2)).await;
    let mut job = listen(&http, &format!("/events/job/{mine}")).await;
    let mut ends = listen(&http, &format!("/events/job/{mine}?events=partial,completed")).await;
    assert_eq!(pull(&http, "mine").await["id"], mine);
    for body in [json!({ "data": "a" }), json!({ "data": "b", "index": 1 })] {
        post(&http, &format!("/jobs/{mine}/partial"), body).await;
    }
    post(&http, &format!("/jobs/{mine}/progress"), json!({ "progress": 90 })).await;
    post(&http, &format!("/jobs/{mine}/ack"), json!({ "result": "ab" })).await;
    let told = |kind: &str| json!({ "event_type": kind, "queue": "mine", "job_id": mine });
    let all = ["pushed", "partial", "partial", "progress", "completed"].map(told);
    assert_told(&all, &take(&mut queue, 5).await);
    assert_told(&all, &take(&mut same, 5).await);
    assert_told(&all[1..], &take(&mut job, 4).await);
    let ends = take(&mut ends, 3).await;
    assert_told(&["partial", "partial", "completed"].map(told), &ends);
    assert_eq!(ends[1]["data"], json!({ "chunk": "b", "index": 1 }));
    assert_eq!(ends[2]["data"], "ab");
    assert_ne!(mine, other);
}

#[tokio::test]
async fn what_has_no_result_has_no_data() {
    let server = Server::start();
    let http = server.http();
    let mut live = listen(&http, "/events/q").await;
    let id = push(&http, "q", json!(1)).await;
    pull(&http, "q").await;
    post(&http, &format!("/jobs/{id}/ack"), json!({})).await;
    let told = take(&mut live, 2).await;
    assert_told(&[json!({ "event_type": "completed", "error": "absent" })], &told[1..]);
    assert!(told[1].get("data").is_none_or(Value::is_null), "{}", told[1]);
}

#[tokio::test]
async fn a_stream_that_broke_goes_on_where_it_was() {
    let server = Server::start();
    let http = server.http();
    let mut live = listen(&http, "/events").await;
    let first = push(&http, "q", json!(1)).await;
    assert_eq!(take(&mut live, 1).await[0]["job_id"], first);
    let last = live.last;
    assert!(last.is_some(), "every event has a number");
    drop(live);
    let second = fail_for_good(&http, "r").await;
    let mut live = http.listen("/events", last).await.expect("a stream");
    let told = take(&mut live, 2).await;
    let expected = |kind: &str| json!({ "event_type": kind, "job_id": second });
    assert_told(&["pushed", "failed"].map(expected), &told);
    assert_eq!((&told[0]["data"], &told[1]["error"]), (&json!(1), &json!("boom")));
}

#[tokio::test]
async fn a_stream_needs_a_token_that_may_listen() {
    let server = guarded();
    let http = server.http();
    let job = push(&http.token("prod"), "q", json!(1)).await;
    let of_job = format!("/events/job/{job}");
    for path in ["/events", "/events/q", &of_job, "/queues/q/events"] {
        for (token, status) in [("", 401), ("wrong", 401), ("prod", 403), ("cons", 403)] {
            let refused = http.token(token).listen(path, None).await.err();
            assert_eq!(refused, Some(format!("refused: {status}")), "{path} with {token:?}");
            let refused = http.listen(&format!("{path}?token={token}"), None).await.err();
            assert_eq!(refused, Some(format!("refused: {status}")), "{path} with {token:?}");
        }
        assert!(http.token("obs").listen(path, None).await.is_ok(), "{path}");
        assert!(http.listen(&format!("{path}?token=obs"), None).await.is_ok(), "{path}");
    }
}

#[tokio::test]
async fn a_stream_at_one_node_tells_what_is_done_at_the_others() {
    let mut cluster = Cluster::of(3).await;
    let nodes = [0, 1, 2].map(|place| cluster.http(place));
    let mut live = listen(&nodes[0], "/events").await;
    let id = live_a_life([&nodes[1], &nodes[2], &nodes[1]], "q").await;
    assert_told(&life("q", id), &take(&mut live, 4).await);
    let failed = fail_for_good(&nodes[2], "f").await;
    let told = take(&mut live, 2).await;
    assert_eq!((&told[1]["error"], &told[1]["job_id"]), (&json!("boom"), &json!(failed)));
    // When its node stops, it ends, and goes on at another one.
    let mut stopping = cluster.nodes.remove(0);
    stopping.signal("-TERM");
    let end: Seen = live.next().await.expect("an end");
    assert_eq!((end.kind.as_str(), &end.data["reason"]), ("end", &json!("draining")));
    assert!(live.next().await.is_none());
    assert_eq!(stopping.wait(), 0);
    let next = push(&nodes[1], "q", json!(2)).await;
    let mut live = nodes[2].listen("/events", live.last).await.expect("a stream");
    assert_eq!(take(&mut live, 1).await[0]["job_id"], next);
    assert_eq!(get(&nodes[1], &format!("/jobs/{next}/state")).await["state"], "waiting");
}
