//! Tests of [`super`].

use super::*;
use berth_model::Digest;
use berth_model::image::{ImageRef, StaticSite};
use proptest::prelude::*;

fn name(text: &str) -> EnvName {
    EnvName::parse(text).expect("valid")
}

fn process(text: &str) -> ProcessType {
    ProcessType::parse(text).expect("valid")
}

fn command(line: &str) -> Process {
    Process::Command { argv: vec!["/bin/bash".into(), "-c".into(), line.into()] }
}

pub(crate) fn image(processes: &[&str]) -> Image {
    Image {
        reference: ImageRef { repository: "apps/hello".into(), digest: Digest::of(b"x") },
        builder: "python".into(),
        processes: processes.iter().map(|one| (process(one), command(one))).collect(),
        exposed_ports: Vec::new(),
        healthcheck: None,
    }
}

pub(crate) fn app() -> App {
    App {
        name: AppName::parse("hello").expect("valid"),
        created_ms: 1,
        deploy_branch: None,
        buildpacks: Vec::new(),
        stack: None,
        dockerfile_path: None,
        dockerfile_target: None,
        builder: None,
        build_dir: None,
        procfile_path: None,
        app_json_path: None,
        build_timeout_secs: None,
        domains: Vec::new(),
        default_domain: true,
        formation: Formation::default(),
        stopped: false,
        limits: BTreeMap::new(),
        restart: RestartPolicy::default(),
        stop: Stop::default(),
        mounts: Vec::new(),
        ports: Vec::new(),
        published: Vec::new(),
        proxy: Default::default(),
        processes: Default::default(),
        placing: Default::default(),
        cron: Default::default(),
        logs: berth_model::logs::AppLogs::default(),
        deploy: Default::default(),
        networks: berth_model::network::AppNetworks::default(),
        current: None,
        next_version: 7,
    }
}

fn a_release(image: Image, config: &[(&str, &str)]) -> Release {
    let config = config.iter().map(|(key, value)| (name(key), (*value).to_owned())).collect();
    let parts = Parts {
        image,
        config,
        secrets: Default::default(),
        checks: BTreeMap::new(),
        cron: Vec::new(),
        formation: Default::default(),
        max_parallel: BTreeMap::new(),
        git_rev: Some("ab".repeat(20)),
        now_ms: 5,
        by: "alice".into(),
        description: "Deploy abababa".into(),
    };
    release(&app(), parts)
}

fn counter() -> impl FnMut() -> String {
    let mut count = 0;
    move || {
        count += 1;
        format!("u{count}")
    }
}

fn counts(pairs: &[(&str, u32)]) -> Formation {
    Formation(pairs.iter().map(|(one, count)| (process(one), *count)).collect())
}

#[test]
fn web_runs_once_and_others_not_at_all_unless_told() {
    let image = image(&["web", "worker", "release", "clock"]);
    assert_eq!(
        formation(&Formation::default(), &image, &Formation::default()),
        counts(&[("web", 1), ("worker", 0), ("clock", 0)])
    );
    let scaled = counts(&[("web", 3), ("worker", 2), ("gone", 4)]);
    let from_code = counts(&[("worker", 5), ("unknown", 9)]);
    let merged = formation(&scaled, &image, &from_code);
    assert_eq!(merged, counts(&[("web", 3), ("worker", 5), ("clock", 0), ("gone", 4)]));
    assert_eq!(slots(&image, &merged).len(), 8);
    assert_eq!(slots(&image, &merged)[0], (ProcessType::web(), 1), "web starts first");
}

#[test]
fn a_container_gets_config_and_what_berth_adds() {
    let release = a_release(image(&["web", "worker"]), &[("PORT", "1"), ("GREETING", "hi")]);
    assert_eq!(release.version, ReleaseVersion(7));
    let slots = [(ProcessType::web(), 1), (process("worker"), 2)];
    let specs = desire(&app(), &release, &slots, counter()).expect("both exist");
    let env = |index: usize, key: &str| specs[index].env.get(&name(key)).map(String::as_str);
    assert_eq!(env(0, "PORT"), Some("5000"), "a config var must not lead the app off its routes");
    assert_eq!((env(0, "DYNO"), env(1, "DYNO")), (Some("web.1"), Some("worker.2")));
    assert_eq!(env(1, "PORT"), Some("1"));
    assert_eq!(env(1, "GREETING"), Some("hi"));
    assert_eq!(env(0, "GIT_REV"), Some(&*"ab".repeat(20)));
    assert_eq!((specs[0].port, specs[1].port), (Some(5000), None));
    assert_eq!(specs[0].checks[0].probe, Probe::ListeningOrUptime { seconds: 10 });
    assert_eq!(specs[1].checks[0].probe, Probe::Uptime { seconds: 10 });
}

