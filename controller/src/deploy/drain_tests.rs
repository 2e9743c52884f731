use super::super::batches::tests::serving;
use super::super::plan::Role;
use super::*;
use berth_model::container::Mount;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("valid")
}

#[test]
fn one_of_each_type_goes_at_a_time_and_what_is_bound_stays() {
    let mut containers = serving(&[("web", 4), ("worker", 2), ("clock", 1)]);
    for planned in containers.values_mut() {
        planned.node = node(if planned.spec.ordinal > 1 { "n1" } else { "n2" });
        if planned.spec.process.as_str() == "clock" {
            planned.node = node("n1");
            let mount = Mount { source: "data".into(), target: "/data".into(), read_only: false };
            planned.spec.mounts.push(mount);
        }
    }
    let mut plan = AppPlan { containers, ..AppPlan::default() };
    let nodes = BTreeSet::from([node("n1")]);
    let names = |plan: &AppPlan, pins: &Pins| -> Vec<String> {
        let chosen = next(plan, &nodes, pins);
        chosen
            .iter()
            .map(|id| format!("{}.{}", plan.containers[id].spec.process, plan.containers[id].spec.ordinal))
            .collect()
    };
    let volume = schedule::Volume::Named("data".into());
    let pinned = Pins::from([(volume.clone(), Some(node("n1")))]);
    assert_eq!(names(&plan, &pinned), ["web.2", "worker.2"]);
    assert_eq!(names(&plan, &Pins::from([(volume, None)])), ["clock.1", "web.2", "worker.2"]);
    // What is on its way out, or not there yet, is left alone.
    for planned in plan.containers.values_mut() {
        planned.role = Role::Retiring { until_ms: 1 };
    }
    assert!(names(&plan, &pinned).is_empty());
}

#[test]
fn a_move_that_failed_rests_before_it_is_tried_again() {
    let drains = Drains::default();
    let app = AppName::parse("hello").expect("valid");
    assert!(drains.begin(&app));
    assert!(!drains.begin(&app), "one at a time");
    drains.end(&app, Err(failed("it crashes")));
    assert!(!drains.begin(&app));
    assert_eq!(drains.why(&app).as_deref(), Some("it crashes"));
    drains.end(&app, Ok(()));
    assert!(drains.why(&app).is_none() && drains.begin(&app));
}
