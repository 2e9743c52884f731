//! Who is let in over TCP, and that nothing secret is found in the files of the store.

mod common;

use base64::Engine;
use common::{Controller, app_name, ask, from_peer, request, with_auth};
use http::StatusCode;
use serde_json::json;

const LOOPBACK: &str = "127.0.0.1:50000";
const FAR: &str = "192.0.2.7:50000";

async fn token(controller: &Controller, name: &str) -> String {
    let made = controller.call("POST", "/v1/tokens", Some(json!({ "name": name }))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    made.json()["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_token_is_needed_and_enough_in_both_schemes() {
    let controller = Controller::start().await;
    let (right, remote) = (token(&controller, "ci").await, controller.remote());
    assert!(right.starts_with("berth_") && right.len() == 49, "{right}");
    let basic = |token: &str| {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{token}")))
    };
    let wrong = format!("berth_{}", "A".repeat(43));
    let cases = [
        (None, StatusCode::UNAUTHORIZED),
        (Some(format!("Bearer {right}")), StatusCode::OK),
        (Some(basic(&right)), StatusCode::OK),
        (Some(format!("Bearer {wrong}")), StatusCode::UNAUTHORIZED),
        (Some(basic(&wrong)), StatusCode::UNAUTHORIZED),
        (Some(format!("Bearer {}", &right[..48])), StatusCode::UNAUTHORIZED),
        (Some("Bearer ".to_owned()), StatusCode::UNAUTHORIZED),
        (Some(right.clone()), StatusCode::UNAUTHORIZED),
    ];
    for (auth, status) in cases {
        for (peer, encrypted) in [(LOOPBACK, false), (FAR, true)] {
            let mut asked = from_peer(request("GET", "/v1/apps", None), peer, encrypted);
            if let Some(auth) = &auth {
                asked = with_auth(asked, auth);
            }
            let reply = ask(&remote, asked).await;
            assert_eq!(reply.status, status, "{auth:?} from {peer}");
            let challenges = reply.headers.get_all("www-authenticate").iter().count();
            assert_eq!(challenges, if status == StatusCode::UNAUTHORIZED { 2 } else { 0 });
        }
    }
    let used = controller.get("/v1/tokens").await;
    assert!(used.json()[0]["last_used_ms"].is_i64());
    assert!(!used.text().contains("berth_"), "tokens are shown once");
    assert_eq!(controller.call("DELETE", "/v1/tokens/ci", None).await.status, StatusCode::NO_CONTENT);
    let asked = from_peer(request("GET", "/v1/apps", None), FAR, true);
    let reply = ask(&remote, with_auth(asked, &format!("Bearer {right}"))).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "revoked at once");
}

#[tokio::test]
async fn plain_http_is_only_for_this_machine() {
    let controller = Controller::start().await;
    let (right, remote) = (token(&controller, "ci").await, controller.remote());
    for peer in [FAR, "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
        for path in ["/v1/apps", "/healthz", "/openapi.json", "/nothing"] {
            let asked = from_peer(request("GET", path, None), peer, false);
            let reply = ask(&remote, with_auth(asked, &format!("Bearer {right}"))).await;
            assert_eq!((reply.status, reply.code().as_str()), (StatusCode::FORBIDDEN, "forbidden"), "{path}");
        }
    }
    for peer in [LOOPBACK, "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        let asked = from_peer(request("GET", "/openapi.json", None), peer, false);
        assert_eq!(ask(&remote, asked).await.status, StatusCode::OK, "{peer}");
    }
    let unknown = ask(&remote, request("GET", "/openapi.json", None)).await;
    assert_eq!(
        unknown.status,
        StatusCode::FORBIDDEN,
        "a listener that says nothing of its peer lets nobody in"
    );
}

#[tokio::test]
async fn open_paths_need_no_token_and_no_others_are_open() {
    let controller = Controller::start().await;
    let remote = controller.remote();
    let description: serde_json::Value =
        serde_json::from_str(&berth_controller::api::openapi()).expect("JSON");
    for (path, operations) in description["paths"].as_object().expect("paths") {
        let path = path.replace("{app}", "hello").replace("{version}", "v1").replace("{name}", "x");
        for method in operations.as_object().expect("operations").keys() {
            let asked = from_peer(request(&method.to_uppercase(), &path, None), FAR, true);
            let status = ask(&remote, asked).await.status;
            let open = path == "/healthz";
            assert_eq!(status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {status}");
        }
    }
    let described = ask(&remote, from_peer(request("GET", "/openapi.json", None), FAR, true)).await;
    assert_eq!(described.json(), description);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let controller = Controller::start().await;
    let (right, remote) = (token(&controller, "ci").await, controller.remote());
    let try_token = async |token: &str, peer: &str| {
        let asked = from_peer(request("GET", "/v1/version", None), peer, true);
        ask(&remote, with_auth(asked, &format!("Bearer {token}"))).await
    };
    for _ in 0..10 {
        assert_eq!(try_token("berth_x", FAR).await.status, StatusCode::UNAUTHORIZED);
    }
    let slowed = try_token("berth_x", FAR).await;
    assert_eq!(slowed.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(slowed.headers.contains_key("retry-after"));
    assert_eq!(try_token("berth_x", "192.0.2.8:1").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(try_token(&right, FAR).await.status, StatusCode::OK);
}

async fn with(controller: &Controller, method: &str, path: &str, secret: &str) -> common::Reply {
    let asked = from_peer(request(method, path, None), FAR, true);
    ask(&controller.remote(), with_auth(asked, &format!("Bearer {secret}"))).await
}

/// Begins a session by a token or a code.
async fn session(controller: &Controller, secret: &str) -> String {
    let made = with(controller, "POST", "/v1/sessions", secret).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    made.json()["session"].as_str().expect("a secret").to_owned()
}

#[tokio::test]
async fn a_session_acts_for_its_token_and_ends_with_it() {
    let controller = Controller::start().await;
    let right = token(&controller, "ada").await;
    let own = session(&controller, &right).await;
    assert!(own.starts_with("berths_") && own.len() == 50, "{own}");
    let current = with(&controller, "GET", "/v1/sessions/current", &own).await;
    assert_eq!(current.json()["by"], "ada");
    assert_eq!(current.json()["from"], "https 192.0.2.7");
    assert_eq!(with(&controller, "GET", "/v1/sessions/current", &right).await.status, StatusCode::NOT_FOUND);
    let listed = controller.get("/v1/sessions").await;
    assert!(!listed.text().contains(&own), "secrets are shown once");
    let again = with(&controller, "POST", "/v1/sessions", &own).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST, "a session cannot outlive itself");

    let other = session(&controller, &right).await;
    let id = with(&controller, "GET", "/v1/sessions/current", &other).await.json()["id"].clone();
    let path = format!("/v1/sessions/{}", id.as_str().expect("an id"));
    assert_eq!(controller.call("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(with(&controller, "GET", "/v1/apps", &other).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(controller.call("DELETE", &path, None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        with(&controller, "GET", "/v1/apps", &own).await.status,
        StatusCode::OK,
        "only the one that was meant"
    );

    assert_eq!(controller.call("DELETE", "/v1/tokens/ada", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(with(&controller, "GET", "/v1/apps", &own).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(controller.get("/v1/sessions").await.json(), json!([]));
}

#[tokio::test]
async fn all_other_sessions_end_at_once() {
    let controller = Controller::start().await;
    let (ada, bob) = (token(&controller, "ada").await, token(&controller, "bob").await);
    let sessions = [
        session(&controller, &ada).await,
        session(&controller, &ada).await,
        session(&controller, &bob).await,
    ];
    let statuses = async || {
        let mut statuses = Vec::new();
        for secret in &sessions {
            statuses.push(with(&controller, "GET", "/v1/sessions/current", secret).await.status.as_u16());
        }
        statuses
    };
    assert_eq!(
        with(&controller, "DELETE", "/v1/sessions", &sessions[1]).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(statuses().await, [401, 200, 401]);
    assert_eq!(controller.call("DELETE", "/v1/sessions", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(statuses().await, [401, 401, 401]);
    assert_eq!(with(&controller, "GET", "/v1/version", &ada).await.status, StatusCode::OK, "tokens stay");
}

#[tokio::test]
async fn a_name_has_twenty_sessions_at_most() {
    let controller = Controller::start().await;
    let (ada, bob) = (token(&controller, "ada").await, token(&controller, "bob").await);
    session(&controller, &bob).await;
    for _ in 0..25 {
        session(&controller, &ada).await;
    }
    let listed = controller.get("/v1/sessions").await.json();
    let of = |name: &str| listed.as_array().expect("a list").iter().filter(|one| one["by"] == name).count();
    assert_eq!((of("ada"), of("bob")), (20, 1));
}

#[tokio::test]
async fn a_code_begins_one_session_and_nothing_else() {
    let controller = Controller::start().await;
    let made = controller.call("POST", "/v1/sign-in-codes", Some(json!({}))).await.json();
    let code = made["code"].as_str().expect("a code");
    assert!(made["url"].as_str().expect("a page").ends_with(&format!("/ui/sign-in?code={code}")), "{made}");
    for (method, path) in
        [("GET", "/v1/apps"), ("POST", "/v1/sign-in-codes"), ("GET", "/v1/sessions"), ("GET", "/v2/")]
    {
        assert_eq!(
            with(&controller, method, path, code).await.status,
            StatusCode::FORBIDDEN,
            "{method} {path}"
        );
    }
    let own = session(&controller, code).await;
    assert_eq!(with(&controller, "GET", "/v1/sessions/current", &own).await.json()["by"], "local");
    assert_eq!(
        with(&controller, "POST", "/v1/sessions", code).await.status,
        StatusCode::UNAUTHORIZED,
        "used up"
    );
    let local = controller.call("POST", "/v1/sessions", None).await;
    assert_eq!(local.status, StatusCode::BAD_REQUEST, "the socket needs no session");
}

#[tokio::test]
async fn the_local_admin_may_act_for_others_but_not_for_nonsense() {
    let controller = Controller::start().await;
    let local = berth_controller::api::local(&controller.platform);
    for (name, status) in
        [("alice", StatusCode::OK), ("a b", StatusCode::BAD_REQUEST), ("", StatusCode::BAD_REQUEST)]
    {
        let mut asked = request("GET", "/v1/version", None);
        asked.headers_mut().insert("berth-as", name.parse().expect("a header"));
        assert_eq!(ask(&local, asked).await.status, status, "{name:?}");
    }
}

fn files_under(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn no_secret_is_in_any_file_and_all_state_outlives_a_restart() {
    const SECRET: &str = "s3cr3t-value-0123456789";
    let controller = Controller::start().await;
    controller.create("hello").await;
    let set = json!({"set": {"PASSWORD": SECRET}});
    assert_eq!(controller.call("PATCH", "/v1/apps/hello/config", Some(set.clone())).await.end(), "done");
    assert_eq!(controller.call("PATCH", "/v1/config", Some(set)).await.end(), "done");
    controller.pretend_deployed("hello", &[("PASSWORD", SECRET)]).await;
    let domain = json!({"add": ["www.example.com"]});
    controller.call("PATCH", "/v1/apps/hello/domains", Some(domain)).await;
    let right = token(&controller, "ci").await;

    let found: Vec<_> = files_under(controller.dir.path())
        .into_iter()
        .filter(|path| {
            let bytes = std::fs::read(path).expect("readable");
            let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            holds(SECRET) || holds(&right)
        })
        .collect();
    assert!(found.is_empty(), "{found:?} hold a secret in the clear");
    let database = controller.platform.options().store_file();
    let wal = std::fs::read(database.with_extension("db-wal")).expect("the WAL is there");
    let holds = |text: &str| wal.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("config/app/hello/PASSWORD"), "what was searched is what was written");

    let before = controller.platform.apps().await.expect("readable");
    controller.stop.cancel();
    let again = common::options(controller.dir.path());
    let reopened = berth_controller::Platform::open(again).expect("opens again");
    assert_eq!(reopened.apps().await.expect("readable"), before);
    let config = reopened.config_of(&app_name("hello")).await.expect("opens");
    assert_eq!(config.values().collect::<Vec<_>>(), [SECRET]);
    let releases = reopened.releases(&app_name("hello")).await.expect("readable");
    assert_eq!(releases[0].config.values().collect::<Vec<_>>(), [SECRET]);
    assert_eq!(
        reopened.token_owner(&right).await.expect("readable").map(|owner| owner.0).as_deref(),
        Some("ci")
    );

    std::fs::remove_file(controller.platform.options().config_key_file()).expect("removed");
    let lost = berth_controller::Platform::open(common::options(controller.dir.path()));
    let text = lost.expect_err("a lost key is noticed").to_string();
    assert!(text.contains("backup"), "{text}");
}

#[tokio::test]
async fn a_renamed_app_keeps_its_sealed_config_and_releases() {
    let controller = Controller::start().await;
    controller.create("old").await;
    let set = json!({"set": {"A": "1"}});
    assert_eq!(controller.call("PATCH", "/v1/apps/old/config", Some(set)).await.end(), "done");
    controller.pretend_deployed("old", &[("A", "1")]).await;
    controller.platform.update_app(&app_name("old"), |app| app.stopped = true).await.expect("stopped");
    let renamed = controller.call("POST", "/v1/apps/old/rename", Some(json!({"to": "new"}))).await;
    assert_eq!(renamed.end(), "done", "{}", renamed.text());
    assert_eq!(controller.get("/v1/apps/new/config").await.json(), json!({"A": "1"}));
    let releases = controller.platform.releases(&app_name("new")).await.expect("they open");
    assert_eq!((releases.len(), releases[0].app.as_str(), releases[0].config.len()), (1, "new", 1));
    assert!(controller.platform.store().list("releases/old/").await.expect("readable").is_empty());
    assert!(controller.platform.store().list("config/app/old/").await.expect("readable").is_empty());
}
