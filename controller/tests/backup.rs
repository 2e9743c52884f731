//! A backup through the API, and what restoring makes of it.

mod common;

use berth_controller::backup::{RestoreError, Restored, restore};
use berth_controller::deploy::{AppPlan, Watch};
use berth_controller::{Platform, deploy};
use berth_model::ReleaseVersion;
use common::{Controller, app_name, options};
use http::StatusCode;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// A controller with an app, a secret, a release, a repository, a blob and a volume.
async fn platform() -> Controller {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("node"), "node-1\n").expect("written");
    let volume = dir.path().join("agent/volumes/uploads");
    fs::create_dir_all(&volume).expect("made");
    fs::write(volume.join("photo"), "bits").expect("written");
    fs::set_permissions(volume.join("photo"), fs::Permissions::from_mode(0o640)).expect("ours");
    std::os::unix::fs::symlink("photo", volume.join("latest")).expect("linked");
    std::os::unix::fs::symlink("a//b/./c/", volume.join("strange")).expect("linked");
    let controller = Controller::on(dir).await;
    controller.create("hello").await;
    let config = json!({ "set": { "API_KEY": "hunter2" } });
    let reply = controller.call("PATCH", "/v1/apps/hello/config?no_restart=true", Some(config)).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    controller.pretend_deployed("hello", &[("API_KEY", "hunter2")]).await;
    let dir = controller.dir.path().join("controller");
    for (path, text) in [
        ("git/hello.git/HEAD", "ref: refs/heads/main\n"),
        ("registry/blobs/sha256/aa/aa11", "a blob"),
        ("registry/uploads/1/data", "half of one"),
    ] {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, text).expect("written");
    }
    controller
}

async fn archive(controller: &Controller, volumes: bool) -> Vec<u8> {
    let reply = controller.get(&format!("/v1/backup?volumes={volumes}")).await;
    assert_eq!(reply.status, StatusCode::OK);
    reply.body
}

async fn restored(archive: &[u8], data: &Path) -> Result<Restored, RestoreError> {
    restore(archive, data).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_is_restored() {
    let controller = platform().await;
    let hello = app_name("hello");
    let watch = Watch {
        release: ReleaseVersion(1),
        back_to: ReleaseVersion(1),
        proven: None,
        until_ms: i64::MAX,
        before_percent: 0,
    };
    let watched = |plan: &AppPlan| AppPlan { watch: Some(watch), ..plan.clone() };
    controller.platform.deploys().step(&controller.platform, &hello, watched).await.expect("watched");
    let bytes = archive(&controller, true).await;
    let parent = tempfile::tempdir().expect("a temporary directory");
    let data = parent.path().join("new/berth");
    let said = restored(&bytes, &data).await.expect("restored");
    assert!(said.volumes && said.entries > 3 && said.files > 4, "{said:?}");
    for (path, text) in [
        ("controller/git/hello.git/HEAD", "ref: refs/heads/main\n"),
        ("controller/registry/blobs/sha256/aa/aa11", "a blob"),
        ("agent/volumes/uploads/photo", "bits"),
        ("agent/volumes/uploads/latest", "bits"),
        ("node", "node-1\n"),
    ] {
        assert_eq!(fs::read_to_string(data.join(path)).expect(path), text);
    }
    let strange = fs::read_link(data.join("agent/volumes/uploads/strange")).expect("a link");
    assert_eq!(strange.as_os_str(), "a//b/./c/", "as it was, and under the checksum");
    let mode = |path: &str| fs::symlink_metadata(data.join(path)).expect(path).mode();
    assert_eq!(mode("agent/volumes/uploads/photo") & 0o777, 0o640);
    assert_eq!(mode("agent/volumes/uploads/latest") & 0o170_000, 0o120_000);
    assert_eq!(mode("controller/config.key") & 0o777, 0o600);
    assert_eq!(mode("") & 0o777, 0o700);
    assert!(!data.join("controller/registry/uploads/1").exists(), "unfinished uploads are no state");
    let left: Vec<_> = fs::read_dir(&data)
        .expect("listed")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    let links = fs::read_dir(controller.dir.path().join("controller")).expect("listed");
    let links = links.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("backup-"))
    });
    assert_eq!(links.count(), 0, "the links are gone");

    let platform = Platform::open(options(&data)).expect("the state opens");
    let stop = CancellationToken::new();
    deploy::start(&platform, &stop).await.expect("the deploys load");
    assert_eq!(platform.deploys().plan(&hello).watch, None, "the new machine is no fault of a release");
    let app = platform.existing_app(&hello).await.expect("it is there");
    let release = platform.current_release(&app).await.expect("readable").expect("it is there");
    assert_eq!((release.version.0, release.by.as_str()), (1, "alice"));
    let config = platform.app_config(&app.name).await.expect("its key opens it");
    assert_eq!(config.values().next().map(String::as_str), Some("hunter2"));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_whole_backup_is_restored_and_only_to_an_empty_directory() {
    let controller = platform().await;
    let bytes = archive(&controller, false).await;
    let parent = tempfile::tempdir().expect("a temporary directory");
    let is_empty = |data: &Path| fs::read_dir(data).expect("listed").next().is_none();

    let full = parent.path().join("full");
    fs::create_dir(&full).expect("made");
    fs::write(full.join("x"), "").expect("written");
    let refused = restored(&bytes, &full).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{refused:?}");

    let data = parent.path().join("data");
    // Cut off anywhere, or changed anywhere.
    for cut in [0, 1, 10, bytes.len() / 3, bytes.len() / 2, bytes.len() - 5, bytes.len() - 1] {
        let refused = restored(&bytes[..cut], &data).await;
        assert!(
            matches!(refused, Err(RestoreError::Damaged(_) | RestoreError::NotABackup)),
            "{cut}: {refused:?}"
        );
        assert!(is_empty(&data), "{cut}");
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        assert!(restored(&changed, &data).await.is_err(), "byte {at}");
        assert!(is_empty(&data), "byte {at}");
    }
    let text = restored(b"PK\x03\x04 no backup", &data).await.expect_err("no backup").to_string();
    assert!(text.contains("no backup of Berth"), "{text}");
}

