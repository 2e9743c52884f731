//! Deploys over a fake agent and proxy, with the controller killed between any two steps.

mod deploy_support;

use berth_model::api::Progress;
use deploy_support::{Seen, World, backends, git, route, specs};
use http::Method;
use serde_json::json;
use std::path::PathBuf;

const HOST: &str = "hello.berth.test";

/// A push without SSH: what the hook would ask, by git's own plumbing over HTTP with a token.
struct Pusher {
    world: World,
    dir: PathBuf,
    url: String,
}

async fn pusher(procfile: &str) -> Pusher {
    let world = World::start().await;
    let dir = world.repository("src", "main", &[("Procfile", procfile)]);
    let body = json!({"name": "ci"});
    let token: serde_json::Value =
        world.api().json(Method::POST, "/v1/tokens", Some(&body)).await.expect("a token");
    let url = format!(
        "http://x:{}@127.0.0.1:{}/hello.git",
        token["token"].as_str().expect("text"),
        world.options.api.port()
    );
    Pusher { world, dir, url }
}

impl Pusher {
    async fn push(&self) -> Result<String, String> {
        let (dir, url) = (self.dir.clone(), self.url.clone());
        tokio::task::spawn_blocking(move || git(&dir, &["push", &url, "main"])).await.expect("runs")
    }

    fn commit(&self, text: &str) {
        deploy_support::commit(&self.dir, &[("file", text)], text);
    }

    async fn releases(&self) -> Vec<(u64, String)> {
        let all: Vec<serde_json::Value> =
            self.world.api().get("/v1/apps/hello/releases").await.expect("exists");
        let one = |release: &serde_json::Value| {
            (release["version"].as_u64().unwrap_or(0), release["outcome"].as_str().unwrap_or("").to_owned())
        };
        all.iter().map(one).collect()
    }
}

fn versions(seen: &Seen) -> Vec<u64> {
    specs(seen).iter().map(|spec| spec.release.0).collect()
}

