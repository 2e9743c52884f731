//! Nodes that fall silent and come back, over fake agents: what they had is started elsewhere, once.

mod deploy_support;

use berth_model::ContainerId;
use berth_model::api::Progress;
use deploy_support::{Seen, World, backends, git, placed, route, specs};
use http::Method;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HOST: &str = "hello.berth.test";

struct Cluster {
    world: World,
    dir: PathBuf,
    url: String,
}

async fn cluster(nodes: &[&str], procfile: &str) -> Cluster {
    let world = World::of(nodes).await;
    let dir = world.repository("src", "main", &[("Procfile", procfile)]);
    let token: serde_json::Value =
        world.api().json(Method::POST, "/v1/tokens", Some(&json!({"name": "ci"}))).await.expect("a token");
    let port = world.options.api.port();
    let url = format!("http://x:{}@127.0.0.1:{port}/hello.git", token["token"].as_str().expect("text"));
    Cluster { world, dir, url }
}

impl Cluster {
    async fn push(&self) {
        let (dir, url) = (self.dir.clone(), self.url.clone());
        let pushed = tokio::task::spawn_blocking(move || git(&dir, &["push", &url, "main"])).await;
        pushed.expect("runs").expect("it is deployed");
    }

    async fn scale(&self, web: u32) {
        let body = json!({"formation": {"web": web}});
        let (_, result) = self.world.operate(Method::POST, "/v1/apps/hello/scale", body).await;
        result.expect("scaled");
    }

    fn cut(&self, node: &str) {
        self.world.change(|script| {
            script.cut_off.insert(node.to_owned());
        });
    }

    fn mend(&self, node: &str) {
        self.world.change(|script| {
            script.cut_off.remove(node);
        });
    }

    /// Of the containers that the routes lead to, how many are on which node.
    fn serving(&self) -> BTreeMap<String, usize> {
        serving(&self.world.seen())
    }
}

