//! What was acknowledged is there: after `kill -9` at any moment, and after a full disk.

use berth_controller::store::{Store, StoreError};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const CHILD: &str = "BERTH_TEST_STORE_CHILD";

/// The child: writes for ever from several tasks, and says what was acknowledged. Does nothing as a test of its own.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(path.as_ref()).expect("it opens");
        let round = store.list("").await.expect("readable").len();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0_u64.. {
                        let key = format!("{round}-{writer}-{number}");
                        store.put(key.clone(), number.to_be_bytes().to_vec()).await.expect("written");
                        writeln!(std::io::stdout().lock(), "ack {key} {number}").expect("the parent reads");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
    });
}

#[test]
fn every_acknowledged_write_outlives_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state.db");
    let mut acknowledged = Vec::new();
    for round in 1..=8_usize {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut heard = 0;
        while heard < 40 * round {
            let line = lines.next().expect("it writes on").expect("text");
            heard += note(&line, &mut acknowledged);
        }
        child.kill().expect("killed");
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            note(&line, &mut acknowledged);
        }
        child.wait().expect("reaped");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&path).expect("whole after eight deaths");
        for (key, number) in &acknowledged {
            let found = store.get(&**key).await.expect("readable");
            let value = found.unwrap_or_else(|| panic!("{key} was acknowledged and is gone")).value;
            assert_eq!(value, number.to_be_bytes(), "{key}");
        }
    });
    assert!(acknowledged.len() >= 1440, "{}", acknowledged.len());
}

/// Takes `ack KEY NUMBER`; a line cut short by the death is none.
fn note(line: &str, acknowledged: &mut Vec<(String, u64)>) -> usize {
    // libtest writes "test name ... " without a newline before the first line.
    let Some((_, said)) = line.split_once("ack ") else { return 0 };
    let Some((key, number)) = said.split_once(' ') else { return 0 };
    let Ok(number) = number.parse() else { return 0 };
    if !key.ends_with(&format!("-{number}")) {
        return 0;
    }
    acknowledged.push((key.to_owned(), number));
    1
}

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// A tmpfs of 1 MiB; `None` where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "berth-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store's threads may still be closing their files.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_so_and_writing_resumes_when_it_is_freed() {
    let Some(disk) = SmallDisk::mount() else {
        let said = writeln!(std::io::stderr(), "skipped: mounting a tmpfs is not allowed here");
        return said.expect("stderr is open");
    };
    let store = Store::open(&disk.0.path().join("state.db")).expect("it opens");
    store.put("kept", b"1".to_vec()).await.expect("written");
    let ballast = disk.0.path().join("ballast");
    // Fills what is left; the error at the end is the point.
    let _ = std::fs::write(&ballast, vec![0; 1 << 20]);
    let mut refused = None;
    for number in 0..200_u32 {
        if let Err(error) = store.put(format!("k{number}"), vec![0; 8192]).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("it cannot all fit");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(refused.to_string().contains("free some space"), "{refused}");
    let error = berth_model::api::ApiError::from(refused);
    assert_eq!(berth_controller::api::status_of(error.code), http::StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(store.get("kept").await.expect("readable").expect("there").value, b"1");
    std::fs::remove_file(&ballast).expect("freed");
    store.put("after", b"2".to_vec()).await.expect("writing resumes without a restart");
}
