//! The store's laws: it behaves like a map with a counter, and refuses what it cannot keep.

use super::{Compare, Entry, Store, StoreError, Write};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&dir.path().join("state.db")).expect("it opens");
    (dir, store)
}

#[derive(Clone, Debug)]
struct Step {
    compare: Vec<Compare>,
    then: Vec<Write>,
}

fn key() -> impl Strategy<Value = String> {
    // Prefixes of each other, and characters that SQL patterns would treat specially.
    prop::sample::select(vec!["a", "a/", "a/b", "a/b/c", "a%", "a_", "b", "ä/ö", "a/\u{10ffff}"])
        .prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    let compare = prop_oneof![
        (key(), 0_u64..8).prop_map(|(key, revision)| Compare::Revision(key, revision)),
        key().prop_map(Compare::Absent),
        key().prop_map(Compare::Present),
    ];
    let write = prop_oneof![
        3 => (key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Write::Put(key, value)),
        1 => key().prop_map(Write::Delete),
        1 => key().prop_map(Write::DeletePrefix),
    ];
    (prop::collection::vec(compare, 0..2), prop::collection::vec(write, 0..4))
        .prop_map(|(compare, then)| Step { compare, then })
}

#[derive(Default)]
struct Model {
    map: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
}

impl Model {
    fn take(&mut self, step: &Step) -> Option<u64> {
        let holds = |compare: &Compare| match compare {
            Compare::Revision(key, revision) => self.map.get(key).is_some_and(|(_, at)| at == revision),
            Compare::Absent(key) => !self.map.contains_key(key),
            Compare::Present(key) => self.map.contains_key(key),
        };
        if !step.compare.iter().all(holds) {
            return None;
        }
        self.revision += u64::from(!step.then.is_empty());
        for write in &step.then {
            match write {
                Write::Put(key, value) => {
                    self.map.insert(key.clone(), (value.clone(), self.revision));
                }
                Write::Delete(key) => {
                    self.map.remove(key);
                }
                Write::DeletePrefix(prefix) => self.map.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        Some(self.revision)
    }

    fn list(&self, prefix: &str) -> Vec<Entry> {
        let within = self.map.iter().filter(|(key, _)| key.starts_with(prefix));
        within
            .map(|(key, (value, revision))| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: *revision,
            })
            .collect()
    }
}

/// Takes the steps in the store and in the model, and compares: what happened, and what is there then. A number of the model
/// is the store's own revision of that transaction: SQLite counts by one, etcd as it likes.
async fn compare_with_model(store: &Store, steps: &[Step], prefix: &str) -> Result<Vec<u64>, TestCaseError> {
    let (mut model, mut revisions) = (Model::default(), vec![0]);
    for step in steps {
        let real = |compare: &Compare| match compare {
            Compare::Revision(key, number) => {
                let known = usize::try_from(*number).ok().and_then(|number| revisions.get(number));
                Compare::Revision(key.clone(), known.copied().unwrap_or(1 << 40))
            }
            other => other.clone(),
        };
        let compare = step.compare.iter().map(real).collect();
        let done = store.txn(compare, step.then.clone()).await.expect("it answers");
        let expected = model.take(step);
        prop_assert_eq!(done.is_some(), expected.is_some());
        if let (Some(done), Some(_), false) = (done, expected, step.then.is_empty()) {
            prop_assert!(revisions.last().is_none_or(|last| *last < done), "revisions only grow");
            revisions.push(done);
        }
    }
    let number = |entry: Entry| {
        let revision = revisions[usize::try_from(entry.revision).expect("small")];
        Entry { revision, ..entry }
    };
    let wanted = |prefix: &str| model.list(prefix).into_iter().map(number).collect::<Vec<_>>();
    prop_assert_eq!(store.list(prefix).await.expect("it answers"), wanted(prefix));
    prop_assert_eq!(store.list("").await.expect("it answers"), wanted(""));
    let one = store.get(prefix).await.expect("it answers");
    prop_assert_eq!(one.map(|entry| entry.value), model.map.get(prefix).map(|(value, _)| value.clone()));
    Ok(revisions)
}

/// A store of etcd's, with the etcd and the place in it.
async fn in_etcd() -> (super::etcd::testing::Cluster, super::Member, Store) {
    let cluster = super::etcd::testing::Cluster::start(1).await;
    let (member, _, store) = cluster.store("laws").await;
    (cluster, member, store)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map_with_a_counter(steps in prop::collection::vec(step(), 1..24), prefix in key()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (dir, store) = fresh();
            let revisions = compare_with_model(&store, &steps, &prefix).await?;
            prop_assert!(revisions.iter().copied().zip(0..).all(|(found, wanted)| found == wanted), "by one");
            let before = store.list("").await.expect("it answers");
            drop(store);
            let again = Store::open(&dir.path().join("state.db")).expect("it opens again");
            prop_assert_eq!(again.list("").await.expect("it answers"), before);
            Ok(())
        })?;
    }
}

