//! Ordinary clients push to and pull from the registry. Needs `skopeo` and `umoci`.

use berth_controller::registry::{Registry, router};
use std::path::Path;
use std::process::Stdio;

async fn run(dir: &Path, program: &str, arguments: &[&str]) {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program} can be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

#[tokio::test]
async fn skopeo_and_umoci_get_back_what_they_pushed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = dir.path();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let app = router(std::sync::Arc::new(Registry::open(at.join("registry"))));
    tokio::spawn(async move { axum::serve(listener, app).await });

    run(at, "umoci", &["init", "--layout", "image"]).await;
    run(at, "umoci", &["new", "--image", "image:v1"]).await;
    std::fs::create_dir_all(at.join("tree/etc")).expect("room");
    // More than one batch of the upload, and not compressible to nothing.
    let mut noise = vec![0_u8; 3 << 20];
    getrandom::fill(&mut noise).expect("random numbers");
    std::fs::write(at.join("tree/etc/noise"), &noise).expect("room");
    run(at, "umoci", &["insert", "--rootless", "--image", "image:v1", "tree", "/tree"]).await;

    let remote = format!("docker://{address}/apps/hello:v1");
    run(at, "skopeo", &["copy", "--dest-tls-verify=false", "oci:image:v1", &remote]).await;
    run(at, "skopeo", &["inspect", "--tls-verify=false", &remote]).await;
    run(at, "skopeo", &["copy", "--src-tls-verify=false", &remote, "oci:back:v1"]).await;
    run(at, "umoci", &["unpack", "--rootless", "--image", "back:v1", "bundle"]).await;
    assert_eq!(std::fs::read(at.join("bundle/rootfs/tree/etc/noise")).expect("it came back"), noise);

    // A second tag in another repository mounts or re-uploads the same blobs.
    let other = format!("docker://{address}/apps/other/deep:v2");
    run(at, "skopeo", &["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &remote, &other]).await;
    run(at, "skopeo", &["list-tags", "--tls-verify=false", &format!("docker://{address}/apps/other/deep")])
        .await;
    run(
        at,
        "skopeo",
        &["copy", "--dest-tls-verify=false", "--format", "v2s2", "oci:image:v1", &format!("{remote}-docker")],
    )
    .await;
    run(at, "skopeo", &["delete", "--tls-verify=false", &remote]).await;
}
