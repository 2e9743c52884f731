//! Apps that are images: of another registry (Berth's own over plain HTTP stands in for one), of another app, from an
//! archive; and images out of Berth.

use crate::dockerfile::debian;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo};
use std::process::Command;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] =
    &[("image_of_another_registry", elsewhere), ("image_of_another_app", promotion)];

/// Answers with `/srv/answer`, on the port of `EXPOSE`, as its user.
const DOCKERFILE: &str = "FROM debian:bookworm\nRUN useradd -u 1234 web\nCOPY server.pl answer /srv/\nENV GREETING=hi\n\
    WORKDIR /srv\nUSER web\nEXPOSE 9090\nHEALTHCHECK --interval=1s CMD test -e answer\nENTRYPOINT [\"perl\"]\nCMD [\"server.pl\"]\n";

fn source(berth: &Berth, app: &str) -> Result<Repo> {
    debian(berth)?;
    let files = [("Dockerfile", DOCKERFILE), ("server.pl", crate::dockerfile::SERVER), ("answer", "one\n")];
    let repo = Repo::new(berth, app, &files)?;
    repo.push()?;
    Ok(repo)
}

/// The digest of the image that an app's newest release runs.
fn digest(berth: &Berth, app: &str) -> Result<String> {
    let releases: serde_json::Value =
        serde_json::from_str(&berth.ok(&["releases", app, "--format", "json"])?.stdout)?;
    let newest = releases.as_array().and_then(|all| all.iter().max_by_key(|one| one["version"].as_u64()));
    let image = newest.and_then(|one| one["image"].as_str()).and_then(|image| image.split('@').nth(1));
    Ok(image.with_context(|| format!("no digest in {releases}"))?.to_owned())
}

fn versions(berth: &Berth, app: &str) -> Result<usize> {
    let releases: serde_json::Value =
        serde_json::from_str(&berth.ok(&["releases", app, "--format", "json"])?.stdout)?;
    Ok(releases.as_array().map_or(0, Vec::len))
}

fn token(berth: &Berth, name: &str) -> Result<String> {
    let created: serde_json::Value =
        serde_json::from_str(&berth.ok(&["tokens:create", name, "--format", "json"])?.stdout)?;
    Ok(created["token"].as_str().context("a token")?.to_owned())
}

fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies an image with skopeo; both sides are on this machine, with the token as the password.
fn copy(token: &str, from: &str, to: &str) -> Result<()> {
    let creds = format!("me:{token}");
    let mut arguments = vec!["copy", "-q"];
    if from.starts_with("docker://") {
        arguments.extend(["--src-tls-verify=false", "--src-creds", &creds]);
    }
    if to.starts_with("docker://") {
        arguments.extend(["--dest-tls-verify=false", "--dest-creds", &creds]);
    }
    tool("skopeo", &[&arguments[..], &[from, to]].concat()).map(drop)
}