#[test]
fn an_image_that_exposes_a_port_is_led_to_there() {
    let image = Image { exposed_ports: vec![8080, 9090], ..image(&["web"]) };
    let specs =
        desire(&app(), &a_release(image, &[]), &[(ProcessType::web(), 1)], counter()).expect("exists");
    assert_eq!(specs[0].port, Some(8080));
    assert_eq!(specs[0].env[&name("PORT")], "8080");
}

#[test]
fn the_variables_of_dokku_users_hold() {
    let specs = |config: &[(&str, &str)]| {
        let slots = [(ProcessType::web(), 1), (process("worker"), 1)];
        desire(&app(), &a_release(image(&["web", "worker"]), config), &slots, counter()).expect("both exist")
    };
    let waits = specs(&[("DOKKU_DEFAULT_CHECKS_WAIT", "3"), ("DOKKU_DOCKER_STOP_TIMEOUT", "5")]);
    assert_eq!(waits[0].checks[0].probe, Probe::ListeningOrUptime { seconds: 3 });
    assert_eq!(waits[0].stop.grace_secs, 5);
    assert!(specs(&[("DOKKU_CHECKS_DISABLED", "1")]).iter().all(|spec| spec.checks.is_empty()));
    let some = specs(&[("DOKKU_CHECKS_SKIPPED", "worker")]);
    assert!(!some[0].checks.is_empty() && some[1].checks.is_empty());
    assert!(!specs(&[("DOKKU_CHECKS_DISABLED", "false")])[0].checks.is_empty());
}

#[test]
fn checks_that_only_watch_do_not_replace_the_one_for_the_start() {
    let watch = Check {
        kind: CheckKind::Liveness,
        name: "alive".into(),
        ..default_check(&BTreeMap::new(), &ProcessType::web())
    };
    let start = Check { kind: CheckKind::Startup, name: "up".into(), ..watch.clone() };
    let mut release = a_release(image(&["web"]), &[]);
    let names = |release: &Release| -> Vec<String> {
        let specs = desire(&app(), release, &[(ProcessType::web(), 1)], counter()).expect("exists");
        specs[0].checks.iter().map(|check| check.name.clone()).collect()
    };
    release.checks.insert(ProcessType::web(), vec![watch.clone()]);
    assert_eq!(names(&release), ["default", "alive"]);
    release.checks.insert(ProcessType::web(), vec![start.clone(), watch]);
    assert_eq!(names(&release), ["up", "alive"]);
    // A HEALTHCHECK that looks at a file says nothing of the port.
    let inside = Check { probe: Probe::Command { argv: vec!["true".into()] }, ..start };
    release.checks.insert(ProcessType::web(), vec![inside]);
    assert_eq!(names(&release), ["default", "up"]);
}

#[test]
fn a_static_site_is_one_directory_without_checks() {
    let site =
        Process::Static(StaticSite { root: "/app".into(), spa_fallback: false, rules: Default::default() });
    let mut image = image(&[]);
    image.processes.insert(ProcessType::web(), site);
    let slots = slots(&image, &counts(&[("web", 5)]));
    assert_eq!(slots, [(ProcessType::web(), 1)]);
    let specs = desire(&app(), &a_release(image, &[]), &slots, counter()).expect("exists");
    assert!(specs[0].checks.is_empty() && specs[0].port.is_none());
}

proptest! {
    /// Ids are never the same, every slot has one container, and nothing but the ids depends on randomness.
    #[test]
    fn desire_fills_each_slot_once(web in 0..20_u32, worker in 0..20_u32) {
        let image = image(&["web", "worker", "release"]);
        let counts = counts(&[("web", web), ("worker", worker)]);
        let release = a_release(image.clone(), &[]);
        let wanted = slots(&image, &counts);
        let specs = desire(&app(), &release, &wanted, counter()).expect("all exist");
        prop_assert_eq!(specs.len(), (web + worker) as usize);
        let ids: std::collections::BTreeSet<_> = specs.iter().map(|spec| &spec.id).collect();
        prop_assert_eq!(ids.len(), specs.len());
        let filled: Vec<Slot> = specs.iter().map(|spec| (spec.process.clone(), spec.ordinal)).collect();
        prop_assert_eq!(filled, wanted);
    }
}
