//! Words of Dokku and Heroku that Berth has no command for: what to do instead.
//!
//! In: a word that is no command. Out: a sentence, if it is one of theirs. A word that Berth learns drops out here by itself: only
//! what is no command is looked up.

/// Families and commands of others, and what to do here. The longest that fits wins.
const WORDS: &[(&str, &str)] = &[
    ("pg", DATABASE),
    ("psql", DATABASE),
    ("postgres", DATABASE),
    ("mysql", DATABASE),
    ("mariadb", DATABASE),
    ("mongo", DATABASE),
    ("redis", DATABASE),
    ("kafka", DATABASE),
    ("rabbitmq", DATABASE),
    ("memcached", DATABASE),
    ("elasticsearch", DATABASE),
    ("addons", DATABASE),
    ("plugin", "Berth has no plugins: `berth help` lists all that is built in"),
    (
        "nginx",
        "Berth has a proxy of its own instead of nginx: see proxy:set, proxy:report and proxy:access-logs",
    ),
    ("caddy", PROXY),
    ("haproxy", PROXY),
    ("traefik", PROXY),
    ("openresty", PROXY),
    (
        "docker-options",
        "there is no Docker here: volumes are storage:mount, limits resource:limit, ports ports:add; a build's arguments are config vars",
    ),
    ("network:rebuild", "networks follow by themselves: there is nothing to rebuild"),
    ("network:rebuildall", "networks follow by themselves: there is nothing to rebuild"),
    ("scheduler", "Berth schedules containers itself: see ps:scale, ps:report and resource:limit"),
    ("scheduler-k3s", "Berth schedules containers itself: see ps:scale, ps:report and resource:limit"),
    ("builder-herokuish", BUILDER),
    ("builder-pack", BUILDER),
    ("builder-nixpacks", BUILDER),
    ("builder-railpack", BUILDER),
    ("builder-lambda", BUILDER),
    ("app-json", "app.json is read at every deploy; app-json:set APP appjson-path PATH says where it is"),
    (
        "buildpacks:search",
        "name a buildpack by its address or as heroku/python: buildpacks:set APP heroku/python",
    ),
    ("buildpacks:detect", "push, and the build says what it found; buildpacks:report shows what is set"),
    ("repo", "repositories need no care here: see git:report, and builds for what was built"),
    ("vector", "logs are kept and followed without Vector: see logs"),
    ("git:allow-host", "git:sync takes a host's key as it comes: nothing is to be allowed first"),
    ("git:auth", "git:sync takes public repositories, and addresses with a token in them"),
    ("git:generate-deploy-key", "git:sync takes public repositories, and addresses with a token in them"),
    ("git:unlock", "a push that died leaves no lock: just push again"),
    ("proxy:build-config", "routes follow by themselves: there is nothing to build"),
    ("proxy:clear-config", "routes follow by themselves: there is nothing to clear"),
    (
        "ps:retire",
        "old containers go by themselves, after checks:set APP wait-to-retire SECONDS at the latest",
    ),
    ("registry:set", "Berth has a registry of its own: images need not be pushed elsewhere; see images:list"),
    ("storage:ensure-directory", "storage:mount APP NAME:/path makes the volume NAME by itself"),
    ("trace", "say --trace with any command to see its calls"),
    ("client", "this is the client: it speaks to DOKKU_HOST, or to a cluster of context:add"),
    ("shell", "type the commands one by one at your own shell; enter APP opens one in a container"),
    ("user", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("acl", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("access", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("members", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("orgs", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("teams", "whoever has a key (ssh-keys:add) or a token (tokens:create) is an admin"),
    ("keys", "keys are added by ssh-keys:add NAME FILE and listed by ssh-keys:list"),
    ("authorizations", "tokens are made by tokens:create NAME and listed by tokens:list"),
    (
        "auth",
        "there is no log-in: a key (ssh-keys:add) or a token (tokens:create, context:add) says who you are",
    ),
    (
        "login",
        "there is no log-in: a key (ssh-keys:add) or a token (tokens:create, context:add) says who you are",
    ),
    ("logout", "there is no log-in: context:remove NAME forgets a cluster and its token"),
    ("whoami", "your key or token says who you are: see ssh-keys:list and tokens:list; releases shows it"),
    ("dyno", "containers are scaled by ps:scale, restarted by ps:restart, limited by resource:limit"),
    ("dyno:kill", "ps:restart APP TYPE starts new containers and stops the old"),
    ("dyno:resize", "limits are set by resource:limit --memory 512m APP"),
    ("ps:type", "limits are set by resource:limit --memory 512m APP"),
    ("ps:resize", "limits are set by resource:limit --memory 512m APP"),
    ("ps:autoscale", "containers are counted by ps:scale APP web=2; there is no autoscaling"),
    ("ps:wait", "a deploy returns when the new containers serve: there is nothing to wait for"),
    ("autoscale", "containers are counted by ps:scale APP web=2; there is no autoscaling"),
    ("container", "push a Dockerfile, or deploy an image: git:from-image APP IMAGE"),
    ("git:clone", "clone it with git: git clone ssh://paas@HOST:2222/APP"),
    ("git:remote", "the remote is ssh://paas@HOST:2222/APP: git remote add paas ADDRESS"),
    ("stack", "what buildpacks run on is set by buildpacks:set-property APP stack NAME"),
    ("features", "there are no features to switch: `berth help` lists all that is built in"),
    ("labs", "there are no features to switch: `berth help` lists all that is built in"),
    ("local", "run the Procfile with a runner of your own; run APP COMMAND runs in the app's surroundings"),
    ("webhooks", "a URL is told of failed deploys and apps that are down by alerts:add URL"),
    ("spaces", "every app has a network of its own already"),
    ("regions", "there is one region: where your machine is; see node:list"),
    ("notifications", "Berth sends no mail"),
    ("status", "how the platform is: GET /healthz, node:list, and ps:report for every app"),
    ("update", "install the newer version; `berth up` takes over without losing a request"),
    ("upgrade", "install the newer version; `berth up` takes over without losing a request"),
    ("apps:open", "berth url APP prints the address: open \"$(berth url APP)\""),
    ("open", "berth url APP prints the address: open \"$(berth url APP)\""),
    ("apps:favorites", "apps:list shows every app"),
    ("apps:join", "whoever has a key is an admin of all apps already"),
    ("apps:leave", "keys are taken away by ssh-keys:remove NAME"),
    ("apps:transfer", "apps belong to the platform, not to people"),
    ("apps:stacks", "what buildpacks run on is set by buildpacks:set-property APP stack NAME"),
    ("apps:errors", "see logs APP, and ps:report APP for crashes"),
    ("domains:wait", "domains work at once; letsencrypt:list shows how certificates are"),
    ("certs:auto", "certificates come by themselves: letsencrypt:enable APP"),
    ("certs:auto:enable", "certificates come by themselves: letsencrypt:enable APP"),
    ("certs:auto:disable", "letsencrypt:disable APP ends that"),
    ("config:edit", "config:export APP --format envfile > vars; change it; config:import APP vars --replace"),
    ("releases:retry", "ps:rebuild APP builds and deploys the same code once more"),
    ("releases:output", "what a build said is kept: builds:output APP"),
    ("reviewapps", "apps:clone APP NEW --ttl 2h makes an app that destroys itself"),
    ("pipelines", "promote STAGING PRODUCTION deploys what runs in one app on another"),
    ("ci", "run tests where you push from: Berth deploys what it is given"),
    ("usage", "see resource:limit and ps:report"),
    ("telemetry", "logs are sent on by drains:add APP URL; metrics are asked for by Prometheus"),
];

const DATABASE: &str = "Berth makes no databases: run one as an app of its own (git:from-image, storage:mount, ports:add) or \
                        elsewhere, and give its address by config:set APP DATABASE_URL=...";
const PROXY: &str = "Berth has one proxy, its own: see proxy:report and proxy:set";
const BUILDER: &str =
    "Berth has builders of its own: see builder:set APP selected, buildpacks:set and builder-dockerfile:set";

/// What to do instead of `word`.
pub(super) fn advice(word: &str) -> Option<&'static str> {
    let find = |wanted: &str| WORDS.iter().find(|(known, _)| *known == wanted).map(|(_, advice)| *advice);
    // `redis:create` is `redis`, `certs:auto:refresh` is `certs:auto`.
    let mut wanted = word;
    loop {
        if let Some(advice) = find(wanted) {
            return Some(advice);
        }
        wanted = wanted.rsplit_once(':')?.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Mode, tree};

    #[test]
    fn every_word_is_named_once_and_what_is_named_instead_exists() {
        let root = tree(Mode::Local);
        let names: Vec<&str> = root
            .get_subcommands()
            .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()))
            .collect();
        let families: std::collections::BTreeSet<&str> =
            names.iter().map(|name| name.split(':').next().unwrap_or(name)).collect();
        for (index, (word, advice)) in WORDS.iter().enumerate() {
            assert!(!WORDS[..index].iter().any(|(other, _)| other == word), "{word} twice");
            for said in
                advice.split([' ', ',', ';', '(', ')', '`']).map(|said| said.trim_end_matches(['.', ':']))
            {
                let Some((family, rest)) = said.split_once(':') else { continue };
                let is_command =
                    families.contains(family) && rest.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                assert!(!is_command || names.contains(&said), "{word}: {said} is no command");
            }
        }
        assert!(advice("redis:create").is_some_and(|text| text.contains("DATABASE_URL")));
        assert!(advice("certs:auto:refresh").is_some_and(|text| text.contains("letsencrypt:enable")));
        assert_eq!(advice("frobnicate:x"), None);
    }
}
