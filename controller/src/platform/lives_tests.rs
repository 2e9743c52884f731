//! Tests of [`super`].

use super::*;
use crate::release::tests::app;
use berth_model::ProcessType;
use berth_model::ports::PortMapping;

fn patch(process: Option<&str>) -> PatchProcesses {
    let process = process.map(|process| ProcessType::parse(process).expect("valid"));
    PatchProcesses { process, ..PatchProcesses::default() }
}

#[test]
fn a_type_of_its_own_stands_above_the_app() {
    let mut app = app();
    let web = ProcessType::web();
    let all = PatchProcesses {
        restart_policy: Some("always".into()),
        stop_signal: Some("QUIT".into()),
        stop_timeout_secs: Some("5".into()),
        ..patch(None)
    };
    set(&mut app, &all).expect("set");
    let one = PatchProcesses {
        restart_policy: Some("no".into()),
        stop_timeout_secs: Some("60".into()),
        ..patch(Some("web"))
    };
    let done = set(&mut app, &one).expect("set");
    assert_eq!(
        done,
        ["Setting restart-policy of hello web to no", "Setting stop-timeout-seconds of hello web to 60"]
    );
    assert_eq!(app.restart_of(&web), RestartPolicy::Never);
    assert_eq!(app.stop_of(&web), Stop { signal: 3, grace_secs: 60 });
    let worker = ProcessType::parse("worker").expect("valid");
    assert_eq!(app.restart_of(&worker), RestartPolicy::Always);
    assert_eq!(app.stop_of(&worker), Stop { signal: 3, grace_secs: 5 });
    let reset = PatchProcesses { restart_policy: Some(String::new()), ..patch(Some("web")) };
    assert_eq!(set(&mut app, &reset).expect("reset"), ["Unsetting restart-policy of hello web"]);
    assert_eq!(app.restart_of(&web), RestartPolicy::Always);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for signal in ["SIGSTOP", "CONT", "0", "65", "SIGNOTHING", "-9", "17"] {
        let bad = PatchProcesses { stop_signal: Some(signal.into()), ..patch(None) };
        assert!(set(&mut app(), &bad).is_err(), "{signal}");
    }
    for secs in ["-1", "3601", "1m", "ten", "99999999999"] {
        let bad = PatchProcesses { stop_timeout_secs: Some(secs.into()), ..patch(None) };
        assert!(set(&mut app(), &bad).is_err(), "{secs}");
    }
    for secs in [0, 9, 31_536_001, u64::MAX] {
        assert!(end_of(0, secs).is_err(), "{secs}");
    }
    assert_eq!(end_of(500, 7200).expect("two hours"), 7_200_500);
}

#[test]
fn a_lock_says_who_and_why() {
    let mut app = app();
    assert!(check_unlocked(&app).is_ok());
    app.processes.lock = Some(Lock { by: "alice".into(), reason: Some("moving house".into()), at_ms: 0 });
    let text = check_unlocked(&app).expect_err("locked").to_string();
    assert_eq!(
        text,
        "App hello is locked since 1970-01-01 00:00 UTC by alice (moving house): nothing is deployed until berth \
         apps:unlock hello"
    );
}

#[test]
fn a_clone_has_no_ports_domains_or_data_of_its_original() {
    let mut app = app();
    let mount = |source: &str| Mount { source: source.into(), target: "/data".into(), read_only: false };
    app.mounts = vec![mount("uploads"), mount("/srv/files"), mount(&"v".repeat(63))];
    app.domains = vec![berth_model::HostPattern::parse("example.com").expect("valid")];
    app.ports =
        ["http:80:5000", "tcp:7000:7000"].map(|text| text.parse::<PortMapping>().expect(text)).to_vec();
    app.processes.lock = Some(Lock { by: "alice".into(), reason: None, at_ms: 0 });
    app.stopped = true;
    let to = AppName::parse("review").expect("valid");
    let clone = cloned(&app, &to, Some(7));
    assert_eq!(clone.mounts, [mount("review.uploads")]);
    assert!(clone.domains.is_empty() && clone.ports.len() == 1 && !clone.stopped);
    assert_eq!((clone.current, clone.next_version), (None, 1));
    assert_eq!(clone.processes.lock, None);
    assert_eq!(clone.processes.destroy_at_ms, Some(7));
    assert_eq!(clone.processes.cloned_from, Some(app.name));
}