/// An archive of these entries.
fn made_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o600);
        if *kind == tar::EntryType::Symlink {
            header.set_size(0);
            header.set_link_name(String::from_utf8_lossy(bytes).as_ref()).expect("short");
        } else {
            header.set_size(bytes.len() as u64);
        }
        // As nobody honest would write it.
        let name = header.as_old_mut().name.as_mut_slice();
        name.fill(0);
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let body: &[u8] = if *kind == tar::EntryType::Symlink { b"" } else { bytes };
        tar.append(&header, body).expect("appended");
    }
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    zstd.write_all(&tar.into_inner().expect("finished")).expect("written");
    zstd.finish().expect("finished")
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_believed_in_nothing() {
    use tar::EntryType::{Link, Regular, Symlink};
    let head = br#"{"format":1,"berth":"0.1.0","made_ms":1,"volumes":true}"#;
    let newer = br#"{"format":3,"berth":"9.0.0","else":true}"#;
    let parent = tempfile::tempdir().expect("a temporary directory");
    let data = parent.path().join("data");
    let outside = parent.path().join("outside");
    let target = outside.display().to_string();
    let refused = restored(&made_of(&[("berth-backup.json", Regular, newer)]), &data).await;
    let text = refused.expect_err("newer").to_string();
    assert!(text.contains("made by Berth 9.0.0 (format 3"), "{text}");
    let begin = ("berth-backup.json", Regular, &head[..]);
    for entries in [
        vec![begin],
        vec![("store.jsonl", Regular, &b""[..])],
        vec![begin, ("../outside", Regular, b"x")],
        vec![begin, ("/outside", Regular, b"x")],
        vec![begin, ("controller/../../outside", Regular, b"x")],
        vec![begin, ("elsewhere/x", Regular, b"x")],
        vec![begin, ("controller/x", Symlink, target.as_bytes())],
        vec![begin, ("volumes/x", Link, b"/etc/passwd")],
        vec![begin, ("volumes/x", Symlink, target.as_bytes()), ("volumes/x/y", Regular, b"x")],
        vec![begin, ("volumes/x", Symlink, target.as_bytes()), ("volumes/x", Regular, b"x")],
        vec![begin, ("nodes/../outside/x", Regular, b"x")],
        vec![begin, ("nodes/h2", Regular, b"x")],
        vec![begin, ("nodes/H_2/data/x", Regular, b"x")],
        vec![begin, ("nodes/h2/.data/x", Regular, b"x")],
        vec![begin, ("nodes/h2/data/x", Link, b"/etc/passwd")],
        vec![
            begin,
            ("nodes/h2/a/x", Regular, b"x"),
            ("nodes/h2/b/x", Regular, b"x"),
            ("nodes/h2/a/y", Regular, b"x"),
        ],
        vec![begin, ("node", Regular, b"a"), ("node", Regular, b"b")],
        vec![begin, ("store.jsonl", Regular, b""), ("checksums.json", Regular, b"{}")],
    ] {
        let refused = restored(&made_of(&entries), &data).await;
        let names: Vec<_> = entries.iter().map(|(name, ..)| *name).collect();
        assert!(
            matches!(
                refused,
                Err(RestoreError::Damaged(_) | RestoreError::NotABackup | RestoreError::Io { .. })
            ),
            "{names:?}: {refused:?}"
        );
        assert!(!outside.exists() && fs::read_dir(&data).expect("listed").next().is_none(), "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_backup_over_the_network() {
    let controller = platform().await;
    let mut request = common::request("GET", "/v1/backup", None);
    request.headers_mut().insert("berth-as", "alice".parse().expect("a value"));
    request.headers_mut().insert("berth-from", "192.0.2.7".parse().expect("a value"));
    let reply = common::ask(&berth_controller::api::local(&controller.platform), request).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
}

/// The state of a Berth from before there were several machines, as it was on the disk: format 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_format_1_opens() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-1.tar.zst");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut bytes = Vec::new();
    let file = fs::File::open(fixture).expect("the fixture is there");
    zstd::Decoder::new(file).expect("zstd").read_to_end(&mut bytes).expect("whole");
    tar::Archive::new(&bytes[..]).unpack(dir.path()).expect("unpacked");
    let platform = Platform::open(options(dir.path())).expect("the state opens");
    let stop = CancellationToken::new();
    deploy::start(&platform, &stop).await.expect("the deploys load");
    let app = platform.existing_app(&app_name("hello")).await.expect("it is there");
    assert_eq!(app.mounts.len(), 2);
    let release = platform.current_release(&app).await.expect("readable").expect("it is there");
    assert_eq!(release.version.0, 1);
    let config = platform.app_config(&app.name).await.expect("its key opens it");
    assert_eq!(config.values().next().map(String::as_str), Some("hunter2"));
    stop.cancel();
    // Nobody knew of other machines: what it mounts is on the one there was.
    let controller = Controller { dir, platform, stop: CancellationToken::new() };
    let volumes = controller.get("/v1/apps/hello/volumes").await.json();
    assert_eq!(
        volumes,
        json!([{ "source": "uploads", "node": "node-1" }, { "source": "/srv/media", "node": "node-1" }])
    );
}

/// Writes the state that [`a_data_directory_of_format_1_opens`] opens to `BERTH_FIXTURE`: only for a new format, under a new name.
#[tokio::test(flavor = "multi_thread")]
async fn writes_a_fixture_if_asked() {
    let Some(to) = std::env::var_os("BERTH_FIXTURE") else { return };
    let controller = platform().await;
    let mounts = json!({ "mounts": [
        { "source": "uploads", "target": "/data" }, { "source": "/srv/media", "target": "/media", "read_only": true },
    ] });
    let reply = controller.call("PATCH", "/v1/apps/hello", Some(mounts)).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    controller.platform.store().delete("placing/volumes-adopted").await.expect("written");
    let copied = std::process::Command::new("cp").arg("-a").arg(controller.dir.path()).arg(to).status();
    assert!(copied.expect("cp runs").success());
}
