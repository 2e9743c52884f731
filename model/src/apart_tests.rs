//! Tests of [`super`].

use super::*;

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("valid")
}

fn process(name: &str) -> ProcessType {
    ProcessType::parse(name).expect("valid")
}

fn never(text: &str) -> ApartSettings {
    let all = text.split(',').map(|one| one.parse().expect("valid")).collect();
    ApartSettings { never: Some(all), rather_not: None }
}

fn of(all: &Aparts, name: &str, of: &str) -> Vec<String> {
    let shown = |one: Apart| format!("{one}{}", if one.within == Within::Zone { "@zone" } else { "" });
    aparts_of(all, &app(name), &process(of)).into_iter().map(shown).collect()
}

#[test]
fn neighbours_are_read_as_they_are_written() {
    for text in ["cache", "shop:worker", "replica@zone", "shop:worker@zone"] {
        assert_eq!(text.parse::<Neighbour>().expect(text).to_string(), text);
    }
    assert_eq!("cache@node".parse::<Neighbour>().expect("valid").to_string(), "cache");
    for bad in ["", ":worker", "shop:", "shop@rack", "shop@", "a b", "shop:worker:x", "../x", "*"] {
        assert!(bad.parse::<Neighbour>().is_err(), "{bad}");
    }
}

#[test]
fn nobody_keeps_apart_from_itself() {
    let (shop, web) = (app("shop"), process("web"));
    let refused = parse_neighbours("cache,shop", &shop, None).expect_err("itself");
    assert!(refused.contains("set spread to distinct-nodes"), "{refused}");
    assert!(parse_neighbours("shop:web", &shop, Some(&web)).is_err());
    assert!(parse_neighbours("shop:worker", &shop, Some(&web)).is_ok());
    let many: Vec<_> = (0..=MOST_NEIGHBOURS).map(|one| format!("a{one}")).collect();
    assert!(parse_neighbours(&many.join(","), &shop, None).expect_err("many").contains("too many"));
}

#[test]
fn who_is_kept_away_from_keeps_away_too() {
    let mut all =
        Aparts::from([(app("shop"), AppApart { own: never("cache,db:web@zone"), ..Default::default() })]);
    assert_eq!(of(&all, "shop", "web"), ["cache", "db:web@zone"]);
    assert_eq!(of(&all, "cache", "x"), ["shop"]);
    assert_eq!(of(&all, "db", "web"), ["shop@zone"]);
    assert_eq!(of(&all, "db", "worker"), [""; 0]);
    // A type that says otherwise is not among those that cache keeps away from.
    all.get_mut(&app("shop")).expect("there").types.insert(process("worker"), never("db"));
    assert_eq!(of(&all, "shop", "worker"), ["db"]);
    let cache = aparts_of(&all, &app("cache"), &process("web"));
    assert!(cache[0].means(&app("shop"), &process("web")));
    assert!(!cache[0].means(&app("shop"), &process("worker")));
    assert_eq!(of(&all, "db", "web"), ["shop@zone", "shop:worker"]);
}

#[test]
fn types_of_one_app_keep_apart_but_not_from_themselves() {
    let all = Aparts::from([(app("shop"), AppApart { own: never("shop:worker"), ..Default::default() })]);
    assert_eq!(of(&all, "shop", "web"), ["shop:worker"]);
    let worker = aparts_of(&all, &app("shop"), &process("worker"));
    assert_eq!(worker.len(), 1);
    assert!(worker[0].means(&app("shop"), &process("web")));
    assert!(!worker[0].means(&app("shop"), &process("worker")));
}

#[test]
fn names_follow_their_apps() {
    let both = ApartSettings { rather_not: never("cache@zone").never, ..never("cache,db") };
    let before = AppApart { own: both, types: BTreeMap::from([(process("worker"), never("cache:web"))]) };
    let renamed = before.renamed(&app("cache"), Some(&app("hot")));
    assert_eq!(shown_neighbours(renamed.own.never.as_ref().expect("set")), "db,hot");
    assert_eq!(renamed.types[&process("worker")], never("hot:web"));
    let gone = before.renamed(&app("cache"), None);
    assert_eq!(gone, AppApart { own: never("db"), ..Default::default() });
    assert!(gone.renamed(&app("db"), None).is_default());
    let text = serde_json::to_string(&before).expect("JSON");
    assert_eq!(serde_json::from_str::<AppApart>(&text).expect("the same"), before);
}
