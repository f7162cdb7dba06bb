//! What is shipped for operators: nginx, Kubernetes, Compose.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use batonq_client::{Client, NewJob, Worker};
use batonq_tests::harness::cluster::{ack, is_ready, pull, push};
use batonq_tests::harness::{Cluster, Http};
use parking_lot::Mutex;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

#[tokio::test]
async fn both_protocols_reach_all_nodes_through_nginx_and_a_dead_one_is_skipped() {
    let mut cluster = Cluster::of(3).await;
    let nginx = cluster.nginx();
    let http = nginx.http();
    let mut seen = HashSet::new();
    for _ in 0..30 {
        seen.insert(http.get("/health").await.json()["node_id"].to_string());
    }
    assert_eq!(seen.len(), 3);
    let client = Client::builder().url(&nginx.url()).worker("w").connect().await.unwrap();
    let id = client.push(NewJob::new("q", "1")).await.unwrap().id.0;
    let jobs = pull(&http, "q", 1, 0).await;
    assert_eq!(jobs[0]["id"], id);
    assert!(ack(&http, &jobs[0]).await < 300);
    assert_eq!(http.get(&format!("/v1/jobs/{id}")).await.json()["state"], "completed");
    cluster.nodes[0].kill();
    for _ in 0..10 {
        push(&http, "q", json!(1)).await;
        Client::builder().url(&nginx.url()).connect().await.unwrap();
    }
}

#[tokio::test]
async fn a_pull_that_waits_long_is_not_cut_off_by_nginx() {
    let cluster = Cluster::of(1).await;
    let nginx = cluster.nginx();
    let http = nginx.http();
    let waiting = tokio::spawn(async move { pull(&http, "q", 1, 15_000).await });
    let id = push(&nginx.http(), "q", json!(1)).await;
    assert_eq!(waiting.await.unwrap()[0]["id"], id);
}

/// A lease that a TCP client holds, as HTTP writes it.
fn as_text(lease: &batonq_client::Lease) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(lease.as_bytes())
}

#[tokio::test]
async fn a_job_goes_through_the_balancer_and_every_node_over_both_protocols() {
    let cluster = Cluster::of(3).await;
    let nginx = cluster.nginx();
    let balanced = nginx.http();
    let (a, b) = (cluster.nodes[0].client().await, cluster.nodes[1].client().await);
    for (verb, expected) in [
        ("ack", "completed"),
        ("fail", "dead"),
        ("release", "ready"),
        ("ack over TCP", "completed"),
    ] {
        let queue = verb.replace(' ', "-");
        let id = push(&balanced, &queue, json!(verb)).await;
        let held = a.pull(batonq_client::PullOptions::new(&queue)).await.unwrap().remove(0);
        assert_eq!(held.id.0, id);
        b.extend(&held, Duration::from_secs(60)).await.unwrap();
        b.progress(&held, 50, "half").await.unwrap();
        let lease = as_text(&held.lease);
        let settled = match verb {
            "ack over TCP" => {
                b.ack(&held).await.unwrap();
                continue;
            }
            "fail" => {
                let error = json!({"code": "NO", "message": "no"});
                json!({"lease": lease, "error": error, "reject": true})
            }
            _ => json!({"lease": lease}),
        };
        let path = format!("/v1/jobs/{id}/{verb}");
        let reply = cluster.http(2).post(&path, settled).await;
        assert!(reply.status < 300, "{verb}: {}", reply.text);
        let job = balanced.get(&format!("/v1/jobs/{id}")).await.json();
        assert_eq!(job["state"], expected, "{verb}: {job}");
        assert!(a.ack(&held).await.is_err() || verb == "ack", "{verb}: the lease has ended");
    }
}

/// Pushes over HTTP, asking again after a 503, which says that nothing was done. The ids; anything
/// but 201 and 503 is an error that a user sees.
async fn produce(http: Http, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let reply = http.post("/v1/queues/q/jobs", json!({"payload": 1})).await;
        match reply.status {
            201 => ids.push(reply.json()["id"].as_u64().unwrap()),
            503 => assert_eq!(reply.json()["retryable"], true, "{}", reply.text),
            other => panic!("{other}: {}", reply.text),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ids
}

/// Pushes with the Rust client, which must see no error at all.
async fn produce_with_client(url: String, stop: Arc<AtomicBool>) -> Vec<u64> {
    let client = Client::builder().url(&url).worker("producer").connect().await.unwrap();
    let mut ids = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        ids.push(client.push(NewJob::new("q", "2")).await.unwrap().id.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ids
}

#[tokio::test]
async fn a_rolling_restart_under_load_is_seen_by_nobody_and_charged_to_nobody() {
    let mut cluster = Cluster::of(3).await;
    let nginx = cluster.nginx();
    let stop = Arc::new(AtomicBool::new(false));
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        producers.spawn(produce(nginx.http(), Arc::clone(&stop)));
        producers.spawn(produce_with_client(nginx.url(), Arc::clone(&stop)));
    }
    let worked = Arc::new(Mutex::new(Vec::new()));
    let charged = Arc::new(AtomicU32::new(0));
    let mut workers = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..2 {
        let name = format!("worker-{number}");
        let client = Client::builder().url(&nginx.url()).worker(name).connect().await.unwrap();
        let worker = Worker::new(client, "q").concurrency(4);
        workers.push(worker.stop_handle());
        let (worked, charged) = (Arc::clone(&worked), Arc::clone(&charged));
        running.spawn(worker.run(move |context: batonq_client::JobContext| {
            let (worked, charged) = (Arc::clone(&worked), Arc::clone(&charged));
            async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                let job = &*context;
                charged.fetch_add(job.attempt - 1, Ordering::SeqCst);
                worked.lock().push(job.id.0);
                Ok::<_, batonq_client::Failure>(())
            }
        }));
    }
    for place in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.nodes[place].signal("-TERM");
        assert_eq!(cluster.nodes[place].wait(), 0);
        cluster.nodes[place].resume();
        is_ready(&cluster.nodes[place]).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let pushed: HashSet<u64> = producers.join_all().await.into_iter().flatten().collect();
    assert!(pushed.len() > 100, "only {}", pushed.len());
    batonq_tests::harness::eventually("all are worked", || async {
        let queue = cluster.http(0).get("/v1/queues/q").await.json();
        let count = |state: &str| queue["counts"][state].as_u64().unwrap_or(0);
        (count("completed") >= pushed.len() as u64).then_some(())
    })
    .await;
    workers.iter().for_each(batonq_client::StopHandle::stop);
    for ended in running.join_all().await {
        ended.unwrap();
    }
    let worked: HashSet<u64> = worked.lock().iter().copied().collect();
    assert_eq!(pushed.difference(&worked).count(), 0);
    assert_eq!(charged.load(Ordering::SeqCst), 0, "no attempt is charged");
}