#[test]
fn in_etcd_it_is_the_same_map() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (cluster, _member, store) = runtime.block_on(in_etcd());
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (prop::collection::vec(step(), 1..24), key());
    let tried = proptest::test_runner::TestRunner::new(config).run(&strategy, |(steps, prefix)| {
        runtime.block_on(async {
            store.txn(vec![], vec![Write::DeletePrefix(String::new())]).await.expect("emptied");
            compare_with_model(&store, &steps, &prefix).await.map(drop)
        })
    });
    drop(cluster);
    tried.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn counting_by_compare_and_set_loses_nothing() {
    let (_dir, store) = fresh();
    counting(store).await;
}

#[tokio::test]
async fn counting_in_etcd_loses_nothing() {
    let (_cluster, _member, store) = in_etcd().await;
    counting(store).await;
}

async fn counting(store: Store) {
    let add = |store: Store| async move {
        for _ in 0..25 {
            loop {
                let found = store.get("n").await.expect("it answers");
                let (count, revision) =
                    found.map_or((0, None), |entry| (entry.value[0], Some(entry.revision)));
                let compare = vec![Compare::unchanged("n", revision)];
                let then = vec![Write::Put("n".to_owned(), vec![count + 1])];
                if store.txn(compare, then).await.expect("it answers").is_some() {
                    break;
                }
            }
        }
    };
    let adders: Vec<_> = (0..8).map(|_| tokio::spawn(add(store.clone()))).collect();
    for adder in adders {
        adder.await.expect("no panic");
    }
    assert_eq!(store.get("n").await.expect("it answers").expect("there").value, [200]);
}

#[tokio::test]
async fn a_watch_wakes_for_its_prefix_alone_and_once_for_what_it_missed() {
    let (_dir, store) = fresh();
    watching(store).await;
}

#[tokio::test]
async fn in_etcd_a_watch_wakes_just_so() {
    let (_cluster, _member, store) = in_etcd().await;
    watching(store).await;
}

async fn watching(store: Store) {
    let mut watch = store.watch("apps/");
    store.put("other/x", vec![]).await.expect("written");
    let second = store.put("apps/x", vec![]).await.expect("written");
    assert_eq!(watch.changed().await, Some(second));
    let refused =
        store.txn(vec![Compare::Absent("apps/x".into())], vec![Write::Delete("apps/x".into())]).await;
    assert_eq!(refused.expect("it answers"), None);
    let none = tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed()).await;
    assert!(none.is_err(), "a refused transaction changes nothing");
    let third = store.txn(vec![], vec![Write::DeletePrefix("apps/".into())]).await.expect("it answers");
    assert_eq!(watch.changed().await, third);
    for number in 0..300_u32 {
        store.put(format!("apps/{number}"), vec![]).await.expect("written");
    }
    assert_eq!(watch.changed().await, Some(0));
}

fn sql(path: &Path, text: &str) {
    rusqlite::Connection::open(path).expect("it opens").execute_batch(text).expect("it runs");
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state.db");
    sql(&path, "CREATE TABLE from_the_future (x); PRAGMA user_version = 999;");
    let before = std::fs::read(&path).expect("readable");
    let refused = Store::open(&path).expect_err("refused");
    assert!(matches!(refused, StoreError::NewerSchema { found: 999, .. }), "{refused}");
    assert!(refused.to_string().contains("start the newer version"), "{refused}");
    assert_eq!(std::fs::read(&path).expect("readable"), before);
}

#[test]
fn rubbish_and_damage_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state.db");
    std::fs::write(&path, "this is no database, whatever its name says".repeat(100)).expect("written");
    assert!(matches!(Store::open(&path), Err(StoreError::Corrupt { .. })));

    let path = dir.path().join("damaged.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let store = Store::open(&path).expect("it opens");
    runtime.block_on(async {
        for number in 0..200_u32 {
            store.put(format!("k{number:04}"), vec![1; 200]).await.expect("written");
        }
    });
    drop(store);
    sql(&path, "PRAGMA wal_checkpoint(TRUNCATE);");
    let mut bytes = std::fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2048].fill(0xa5);
    std::fs::write(&path, bytes).expect("written");
    assert!(matches!(Store::open(&path), Err(StoreError::Corrupt { .. })));
}

#[test]
fn the_database_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = fresh();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(store.put("k", vec![1])).expect("written");
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