fn texts(lines: &[Progress]) -> String {
    format!("{lines:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn new_containers_serve_and_old_ones_go_when_they_are_drained() {
    let one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    assert_eq!(v1.len(), 1);
    one.world.change(|script| {
        script.draining.insert(v1[0].clone(), 1);
    });
    one.commit("two");
    one.push().await.expect("v2, though v1 still drains");
    one.world.until("v2 serves alone", |seen| !backends(seen, HOST).contains(&v1[0])).await;
    assert!(specs(&one.world.seen()).iter().any(|spec| spec.id == v1[0]), "v1 still has a request in flight");
    one.world.change(|script| script.draining.clear());
    one.world.until("v1 is gone", |seen| specs(seen).iter().all(|spec| spec.id != v1[0])).await;
    assert_eq!(one.releases().await, [(2, "live".into()), (1, "live".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_start_leaves_everything_as_it_was() {
    let one = pusher("web: ./serve\nworker: ./work\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| {
        script.exits.insert("web".into(), 1);
    });
    one.commit("two");
    one.push().await.expect_err("v2 crashes");
    one.world.until("v2 is gone", |seen| versions(seen) == [1]).await;
    assert_eq!(backends(&one.world.seen(), HOST), v1);
    assert_eq!(one.releases().await, [(2, "failed".into()), (1, "live".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_task_runs_first_and_its_failure_starts_nothing() {
    let one = pusher("web: ./serve\nrelease: ./migrate\n").await;
    let text = one.push().await.expect("v1");
    assert!(text.contains("Running the release task: ./migrate") && text.contains("migrating"), "{text}");
    assert_eq!(versions(&one.world.seen()), [1], "it is no container of the formation");
    one.world.change(|script| script.release_code = Some(9));
    one.commit("two");
    let text = one.push().await.expect_err("v2 does not migrate");
    assert!(text.contains("the release task exited with code 9"), "{text}");
    assert!(!one.world.seen().numbers.0.is_empty() && versions(&one.world.seen()) == [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_config_restart_rollback_stop_and_start() {
    let one = pusher("web: ./serve\nworker: ./work\n").await;
    one.push().await.expect("v1");
    let world = &one.world;
    let post =
        async |path: &str, body| world.operate(Method::POST, &format!("/v1/apps/hello/{path}"), body).await;
    let (_, result) = post("scale", json!({"formation": {"web": 3, "worker": 1}})).await;
    result.expect("scaled up");
    world.until("three serve", |seen| backends(seen, HOST).len() == 3 && specs(seen).len() == 4).await;
    let before = backends(&world.seen(), HOST);
    let (_, result) = post("scale", json!({"formation": {"web": 2}})).await;
    result.expect("scaled down");
    world.until("two serve", |seen| backends(seen, HOST).len() == 2 && specs(seen).len() == 3).await;
    assert!(
        backends(&world.seen(), HOST).iter().all(|id| before.contains(id)),
        "nothing is restarted for it"
    );
    let (_, result) = post("scale", json!({"formation": {"nosuch": 1}})).await;
    assert!(result.expect_err("no such process").message.contains("it has: web, worker"));

    let patch = json!({"set": {"GREETING": "hi"}});
    let (lines, result) = world.operate(Method::PATCH, "/v1/apps/hello/config", patch).await;
    result.unwrap_or_else(|error| panic!("{error:?} {}", texts(&lines)));
    world.until("v2 everywhere", |seen| versions(seen) == [2, 2, 2]).await;
    let greeting = berth_model::EnvName::parse("GREETING").expect("valid");
    assert!(
        specs(&world.seen()).iter().all(|spec| spec.env.get(&greeting).is_some_and(|value| value == "hi"))
    );

    let ids = backends(&world.seen(), HOST);
    let (_, result) = post("restart", json!({"process": "web"})).await;
    result.expect("restarted");
    world
        .until("new ones", |seen| {
            backends(seen, HOST).len() == 2 && backends(seen, HOST).iter().all(|id| !ids.contains(id))
        })
        .await;
    assert_eq!(one.releases().await.len(), 2, "a restart is no release");

    let (_, result) = post("rollback", json!({})).await;
    result.expect("rolled back");
    world.until("v3 everywhere", |seen| versions(seen) == [3, 3, 3]).await;
    assert!(specs(&world.seen()).iter().all(|spec| !spec.env.contains_key(&greeting)));

    let (_, result) = post("stop", json!({})).await;
    result.expect("stopped");
    world.until("nothing runs", |seen| specs(seen).is_empty()).await;
    assert!(matches!(
        route(&world.seen(), HOST).map(|route| &route.target),
        Some(berth_model::route::Target::NoWeb)
    ));
    let (_, result) = post("start", json!({})).await;
    result.expect("started");
    world.until("two serve", |seen| backends(seen, HOST).len() == 2 && specs(seen).len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_in_the_release_task_takes_the_push_back() {
    let mut one = pusher("web: ./serve\nrelease: ./migrate\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| script.release_code = None);
    one.commit("two");
    let push = tokio::spawn({
        let (dir, url) = (one.dir.clone(), one.url.clone());
        async move { tokio::task::spawn_blocking(move || git(&dir, &["push", &url, "main"])).await }
    });
    one.world.until("it migrates", |seen| seen.release_tasks == 2).await;
    one.world.kill().await;
    push.await.expect("runs").expect("runs").expect_err("the pusher sees it fail");
    one.world.boot().await;
    one.world.until("v1 serves", |seen| backends(seen, HOST) == v1).await;
    wait_for_releases(&one, &[(2, "failed"), (1, "live")]).await;
    one.world.change(|script| script.release_code = Some(0));
    one.push().await.expect("the next push works");
}

async fn wait_for_releases(one: &Pusher, wanted: &[(u64, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(version, outcome)| (*version, (*outcome).to_owned())).collect();
    let same = async {
        while one.releases().await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    if tokio::time::timeout(limit, same).await.is_err() {
        panic!("{:?} instead of {wanted:?}", one.releases().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_that_an_app_does_not_start_with_are_not_kept() {
    let one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| {
        script.exits.insert("web".into(), 1);
    });
    let mounts = json!([{"source": "data", "target": "/data", "read_only": false}]);
    let patch = async |mounts: &serde_json::Value| {
        one.world.operate(Method::PATCH, "/v1/apps/hello", json!({ "mounts": mounts })).await.1
    };
    let kept = async || -> serde_json::Value {
        let app: serde_json::Value = one.world.api().get("/v1/apps/hello").await.expect("exists");
        app["mounts"].clone()
    };
    let refused = patch(&mounts).await.expect_err("it does not start");
    assert!(refused.message.ends_with("; the mounts are as they were"), "{}", refused.message);
    assert_eq!(kept().await, json!([]));
    assert_eq!(backends(&one.world.seen(), HOST), v1, "what ran serves on");

    one.world.change(|script| script.exits.clear());
    patch(&mounts).await.expect("mounted");
    one.world.change(|script| {
        script.exits.insert("web".into(), 1);
    });
    patch(&json!([])).await.expect_err("it does not start without");
    assert_eq!(kept().await, mounts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_while_containers_start_takes_a_push_back() {
    let mut one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| {
        script.stuck.insert("web".into());
    });
    one.commit("two");
    let (dir, url) = (one.dir.clone(), one.url.clone());
    let push = tokio::task::spawn_blocking(move || git(&dir, &["push", &url, "main"]));
    one.world.until("v2 starts", |seen| versions(seen).contains(&2)).await;
    one.world.kill().await;
    push.await.expect("runs").expect_err("the pusher sees it fail");
    one.world.boot().await;
    one.world.until("v2 is gone, v1 is not", |seen| versions(seen) == [1]).await;
    assert_eq!(backends(&one.world.seen(), HOST), v1);
    wait_for_releases(&one, &[(2, "failed"), (1, "live")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_while_containers_start_goes_on_with_a_config_change() {
    let mut one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    one.world.change(|script| {
        script.stuck.insert("web".into());
    });
    let patch = json!({"set": {"GREETING": "hi"}});
    let api = one.world.api();
    let call = tokio::spawn(async move {
        let mut lines =
            api.lines(Method::PATCH, "/v1/apps/hello/config", Some(&patch)).await.expect("begins");
        while let Ok(Some(Progress::Step { .. } | Progress::Detail { .. })) = lines.next::<Progress>().await {
        }
    });
    one.world.until("v2 starts", |seen| versions(seen).contains(&2)).await;
    one.world.kill().await;
    call.await.expect("its connection breaks");
    one.world.boot().await;
    one.world.change(|script| script.stuck.clear());
    one.world.until("v2 serves", |seen| versions(seen) == [2] && backends(seen, HOST).len() == 1).await;
    wait_for_releases(&one, &[(2, "live"), (1, "live")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_after_the_swap_finishes_it() {
    let mut one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| script.proxy_stuck = true);
    one.commit("two");
    let (dir, url) = (one.dir.clone(), one.url.clone());
    let push = tokio::task::spawn_blocking(move || git(&dir, &["push", &url, "main"]));
    one.world.until("v2 starts", |seen| versions(seen).contains(&2)).await;
    // The proxy keeps the old routes, so the push waits for it: that is the step between swap and end.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(one.releases().await[0], (2, "pending".into()));
    assert!(versions(&one.world.seen()).contains(&1), "v1 is not stopped before the proxy has let go of it");
    one.world.kill().await;
    let _ = push.await;
    one.world.boot().await;
    one.world.change(|script| script.proxy_stuck = false);
    one.world
        .until("v2 serves alone", |seen| versions(seen) == [2] && !backends(seen, HOST).contains(&v1[0]))
        .await;
    wait_for_releases(&one, &[(2, "live"), (1, "live")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_while_old_ones_drain_lets_them_drain() {
    let mut one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let v1 = backends(&one.world.seen(), HOST);
    one.world.change(|script| {
        script.draining.insert(v1[0].clone(), 2);
    });
    one.commit("two");
    one.push().await.expect("v2");
    one.world.kill().await;
    one.world.boot().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(versions(&one.world.seen()).contains(&1), "v1 still has requests in flight");
    one.world.change(|script| script.draining.clear());
    one.world.until("v1 is gone", |seen| versions(seen) == [2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_controller_changes_nothing() {
    let mut one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    one.world.until("a route", |seen| backends(seen, HOST).len() == 1).await;
    let before = one.world.seen();
    for _ in 0..3 {
        one.world.kill().await;
        one.world.boot().await;
    }
    let generation = before.assignment.as_ref().expect("assigned").generation;
    let newer =
        |seen: &Seen| seen.assignment.as_ref().is_some_and(|assignment| assignment.generation > generation);
    one.world.until("orders come again", newer).await;
    let after = one.world.seen();
    assert_eq!(specs(&after), specs(&before));
    assert_eq!(backends(&after, HOST), backends(&before, HOST));
    assert!(after.numbers.0.is_sorted() && after.numbers.1.is_sorted(), "{:?}", after.numbers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_app_stops_and_its_name_answers_no_more() {
    let one = pusher("web: ./serve\n").await;
    one.push().await.expect("v1");
    let (_, result) = one.world.operate(Method::DELETE, "/v1/apps/hello", json!({})).await;
    let _ = result; // it answers without lines
    one.world.until("nothing runs", |seen| specs(seen).is_empty() && route(seen, HOST).is_none()).await;
    one.push().await.expect("the name can be used again");
}