fn serving(seen: &Seen) -> BTreeMap<String, usize> {
    let placed = placed(seen);
    let mut counts = BTreeMap::new();
    for id in backends(seen, HOST) {
        *counts.entry(placed.get(&id).cloned().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn of_node(seen: &Seen, node: &str) -> BTreeSet<ContainerId> {
    seen.assignments.get(node).map(|one| one.containers.keys().cloned().collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_nodes_containers_serve_elsewhere_and_its_stale_ones_stop_when_it_is_back() {
    let one = cluster(&["n1", "n2", "n3"], "web: ./serve\nworker: ./work\n").await;
    one.push().await;
    one.scale(6).await;
    one.world.until("two on each", |seen| serving(seen).values().eq(&[2, 2, 2])).await;
    let stale = of_node(&one.world.seen(), "n2");
    let kept: BTreeSet<_> =
        backends(&one.world.seen(), HOST).into_iter().filter(|id| !stale.contains(id)).collect();

    let began = Instant::now();
    one.cut("n2");
    let elsewhere = |seen: &Seen| {
        let now: BTreeSet<_> = backends(seen, HOST).into_iter().collect();
        now.len() == 6 && now.is_disjoint(&stale)
    };
    one.world.until("six serve elsewhere", elsewhere).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let now: BTreeSet<_> = backends(&one.world.seen(), HOST).into_iter().collect();
    assert!(kept.is_subset(&now), "what ran well is left alone");
    assert_eq!(one.serving(), [("n1".to_owned(), 3), ("n3".to_owned(), 3)].into());

    // It is back, still with its old containers: they stop, and nobody is sent to them.
    one.mend("n2");
    one.world.until("n2 is told", |seen| of_node(seen, "n2").is_disjoint(&stale)).await;
    assert_eq!(backends(&one.world.seen(), HOST).into_iter().collect::<BTreeSet<_>>(), now, "nothing moves");
    // It gets no new work until it was stable for a while.
    one.scale(8).await;
    one.world.until("eight serve", |seen| backends(seen, HOST).len() == 8).await;
    assert!(of_node(&one.world.seen(), "n2").is_empty(), "{:?}", one.serving());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_goes_on_elsewhere_when_its_node_is_lost() {
    let one = cluster(&["n1", "n2"], "web: ./serve\n").await;
    one.push().await;
    one.scale(2).await;
    one.world.change(|script| {
        script.stuck.insert("web".into());
    });
    let api = one.world.api();
    let call = tokio::spawn(async move {
        let body = json!({"process": "web"});
        let mut lines = api.lines(Method::POST, "/v1/apps/hello/restart", Some(&body)).await.expect("begins");
        loop {
            match lines.next::<Progress>().await {
                Ok(Some(Progress::Done)) => return Ok(()),
                Ok(Some(Progress::Failed { error })) => return Err(error.message),
                Ok(Some(_)) => {}
                other => return Err(format!("{other:?}")),
            }
        }
    });
    one.world.until("new ones start", |seen| specs(seen).len() == 4).await;
    one.cut("n2");
    one.world.until("they start on n1", |seen| of_node(seen, "n1").len() == 4).await;
    one.world.change(|script| script.stuck.clear());
    tokio::time::timeout(Duration::from_secs(20), call)
        .await
        .expect("in time")
        .expect("runs")
        .expect("restarted");
    one.world.until("two serve on n1", |seen| serving(seen) == [("n1".to_owned(), 2)].into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_to_a_lost_node_stays_and_serves_again_when_it_is_back() {
    let one = cluster(&["n1", "n2"], "web: ./serve\n").await;
    one.push().await;
    let mounts = json!({"mounts": [{"source": "data", "target": "/data"}]});
    let (_, result) = one.world.operate(Method::PATCH, "/v1/apps/hello", mounts).await;
    result.expect("mounted");
    let (_, result) = one.world.operate(Method::POST, "/v1/apps/hello/restart", json!({})).await;
    result.expect("restarted");
    let is_bound = |seen: &Seen| {
        let specs = specs(seen);
        specs.len() == 1 && !specs[0].mounts.is_empty() && backends(seen, HOST).len() == 1
    };
    one.world.until("it has its volume", is_bound).await;
    let before = backends(&one.world.seen(), HOST);
    let node = placed(&one.world.seen())[&before[0]].clone();
    one.cut(&node);
    let report =
        async || -> serde_json::Value { one.world.api().get("/v1/apps/hello/ps").await.expect("exists") };
    let waiting = async {
        loop {
            let text = report().await["containers"][0]["waiting"].to_string();
            if text.contains("volume") {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it is said");
    assert!(text.contains(&format!("node {node} is lost")) && text.contains("volume data"), "{text}");
    assert_eq!(specs(&one.world.seen()).len(), 1, "nobody else gets the volume");
    one.mend(&node);
    one.world.until("it serves again", |seen| backends(seen, HOST) == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_after_a_restart_though_a_node_never_reports() {
    let mut one = cluster(&["n1", "n2"], "web: ./serve\n").await;
    one.push().await;
    one.scale(2).await;
    one.world.until("one on each", |seen| serving(seen).values().eq(&[1, 1])).await;
    one.world.kill().await;
    one.cut("n2");
    one.world.boot().await;
    one.world.until("both serve on n1", |seen| serving(seen) == [("n1".to_owned(), 2)].into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_machine_whose_agent_is_away_keeps_its_routes() {
    let one = cluster(&["n1"], "web: ./serve\n").await;
    one.push().await;
    one.world.until("it serves", |seen| backends(seen, HOST).len() == 1).await;
    let before = backends(&one.world.seen(), HOST);
    one.cut("n1");
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(backends(&one.world.seen(), HOST), before);
    assert!(route(&one.world.seen(), HOST).is_some());
    one.mend("n1");
    one.scale(2).await;
    one.world.until("it takes work at once", |seen| backends(seen, HOST).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_empty_and_at_no_moment_serves_anything_less() {
    let one = cluster(&["n1", "n2", "n3"], "web: ./serve\nworker: ./work\n").await;
    one.push().await;
    one.scale(6).await;
    one.world.until("two on each", |seen| serving(seen).values().eq(&[2, 2, 2])).await;
    let mut tables = one.world.seen.subscribe();
    let least = tokio::spawn(async move {
        let mut least = usize::MAX;
        while tables.changed().await.is_ok() {
            let seen = tables.borrow_and_update().clone();
            least = least.min(backends(&seen, HOST).len());
            if of_node(&seen, "n2").is_empty() {
                break;
            }
        }
        least
    });
    let drain = async |body| one.world.operate(Method::POST, "/v1/nodes/n2/drain", body).await;
    let (lines, result) = drain(json!({"timeout_secs": 60})).await;
    result.unwrap_or_else(|error| panic!("{error:?} {lines:?}"));
    assert!(of_node(&one.world.seen(), "n2").is_empty());
    assert!(least.await.expect("runs") >= 6, "the new one serves before the old one goes");
    assert_eq!(one.serving(), [("n1".to_owned(), 3), ("n3".to_owned(), 3)].into());
    one.scale(8).await;
    assert!(of_node(&one.world.seen(), "n2").is_empty(), "it gets nothing new");
    drain(json!({"undo": true})).await.1.expect("taken back");
    one.scale(9).await;
    one.world.until("it takes containers again", |seen| !of_node(seen, "n2").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_what_must_stay_and_goes_on_though_nobody_watches_and_the_controller_dies() {
    let mut one = cluster(&["n1", "n2"], "web: ./serve\n").await;
    one.push().await;
    let mounts = json!({"mounts": [{"source": "data", "target": "/data"}]});
    one.world.operate(Method::PATCH, "/v1/apps/hello", mounts).await.1.expect("mounted");
    one.world.operate(Method::POST, "/v1/apps/hello/restart", json!({})).await.1.expect("restarted");
    one.world.until("it serves", |seen| backends(seen, HOST).len() == 1 && specs(seen).len() == 1).await;
    let node = placed(&one.world.seen())[&backends(&one.world.seen(), HOST)[0]].clone();
    let path = format!("/v1/nodes/{node}/drain");
    let (_, result) = one.world.operate(Method::POST, &path, json!({})).await;
    let text = result.expect_err("it is not empty").message;
    assert!(text.contains("hello web.1: volume data is on this node's disk"), "{text}");

    one.world.operate(Method::PATCH, "/v1/apps/hello", json!({"mounts": []})).await.1.expect("unmounted");
    one.world.change(|script| {
        script.stuck.insert("web".into());
    });
    // It is moved by itself from now on, for its node is still being emptied: a watcher is not needed, and its restart neither.
    one.world
        .operate(Method::POST, "/v1/apps/hello/scale", json!({"formation": {"web": 0}}))
        .await
        .1
        .expect("scaled");
    one.world.change(|script| script.stuck.clear());
    one.scale(1).await;
    one.world
        .until("it serves elsewhere", |seen| {
            backends(seen, HOST).len() == 1 && of_node(seen, &node).is_empty()
        })
        .await;
    one.world.operate(Method::POST, &path, json!({"undo": true})).await.1.expect("taken back");
    one.scale(4).await;
    one.world.until("two on each", |seen| serving(seen).values().eq(&[2, 2])).await;
    // Somebody asks for it, goes away at once, and the controller dies.
    let mut asked = one.world.api().lines(Method::POST, &path, Some(&json!({}))).await.expect("an answer");
    let begun: Option<Progress> = asked.next().await.expect("it begins");
    drop((begun, asked));
    one.world.kill().await;
    one.world.boot().await;
    one.world
        .until("it is empty", |seen| of_node(seen, &node).is_empty() && backends(seen, HOST).len() == 4)
        .await;
}
