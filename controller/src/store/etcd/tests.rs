//! The store on a real etcd: what it promises when members die, connections break and leaders are replaced.

use super::testing::{Cluster, controller};
use crate::store::{Compare, Store, StoreError, Write};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(3);

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.to_owned(), value.as_bytes().to_vec())
}

#[tokio::test]
async fn long_transactions_happen_as_a_whole_and_too_long_ones_are_refused_in_words() {
    let cluster = Cluster::start(1).await;
    let (_member, _, store) = cluster.store("long").await;
    let many = |count: usize| (0..count).map(|n| put(&format!("many/{n:05}"), "x")).collect::<Vec<_>>();
    store.txn(vec![], many(1500)).await.expect("written");
    let list = store.list("many/").await.expect("it answers");
    assert_eq!(list.len(), 1500);
    let unchanged: Vec<_> =
        list.iter().take(200).map(|one| Compare::Revision(one.key.clone(), one.revision)).collect();
    let swapped = vec![Write::DeletePrefix("many/".into()), put("many/00007", "y"), put("many/x", "y")];
    let mut watch = store.watch("many/0");
    let revision =
        store.txn(unchanged.clone(), swapped).await.expect("it answers").expect("they are unchanged");
    assert_eq!(watch.changed().await, Some(revision));
    let left: Vec<_> =
        store.list("many/").await.expect("it answers").into_iter().map(|one| one.key).collect();
    assert_eq!(left, ["many/00007", "many/x"]);
    assert_eq!(store.txn(unchanged, vec![put("z", "")]).await.expect("it answers"), None);
    let refused = store.txn(vec![], many(4000)).await.expect_err("too many");
    assert!(refused.to_string().contains("change less at a time"), "{refused}");
    let large = Write::Put("large".into(), vec![7; 3 << 20]);
    let refused = store.txn(vec![], vec![large]).await.expect_err("too large");
    assert!(refused.to_string().contains("larger than it takes"), "{refused}");
    store.put("after", vec![1]).await.expect("the next one is written");
    for number in 0..40_u8 {
        store.put(format!("big/{number:02}"), vec![number; 400 << 10]).await.expect("written");
    }
    let list = store.list("big/").await.expect("a long list comes in pages");
    assert!(list.len() == 40 && list.iter().zip(0..).all(|(one, n)| one.value == vec![n; 400 << 10]));
}

#[tokio::test]
async fn many_writers_at_once_are_each_told_the_truth() {
    let cluster = Cluster::start(1).await;
    let (_member, _, store) = cluster.store("many").await;
    let writers = (0..200_u32).map(|number| {
        let store = store.clone();
        async move {
            let key = format!("k/{}", number % 50);
            let won = store.txn(vec![Compare::Absent(key.clone())], vec![put(&key, &number.to_string())]);
            (key, number, won.await.expect("it answers"))
        }
    });
    let told = futures_util::future::join_all(writers).await;
    assert_eq!(told.iter().filter(|(_, _, won)| won.is_some()).count(), 50);
    for (key, number, won) in told {
        let found = store.get(key).await.expect("it answers").expect("there");
        assert_eq!(won.is_some(), found.value == number.to_string().into_bytes());
        assert!(won.is_none_or(|revision| revision == found.revision));
    }
}

#[tokio::test]
async fn a_member_that_dies_loses_nothing_and_without_most_of_them_calls_end_in_words() {
    let mut cluster = Cluster::start(3).await;
    let etcd = cluster.etcd("members", Duration::from_secs(60));
    let member = etcd.join(controller(1)).await.expect("it joins");
    let leadership = member.try_lead().await.expect("it answers").expect("nobody else leads");
    let store = Store::leading(&leadership);
    let mut acknowledged = Vec::new();
    for number in 0..60_u32 {
        if number == 20 {
            cluster.kill(0);
        }
        let key = format!("n/{number:03}");
        let begun = std::time::Instant::now();
        match store.put(key.clone(), vec![]).await {
            Ok(_) => acknowledged.push(key),
            Err(StoreError::Unknown { .. } | StoreError::Unreachable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(12), "bounded");
    }
    assert!(acknowledged.len() >= 55, "one member of three is not missed: {}", acknowledged.len());
    cluster.kill(1);
    let begun = std::time::Instant::now();
    let (read, written) = tokio::join!(store.get("n/000"), store.put("late", vec![]));
    assert!(begun.elapsed() < Duration::from_secs(8), "bounded");
    let read = read.expect_err("two of three are gone");
    assert!(read.to_string().contains("does not answer"), "{read}");
    assert!(matches!(written.expect_err("so"), StoreError::Unknown { .. } | StoreError::Unreachable { .. }));
    let mut watch = store.watch("n/");
    cluster.begin(0);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = store.put("n/back", vec![]).await {
        assert!(std::time::Instant::now() < until, "it comes back: {error}");
    }
    assert!(watch.changed().await.is_some());
    let found: Vec<_> = store.list("n/").await.expect("it answers").into_iter().map(|one| one.key).collect();
    assert!(acknowledged.iter().all(|key| found.contains(key)), "nothing acknowledged is lost");
}

#[tokio::test]
async fn who_lost_the_lead_writes_nothing_more_however_late() {
    let cluster = Cluster::start(1).await;
    let first = cluster.etcd("leads", LEASE).join(controller(1)).await.expect("it joins");
    let second = cluster.etcd("leads", LEASE).join(controller(2)).await.expect("it joins");
    let leads = first.try_lead().await.expect("it answers").expect("nobody else leads");
    let old = Store::leading(&leads);
    old.put("k", b"old".to_vec()).await.expect("written");
    let other = second.try_lead().await.expect("it answers").expect_err("the first leads");
    assert_eq!(other.map(|one| one.host), Some("127.0.0.1".to_owned()));
    assert_eq!(cluster.etcd("leads", LEASE).controllers().await.expect("it answers").len(), 2);

    // As if the process were stopped: its lease runs out, and it has not noticed.
    first.stop_renewing();
    let begun = std::time::Instant::now();
    let leads_now = loop {
        match second.try_lead().await.expect("it answers") {
            Ok(leads) => break leads,
            Err(_) => tokio::time::sleep(second.pause()).await,
        }
    };
    assert!(begun.elapsed() < LEASE + Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!leads.lost().is_cancelled(), "it does not know yet");
    let new = Store::leading(&leads_now);
    new.put("k", b"new".to_vec()).await.expect("written");
    let late = old.put("k", b"late".to_vec()).await.expect_err("refused");
    assert!(matches!(late, StoreError::NotLeader), "{late}");
    assert!(leads.lost().is_cancelled(), "now it knows");
    assert_eq!(new.get("k").await.expect("it answers").expect("there").value, b"new");
    assert!(matches!(old.put("k", vec![]).await, Err(StoreError::NotLeader)));

    // One that leaves is followed at once.
    second.leave().await;
    let third = cluster.etcd("leads", LEASE).join(controller(3)).await.expect("it joins");
    assert!(third.try_lead().await.expect("it answers").is_ok());
}