fn yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|_| panic!("{path}"));
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_kubernetes_manifests_fit_the_published_schemas() {
    for (manifest, schema) in [
        ("k8s/statefulset.yaml", "statefulset-apps-v1"),
        ("k8s/service.yaml", "service-v1"),
        ("k8s/service-headless.yaml", "service-v1"),
        ("k8s/pdb.yaml", "poddisruptionbudget-policy-v1"),
        ("k8s/secret.example.yaml", "secret-v1"),
        ("k8s/migrate-job.yaml", "job-batch-v1"),
    ] {
        let path = root().join(format!("tests/data/k8s/{schema}.json"));
        let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let instance = yaml(manifest);
        let errors: Vec<String> =
            validator.iter_errors(&instance).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{manifest}: {errors:#?}");
        let mut bogus = instance.clone();
        bogus["spec"]["bogus"] = json!(1);
        bogus["bogus"] = json!(1);
        assert!(!validator.is_valid(&bogus), "{schema} refuses nothing");
    }
}

#[test]
fn the_manifests_promise_what_users_were_promised() {
    let set = yaml("k8s/statefulset.yaml");
    assert_eq!(set["spec"]["replicas"], 3);
    let pod = &set["spec"]["template"]["spec"];
    let node = &pod["containers"][0];
    let env = |name: &str| {
        let all = node["env"].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(env("NODE_ID")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    assert!(!env("DATABASE_URL")["valueFrom"]["secretKeyRef"].is_null());
    assert_eq!(env("CLUSTER_MODE")["value"], "1");
    assert_eq!(node["livenessProbe"]["httpGet"]["path"], "/health/live");
    assert_eq!(node["readinessProbe"]["httpGet"]["path"], "/health/ready");
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30);
    assert_eq!(pod["enableServiceLinks"], false, "BATONQ_PORT of a Service would be no setting");
    let ports = yaml("k8s/service.yaml")["spec"]["ports"].clone();
    let ports: Vec<(Value, Value)> = ports
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["name"].clone(), port["port"].clone()))
        .collect();
    assert_eq!(ports, [(json!("tcp"), json!(6789)), (json!("http"), json!(6790))]);
    let kustomization = yaml("k8s/kustomization.yaml");
    for resource in kustomization["resources"].as_array().unwrap() {
        let file = root().join("k8s").join(resource.as_str().unwrap());
        assert!(file.exists(), "{}", file.display());
    }
}

/// Settings in files for operators are settings that there are.
#[test]
fn every_variable_in_the_shipped_files_is_a_setting() {
    let known: HashSet<&str> =
        batonq_server::config::SETTINGS.iter().map(|setting| setting.env).collect();
    let is_known = |name: &str| {
        known.contains(name)
            || name.strip_suffix("_FILE").is_some_and(|name| known.contains(name))
            || ["BATONQ_CONFIG", "BATONQ_URL", "BATONQ_TOKEN"].contains(&name)
    };
    for file in [".env.example", "compose.yaml", "compose.cluster.yaml", "k8s/statefulset.yaml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let is_comment = |line: &&str| line.trim_start().starts_with("# ");
        let text: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
        let text = text.join("\n");
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
            let is_setting = word.starts_with("BATONQ_") || word.starts_with("NODE_");
            assert!(!is_setting || is_known(word), "{file}: {word} is no setting");
        }
    }
    let example = std::fs::read_to_string(root().join(".env.example")).unwrap();
    for name in known {
        assert!(example.contains(name), ".env.example does not explain {name}");
    }
}

#[test]
fn the_compose_files_have_the_promised_topologies() {
    let one = yaml("compose.yaml");
    assert_eq!(one["services"].as_object().unwrap().len(), 1);
    let many = yaml("compose.cluster.yaml");
    let services = many["services"].as_object().unwrap();
    let ports = |name: &str| services[name]["ports"].to_string();
    for (name, port) in
        [("batonq-1", "9123"), ("batonq-2", "9124"), ("batonq-3", "9125"), ("nginx", "9000")]
    {
        assert!(ports(name).contains(port), "{name}: {}", ports(name));
    }
    assert!(services.contains_key("postgres") && services.contains_key("migrate"));
}
