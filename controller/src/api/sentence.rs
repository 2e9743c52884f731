//! What a call does, in a sentence.
//!
//! In: method, route, path and body of a call. Out: a kind for programs, the app, and a sentence for people. Names are said,
//! values never: a body may hold anything.

use axum::http::Method;
use berth_model::AppName;
use serde_json::Value;

/// Names that one sentence lists at most.
const LISTED: usize = 20;

/// A call, as the router understood it.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    /// The route, such as `/v1/apps/{app}/config`.
    pub(super) matched: &'a str,
    /// What stands for it, such as `/v1/apps/hello/config`.
    pub(super) path: &'a str,
    pub(super) body: Option<Value>,
}

impl Call<'_> {
    /// The part of the path that stands at `{name}`.
    fn part(&self, name: &str) -> &str {
        let mut pairs = self.matched.split('/').zip(self.path.split('/'));
        let wanted =
            |part: &str| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) == Some(name);
        pairs.find(|(part, _)| wanted(part)).map_or("", |(_, value)| value)
    }

    /// A text or number of the body.
    fn word(&self, pointer: &str) -> Option<String> {
        match self.body.as_ref()?.pointer(pointer)? {
            Value::String(text) => Some(text.chars().take(200).collect()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn is_true(&self, pointer: &str) -> bool {
        self.body
            .as_ref()
            .and_then(|body| body.pointer(pointer))
            .is_some_and(|value| *value == Value::Bool(true))
    }

    /// The keys of an object, or the texts of a list, of the body.
    fn names(&self, pointer: &str) -> Option<String> {
        let names: Vec<String> = match self.body.as_ref()?.pointer(pointer)? {
            Value::Object(map) => map.keys().cloned().collect(),
            Value::Array(list) => list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => return None,
        };
        if names.is_empty() {
            return None;
        }
        let more = names.len().saturating_sub(LISTED);
        let mut text = names.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        Some(text)
    }

    /// What of `before` and `after` there is.
    fn with(before: &str, found: Option<String>) -> String {
        found.map(|found| format!("{before}{found}")).unwrap_or_default()
    }

    /// The fields of the body that are set.
    fn fields(&self) -> String {
        let set = self.body.as_ref().and_then(Value::as_object).map(|map| {
            let names = map.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
            names.take(LISTED).collect::<Vec<_>>().join(", ")
        });
        Self::with(": ", set.filter(|names| !names.is_empty()))
    }
}

/// Its kind, its app and its sentence.
pub(super) fn sentence(call: &Call<'_>) -> (String, Option<AppName>, String) {
    let mut app = AppName::parse(call.part("app")).ok();
    let (kind, text) = match (call.method.as_str(), call.matched) {
        ("POST", "/v1/apps") => {
            let name = call.word("/name").unwrap_or_default();
            app = AppName::parse(&name).ok();
            ("apps.create", format!("created app {name}"))
        }
        ("PATCH", "/v1/apps/{app}") => ("apps.set", format!("changed settings{}", call.fields())),
        ("POST", "/v1/apps/{app}/rename") => {
            ("apps.rename", format!("renamed it to {}", call.word("/to").unwrap_or_default()))
        }
        ("DELETE", "/v1/apps/{app}") => ("apps.destroy", "destroyed the app".to_owned()),
        ("PATCH", "/v1/apps/{app}/config" | "/v1/config") => ("config.set", config(call)),
        ("POST", "/v1/apps/{app}/scale") => ("ps.scale", scale(call)),
        ("POST", "/v1/apps/{app}/restart") => ("ps.restart", processes(call, "restarted")),
        ("POST", "/v1/apps/{app}/stop") => ("ps.stop", processes(call, "stopped")),
        ("POST", "/v1/apps/{app}/start") => ("ps.start", processes(call, "started")),
        ("POST", "/v1/apps/{app}/restore") => ("ps.restore", "started what was to run".to_owned()),
        ("PATCH", "/v1/apps/{app}/processes") => {
            ("ps.set", format!("changed its processes{}", call.fields()))
        }
        ("POST", "/v1/rebalance") => {
            app = call.word("/app").and_then(|app| AppName::parse(&app).ok());
            ("node.rebalance", "moved containers to better places".to_owned())
        }
        ("PUT", "/v1/apps/{app}/volumes") => {
            let (source, node) = (call.word("/source"), call.word("/node"));
            let text = format!("said that {} is on {}", source.unwrap_or_default(), node.unwrap_or_default());
            ("storage.node", text)
        }
        ("PUT", "/v1/apps/{app}/lock") => {
            ("apps.lock", format!("locked it{}", Call::with(": ", call.word("/reason"))))
        }
        ("DELETE", "/v1/apps/{app}/lock") => ("apps.unlock", "unlocked it".to_owned()),
        ("POST", "/v1/apps/{app}/clone") => {
            ("apps.clone", format!("cloned it to {}", call.word("/to").unwrap_or_default()))
        }
        ("PUT", "/v1/apps/{app}/ttl") => match call.word("/seconds") {
            Some(seconds) => ("apps.ttl", format!("will have it destroyed in {seconds} s")),
            None => ("apps.ttl", "took its time to live away".to_owned()),
        },
        ("PUT", "/v1/autocreation") => match call.is_true("/enabled") {
            true => ("apps.autocreation", "let pushes make apps".to_owned()),
            false => ("apps.autocreation", "let pushes make no apps".to_owned()),
        },
        ("POST", "/v1/apps/{app}/rollback") => {
            let to = call.word("/to").map_or_else(|| "the release before".to_owned(), |to| release(&to));
            ("releases.rollback", format!("rolled back to {to}"))
        }
        ("PATCH", "/v1/apps/{app}/deploy") => {
            ("deploy.set", format!("changed how it is deployed{}", Call::with(": ", call.names("/values"))))
        }
        ("POST", "/v1/apps/{app}/deploy/canary") => match call.word("/percent") {
            Some(percent) => ("deploy.canary", format!("gave a canary {percent} % of the requests")),
            None => ("deploy.canary", "took the next canary back".to_owned()),
        },
        ("POST", "/v1/apps/{app}/deploy/promote") => ("deploy.promote", "promoted the canary".to_owned()),
        ("POST", "/v1/apps/{app}/deploy/abort") => ("deploy.abort", "ended the canary".to_owned()),
        ("POST", "/v1/apps/{app}/promote") => {
            ("releases.promote", format!("promoted it to {}", call.word("/to").unwrap_or_default()))
        }
        ("PATCH", "/v1/apps/{app}/checks") => {
            let types = call.names("/types").unwrap_or_else(|| "all types".to_owned());
            ("checks.set", format!("set checks of {types} to {}", call.word("/mode").unwrap_or_default()))
        }
        ("POST", "/v1/nodes/{node}/drain") => match call.is_true("/undo") {
            true => ("node.undrain", format!("let node {} take containers again", call.part("node"))),
            false => ("node.drain", format!("had node {} emptied", call.part("node"))),
        },
        ("POST", "/v1/apps/{app}/checks/run") => ("checks.run", "made its checks once".to_owned()),
        ("POST", "/v1/apps/{app}/archive") => ("deploy.archive", "deployed an archive".to_owned()),
        ("POST", "/v1/apps/{app}/image") => {
            ("deploy.image", format!("deployed image {}", call.word("/image").unwrap_or_default()))
        }
        ("POST", "/v1/apps/{app}/image/archive") => {
            ("deploy.image", "deployed an image from an archive".to_owned())
        }
        ("POST", "/v1/apps/{app}/sync") => ("deploy.sync", "deployed from another repository".to_owned()),
        ("POST", "/v1/apps/{app}/rebuild") => ("deploy.rebuild", "built and deployed it again".to_owned()),
        ("POST", "/v1/apps/{app}/builds/{build}/cancel") => {
            ("builds.cancel", format!("canceled build {}", call.part("build")))
        }
        ("PATCH", "/v1/apps/{app}/domains" | "/v1/domains") => ("domains.set", domains(call)),
        ("PATCH", "/v1/apps/{app}/proxy" | "/v1/proxy") => {
            ("proxy.set", format!("changed how requests are treated{}", call.fields()))
        }
        ("POST", "/v1/apps/{app}/certificate" | "/v1/certificates") => {
            ("certs.add", "set a certificate".to_owned())
        }
        ("DELETE", "/v1/apps/{app}/certificate") => ("certs.remove", "removed its certificate".to_owned()),
        ("DELETE", "/v1/certificates/{id}") => {
            ("certs.remove", format!("removed certificate {}", call.part("id")))
        }
        ("POST", "/v1/apps/{app}/certificate/generate") => {
            ("certs.generate", "made a certificate of its own".to_owned())
        }
        ("PATCH", "/v1/acme" | "/v1/apps/{app}/acme") => {
            ("letsencrypt.set", format!("changed how certificates are got{}", call.fields()))
        }
        ("POST", "/v1/apps/{app}/acme/enable") => {
            ("letsencrypt.enable", "switched certificates on".to_owned())
        }
        ("POST", "/v1/apps/{app}/acme/disable") => {
            ("letsencrypt.disable", "switched certificates off".to_owned())
        }
        ("POST", "/v1/apps/{app}/acme/renew") => ("letsencrypt.renew", "renewed its certificates".to_owned()),
        ("POST", "/v1/apps/{app}/acme/revoke") => {
            ("letsencrypt.revoke", "revoked its certificates".to_owned())
        }
        ("POST", "/v1/networks") => {
            ("network.create", format!("made network {}", call.word("/name").unwrap_or_default()))
        }
        ("DELETE", "/v1/networks/{network}") => {
            ("network.destroy", format!("destroyed network {}", call.part("network")))
        }
        ("PATCH", "/v1/apps/{app}/networks") => {
            let to = Call::with(" on to ", call.names("/attach"));
            let off = Call::with(" off ", call.names("/detach"));
            ("network.set", format!("changed its networks{to}{off}"))
        }
        ("POST", "/v1/registries") => {
            ("registry.login", format!("logged in to registry {}", call.word("/server").unwrap_or_default()))
        }
        ("DELETE", "/v1/registries") => ("registry.logout", "logged out of a registry".to_owned()),
        ("POST", "/v1/ssh-keys") => {
            ("ssh-keys.add", format!("let SSH key {} in", call.word("/name").unwrap_or_default()))
        }
        ("DELETE", "/v1/ssh-keys/{name}") => {
            ("ssh-keys.remove", format!("removed SSH key {}", call.part("name")))
        }
        ("POST", "/v1/tokens") => {
            ("tokens.create", format!("made token {}", call.word("/name").unwrap_or_default()))
        }
        ("POST", "/v1/sign-in-codes") => {
            ("sessions.link", "made a link that signs in to the dashboard".to_owned())
        }
        ("POST", "/v1/sessions") => ("sessions.begin", "signed in to the dashboard".to_owned()),
        ("DELETE", "/v1/sessions") => ("sessions.end", "ended all other sessions".to_owned()),
        ("DELETE", "/v1/sessions/{id}") if call.part("id") == "current" => {
            ("sessions.end", "signed out of the dashboard".to_owned())
        }
        ("DELETE", "/v1/sessions/{id}") => ("sessions.end", format!("ended session {}", call.part("id"))),
        ("DELETE", "/v1/tokens/{name}") => ("tokens.remove", format!("removed token {}", call.part("name"))),
        ("POST", "/v1/drains") => {
            app = call.word("/app").and_then(|app| AppName::parse(&app).ok());
            ("drains.add", "added a drain for logs".to_owned())
        }
        ("DELETE", "/v1/drains/{id}") => ("drains.remove", format!("removed drain {}", call.part("id"))),
        ("PATCH", "/v1/apps/{app}/log-settings") => {
            ("logs.set", format!("changed how much of its log is kept{}", call.fields()))
        }
        ("POST", "/v1/alerts") => {
            app = call.word("/app").and_then(|app| AppName::parse(&app).ok());
            ("alerts.add", "added a webhook for alerts".to_owned())
        }
        ("DELETE", "/v1/alerts/{id}") => ("alerts.remove", format!("removed alert {}", call.part("id"))),
        ("POST", "/v1/alerts-test") => ("alerts.test", "tested webhooks of alerts".to_owned()),
        ("POST", "/v1/secrets/rotate") => {
            ("secrets.rotate", "replaced the key that seals secrets".to_owned())
        }
        ("PATCH", "/v1/apps/{app}/cron" | "/v1/cron") => {
            ("cron.set", format!("changed its cron{}", call.fields()))
        }
        ("POST", "/v1/apps/{app}/cron/{task}/run") => {
            ("cron.run", format!("ran cron task {} now", call.part("task")))
        }
        ("POST", "/v1/apps/{app}/runs") => ("run.detached", "ran a command in the background".to_owned()),
        ("POST", "/v1/apps/{app}/runs/{run}/stop") => ("run.stop", format!("stopped {}", call.part("run"))),
        ("POST", "/v1/apps/{app}/runs/retire") => {
            ("run.retire", "removed one-off containers that are over".to_owned())
        }
        ("POST", "/v1/cleanup") => ("cleanup", "cleaned up images".to_owned()),
        ("POST", "/v1/node-tokens") => (
            "node.token",
            format!("made a token for a machine to join{}", Call::with(" as ", call.word("/node"))),
        ),
        ("PATCH", "/v1/nodes/{node}") => {
            ("node.set", format!("changed node {}{}", call.part("node"), call.fields()))
        }
        ("DELETE", "/v1/nodes/{node}") => ("node.remove", format!("removed node {}", call.part("node"))),
        ("POST", "/v1/nodes/{node}/renew") => {
            ("node.renew", format!("had node {} renew its certificate", call.part("node")))
        }
        ("POST", "/v1/stacks") => ("stacks.import", "took a stack over".to_owned()),
        ("POST", "/v1/images") => ("images.import", "took an image over".to_owned()),
        ("GET", "/v1/apps/{app}/run") => ("run", "ran a command in a container of its own".to_owned()),
        ("GET", "/v1/apps/{app}/enter") => ("enter", "ran a command in a running container".to_owned()),
        _ => return other(call, app),
    };
    (kind.to_owned(), app, text)
}

/// Routes without a sentence of their own: their words, and which fields were set.
fn other(call: &Call<'_>, app: Option<AppName>) -> (String, Option<AppName>, String) {
    let rest =
        call.matched.trim_start_matches("/v1/").trim_start_matches("apps/{app}").trim_start_matches('/');
    let words: Vec<&str> =
        rest.split('/').filter(|word| !word.is_empty() && !word.starts_with('{')).collect();
    let verb = match call.method.as_str() {
        "DELETE" => "remove",
        "POST" => "do",
        _ => "set",
    };
    let kind = format!("{}.{verb}", words.join("."));
    let pairs = call.matched.split('/').zip(call.path.split('/'));
    let named: Vec<&str> =
        pairs.filter(|(part, _)| part.starts_with('{') && *part != "{app}").map(|(_, value)| value).collect();
    let named = if named.is_empty() { String::new() } else { format!(" {}", named.join(" ")) };
    let done = match call.method.as_str() {
        "DELETE" => format!("removed {}{named}", words.join(" ")),
        "POST" => format!("{}{named}{}", words.join(" "), call.fields()),
        _ => format!("changed {}{named}{}", words.join(" "), call.fields()),
    };
    (kind, app, done)
}

fn release(text: &str) -> String {
    if text.starts_with('v') { text.to_owned() } else { format!("v{text}") }
}

fn processes(call: &Call<'_>, done: &str) -> String {
    call.word("/process").map_or_else(|| format!("{done} it"), |process| format!("{done} {process}"))
}

fn scale(call: &Call<'_>) -> String {
    let counts = call.body.as_ref().and_then(|body| body.pointer("/formation")).and_then(Value::as_object);
    let shown: Vec<String> = counts
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.is_number())
        .take(LISTED)
        .map(|(process, count)| format!("{process}={count}"))
        .collect();
    let later = if call.is_true("/skip_deploy") { ", from the next deploy on" } else { "" };
    format!("scaled {}{later}", shown.join(" "))
}

fn config(call: &Call<'_>) -> String {
    let mut parts = Vec::new();
    parts.extend(call.names("/set").map(|names| format!("set {names}")));
    parts.extend(call.names("/unset").map(|names| format!("unset {names}")));
    if call.is_true("/replace") {
        parts.push("removed all others".to_owned());
    }
    if parts.is_empty() {
        parts.push("changed config".to_owned());
    }
    let whose = if call.matched == "/v1/config" { " for all apps" } else { "" };
    format!("{}{whose}", parts.join(", "))
}

fn domains(call: &Call<'_>) -> String {
    let mut parts = Vec::new();
    for (pointer, done) in [("/add", "added"), ("/remove", "removed"), ("/set", "set")] {
        parts.extend(call.names(pointer).map(|names| format!("{done} {names}")));
    }
    let whose = if call.matched == "/v1/domains" { " for all apps" } else { "" };
    if parts.is_empty() {
        return format!("changed domains{whose}{}", call.fields());
    }
    format!("{} as domain{whose}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(method: &str, matched: &str, path: &str, body: Value) -> (String, Option<AppName>, String) {
        let method: Method = method.parse().expect("a method");
        sentence(&Call { method: &method, matched, path, body: Some(body) })
    }

    #[test]
    fn names_are_said_and_values_are_not() {
        let (kind, app, text) = said(
            "PATCH",
            "/v1/apps/{app}/config",
            "/v1/apps/hello/config",
            json!({"set": {"PASSWORD": "hunter2", "URL": "x"}, "unset": ["OLD"]}),
        );
        assert_eq!((kind.as_str(), app.expect("one").as_str()), ("config.set", "hello"));
        assert_eq!(text, "set PASSWORD, URL, unset OLD");
        let (_, _, text) = said(
            "POST",
            "/v1/apps/{app}/scale",
            "/v1/apps/hello/scale",
            json!({"formation": {"web": 2, "x": "secret"}}),
        );
        assert_eq!(text, "scaled web=2");
        let (_, app, text) = said("POST", "/v1/apps", "/v1/apps", json!({"name": "new"}));
        assert_eq!((app.expect("one").as_str(), text.as_str()), ("new", "created app new"));
    }

    #[test]
    fn routes_nobody_wrote_a_sentence_for_have_one() {
        let (kind, app, text) = said(
            "POST",
            "/v1/apps/{app}/gadgets/{gadget}/wind",
            "/v1/apps/hello/gadgets/g1/wind",
            json!({"secret": "hunter2", "none": null}),
        );
        assert_eq!((kind.as_str(), text.as_str()), ("gadgets.wind.do", "gadgets wind g1: secret"));
        assert_eq!(app.expect("one").as_str(), "hello");
        assert_eq!(said("DELETE", "/v1/gadgets/{id}", "/v1/gadgets/g1", Value::Null).2, "removed gadgets g1");
        assert_eq!(said("PATCH", "/v1/x", "/v1/x", json!([1])).2, "changed x");
    }
}