fn elsewhere(berth: &Berth) -> Result<()> {
    let repo = source(berth, "imgsrc")?;
    let (token, registry) = (token(berth, "images")?, berth.api.to_string());
    let dir = tempfile::tempdir()?;
    let layout = format!("oci:{}/layout", dir.path().display());
    // As others make images: without what Berth writes into its own.
    let publish = |name: &str| -> Result<()> {
        let built = format!("docker://{registry}/apps/imgsrc@{}", digest(berth, "imgsrc")?);
        copy(&token, &built, &format!("{layout}:x"))?;
        let image = format!("{}/layout:x", dir.path().display());
        tool("umoci", &["config", "--image", &image, "--clear=config.labels"])?;
        copy(&token, &format!("{layout}:x"), &format!("docker://{registry}/{name}"))
    };
    publish("ext/site:1")?;
    let image = format!("{registry}/ext/site:1");
    berth.ok(&["apps:create", "imgdst"])?;

    let refused = berth.berth(&["git:from-image", "imgdst", &image])?;
    ensure!(refused.code == 1 && refused.all().contains("registry:login --plain-http"), "{}", refused.all());
    berth.ok(&["registry:login", "--plain-http", &registry])?;
    let refused = berth.berth(&["git:from-image", "imgdst", &image])?;
    let advice = format!("registry:login {registry} USER");
    ensure!(refused.code == 1 && refused.all().contains(&advice), "{}", refused.all());
    let login = ["registry:login", "imgdst", &registry, "me", "--plain-http", "--password-stdin"];
    let refused = berth.berth_with_input(&login, b"wrong\n")?;
    ensure!(refused.code == 1 && refused.all().contains("does not know this user"), "{}", refused.all());
    berth.berth_with_input(&login, format!("{token}\n").as_bytes())?.success()?;
    let report = berth.ok(&["registry:report", "imgdst"])?.stdout;
    ensure!(report.contains("plain HTTP") && !report.contains(&token), "{report}");
    // A login of an app is that app's only.
    let refused = berth.berth(&["git:from-image", "imgsrc", &image])?;
    ensure!(refused.code == 1 && !refused.all().contains(&token), "{}", refused.all());

    let deployed = berth.ok(&["git:from-image", "imgdst", &image])?.all();
    ensure!(deployed.contains("Application deployed") && !deployed.contains(&token), "{deployed}");
    let reply = berth.get("imgdst", "/")?.text();
    ensure!(reply == "one\nuser=1234 port=9090 greeting=hi\n", "{reply}");
    let before = versions(berth, "imgdst")?;
    let again = berth.ok(&["git:from-image", "imgdst", &image])?.all();
    ensure!(again.contains("nothing to deploy") && versions(berth, "imgdst")? == before, "{again}");

    // The tag moves: a rebuild follows it.
    repo.change(&[("answer", "two\n")])?;
    publish("ext/site:1")?;
    berth.ok(&["ps:rebuild", "imgdst"])?;
    ensure!(berth.get("imgdst", "/")?.text().starts_with("two\n"), "the tag's new image");
    // What the branch holds says what runs, and is a Dockerfile on that image for whoever goes on from there.
    let clone = dir.path().join("clone");
    let mut git = Command::new("git");
    git.env("GIT_SSH_COMMAND", berth.ssh_command());
    let cloned = git.args(["clone", "-q", &berth.remote("imgdst")]).arg(&clone).output()?;
    ensure!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    let text = std::fs::read_to_string(clone.join("Dockerfile"))?;
    ensure!(text.starts_with(&format!("# git:from-image {image}\nFROM {image}@sha256:")), "{text}");
    // Nothing of the login is left in what runs or was written down.
    let config = berth.ok(&["run", "imgdst", "env"])?.all();
    ensure!(!config.contains(&token), "{config}");
    let refused = berth.berth(&["git:from-image", "imgdst", &format!("{registry}/ext/missing:1")])?;
    ensure!(refused.code == 1 && refused.all().contains("Check its name and tag"), "{}", refused.all());
    ensure!(berth.get("imgdst", "/")?.text().starts_with("two\n"), "the old version keeps serving");
    berth.ok(&["registry:logout", "imgdst", &registry])?;
    berth.ok(&["registry:logout", &registry])?;
    Ok(())
}

fn promotion(berth: &Berth) -> Result<()> {
    let repo = Repo::new(
        berth,
        "staging",
        &[
            ("Procfile", "web: python3 -m http.server $PORT\nworker: sleep 1000\n"),
            ("requirements.txt", ""),
            ("x", "1"),
        ],
    )?;
    repo.push()?;
    berth.ok(&["apps:create", "production"])?;
    let deployed = berth.ok(&["git:from-image", "production", "apps/staging"])?.all();
    ensure!(deployed.contains("It runs web, worker"), "{deployed}");
    ensure!(berth.get("production", "/x")?.text() == "1", "the same files");
    repo.change(&[("x", "2")])?;
    berth.ok(&["git:from-image", "production", "apps/staging:v1"])?;
    ensure!(berth.get("production", "/x")?.text() == "1", "the first release");
    berth.ok(&["git:from-image", "production", "apps/staging"])?;
    ensure!(berth.get("production", "/x")?.text() == "2", "the newest release");
    let refused = berth.berth(&["git:from-image", "production", "apps/nowhere"])?;
    ensure!(refused.code != 0 && refused.all().contains("docker.io/apps/nowhere"), "{}", refused.all());
    // The image outlives the app it came from.
    berth.ok(&["apps:destroy", "staging", "--force"])?;
    berth.ok(&["cleanup"])?;
    berth.ok(&["ps:rebuild", "production"])?;
    ensure!(berth.get("production", "/x")?.text() == "2", "still");
    Ok(())
}
