//! Dockerfiles on the bench of `build::tests`: a sandbox that runs no container. Needs root.

use crate::build::tests::{Bench, bench, support};
use berth_model::build::{BuildPlan, Dockerfile};
use berth_model::image::Process;
use berth_model::{ContainerId, EnvName, ProcessType};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::{Item, dir, file, symlink, tar, zstd};

async fn docker(text: &str) -> Bench {
    let mut bench = bench().await;
    let base = [
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:1234:1235::/:/bin/sh\n"),
        file("etc/group", "web:x:1235:\nstaff:x:50:\n"),
        dir("usr"),
        dir("usr/bin"),
        file("usr/bin/sh", "sh"),
        symlink("bin", "usr/bin"),
        symlink("out", "../../../../../../../tmp"),
    ];
    let image = bench.registry.image("images/docker.io/library/debian", &[zstd(&base)]);
    bench.registry.tag(&image, "bookworm");
    write(&mut bench.plan, text);
    bench
}

fn write(plan: &mut BuildPlan, text: &str) {
    plan.builder = "dockerfile".to_owned();
    plan.dockerfile = Some(Dockerfile {
        path: "Dockerfile".to_owned(),
        text: text.to_owned(),
        ignore: "*.secret\n".to_owned(),
        target: None,
        reason: String::new(),
        procfile: Default::default(),
    });
}

fn context(more: &[Item]) -> Vec<u8> {
    let mut items = vec![
        file("main.py", "v1"),
        file("a.secret", "x"),
        dir("src"),
        file("src/one.c", "1"),
        file("src/two.o", "2"),
        symlink("link", "/etc/passwd"),
    ];
    items.extend_from_slice(more);
    tar(&items)
}

const APP: &str = "FROM debian:bookworm AS build
WORKDIR /src
COPY . .
RUN write /result made by $ME

FROM debian:bookworm
COPY --from=build /result /bin/tool
COPY --chown=web:staff --chmod=640 --exclude=*.o src main.py /srv/
COPY link /srv/
RUN read /usr/bin/tool
EXPOSE 80/udp 8080
CMD [\"tool\"]
";

#[tokio::test]
async fn stages_become_an_image_and_known_steps_do_not_run_again() {
    let bench = docker(APP).await;
    // The pushed tree has no /etc/passwd: a link that leads there leads nowhere, least of all to the node's.
    let (refused, _) = bench.build("hello", context(&[])).await;
    let reason = refused.expect_err("there is no such file");
    assert!(reason.starts_with("Dockerfile:9: \"link\" is not in the pushed commit"), "{reason}");
    bench.ran();
    let tree = || context(&[dir("etc"), file("etc/passwd", "the tree's own")]);
    let (image, said) = bench.build("hello", tree()).await;
    let image = image.expect("a good Dockerfile");
    assert!(said.contains(&"Step 1/11 : FROM debian:bookworm AS build".to_owned()), "{said:?}");
    assert!(
        said.contains(&"usr/bin/tool=made by $ME".to_owned()),
        "COPY followed /bin below the root: {said:?}"
    );
    assert_eq!(image.exposed_ports, [8080]);
    assert_eq!(image.processes[&ProcessType::web()], Process::Command { argv: vec!["tool".to_owned()] });
    let ready = bench.images.ensure(&image.reference).await.expect("its layers are here");
    let found = |path: &str| ready.lowers.iter().map(|layer| layer.join(path)).find(|path| path.exists());
    assert!(found("src").is_none(), "the first stage is not in the image");
    let main = found("srv/main.py").expect("it was copied");
    let metadata = fs::metadata(&main).expect("there");
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1234, 50, 0o640));
    assert!(found("srv/one.c").is_some() && found("srv/two.o").is_none() && found("srv/a.secret").is_none());
    assert_eq!(fs::read_to_string(found("srv/link").expect("copied")).expect("text"), "the tree's own");

    bench.ran();
    let more = context(&[dir("etc"), file("etc/passwd", "the tree's own"), file("b.secret", "ignored")]);
    let (again, said) = bench.build("hello", more).await;
    assert_eq!(again.expect("known"), image, "the same image, to the byte");
    assert_eq!(bench.ran(), 0);
    assert_eq!(said.iter().filter(|line| line.ends_with("(cached)")).count(), 7, "{said:?}");
}

#[tokio::test]
async fn arguments_mounts_and_secrets_reach_a_step_and_only_it() {
    let mut bench = docker(
        "FROM debian:bookworm\nARG SECRET\nARG OTHER=o\nUSER web\nWORKDIR /w\n\
         RUN --mount=type=cache,target=/c --mount=type=secret,id=SECRET,env=S --mount=target=/t,source=src --network=none print hi\nCMD x\n",
    )
    .await;
    bench.build("hello", context(&[])).await.0.expect("a good Dockerfile");
    let steps = std::mem::take(&mut *bench.ran.lock().expect("no panics"));
    let [step] = steps.as_slice() else { panic!("{steps:?}") };
    let program = step.program.as_ref().expect("a RUN");
    assert_eq!(
        (program.user.as_str(), program.cwd.as_path(), program.online),
        ("web", Path::new("/w"), false)
    );
    let env = |name: &str| step.env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    assert_eq!((env("SECRET"), env("OTHER"), env("S")), (Some("s3cret"), Some("o"), Some("s3cret")));
    let places: Vec<_> = step.caches.iter().map(|(_, to)| to.to_str().expect("text")).collect();
    assert_eq!((places, program.read_only.len()), (vec!["/c", "/t"], 1));
    assert!(ContainerId::parse(step.id.as_str()).is_ok());

    // A config var that no ARG declares changes nothing; one that is declared does.
    bench.build("hello", context(&[])).await.0.expect("known");
    assert_eq!(bench.ran(), 0);
    let text = bench.plan.dockerfile.as_ref().expect("set").text.replace("OTHER=o", "OTHER=p");
    write(&mut bench.plan, &text);
    bench.build("hello", context(&[])).await.0.expect("a good Dockerfile");
    assert_eq!(bench.ran(), 1);
}

#[tokio::test]
async fn hostile_dockerfiles_touch_nothing_outside() {
    let outside = tempfile::tempdir().expect("a directory");
    let mark = outside.path().join("mark");
    let up = "../".repeat(20);
    let mut bench = docker(&format!(
        "FROM debian:bookworm\nCOPY main.py /out/berth-escape\nCOPY main.py {up}{}\nCMD x\n",
        mark.display()
    ))
    .await;
    let (image, _) = bench.build("hello", context(&[])).await;
    image.expect("it is all below its root");
    assert!(!mark.exists() && !Path::new("/tmp/berth-escape").exists());
    for (text, part) in [
        ("FROM debian:bookworm\nCOPY ../../../etc/hostname /x\n", "is above the repository"),
        ("FROM debian:bookworm\nCOPY main.py /etc/passwd/x\n", "through a file"),
        ("FROM debian:bookworm\nCOPY src /etc/passwd\n", "no directory"),
        ("FROM debian:bookworm\nCOPY main.py nothing /x/\n", "\"nothing\" is not in the pushed commit"),
        ("FROM debian:bookworm\nCOPY --chown=nobody main.py /x\n", "no \"nobody\" in /etc/passwd"),
        ("FROM debian:bookworm\nCOPY a.secret /x\n", "left out by .dockerignore"),
        ("FROM debian:bookworm\nCOPY --from=build main.py /x\n", "image:import"),
        ("FROM debian:bookworm AS a\nFROM a\nCOPY --from=b /x /x\n", "no stage \"b\" (stages are: a)"),
        ("FROM debian:bookworm\nCMD [\"/bin/sh\"]\n", "waits for somebody to type"),
        ("FROM debian:bookworm\nRUN print some words\nRUN fail\n", "Dockerfile:3"),
        ("FROM debian:bookworm\nRUN --mount=type=secret,id=NONE,required x\n", "config:set hello NONE=VALUE"),
        ("FROM scratch\nRUN x\n", "nothing to run"),
        ("FROM scratch\nCMD x\n", "no files"),
        ("FROM scratch\nCOPY main.py /\n", "no program to run"),
        ("FROM apps/other\n", "image:import"),
        ("FROM ../../x\n", "no image's name"),
        ("FROM localhost/x\n", "the node itself"),
        ("FROM debian:bookworm\nADD http://192.0.2.1/x /x\n", "not https"),
    ] {
        write(&mut bench.plan, text);
        let reason = bench.build("hello", context(&[])).await.0.expect_err(text);
        assert!(reason.starts_with("Dockerfile:") && reason.contains(part), "{text}: {reason}");
    }
}

#[tokio::test]
async fn add_unpacks_archives_and_copy_does_not() {
    let archive = String::from_utf8(tar(&[dir("inner"), file("inner/file", "deep")])).expect("only ASCII");
    let tree = context(&[file("files.tar", &archive)]);
    let bench = docker("FROM scratch\nADD files.tar main.py /a/\nCOPY files.tar /c/\nCOPY <<EOF /d\nx\nEOF\nENTRYPOINT [\"/a/run\"]\n").await;
    let image = bench.build("hello", tree).await.0.expect("a good Dockerfile");
    let ready = bench.images.ensure(&image.reference).await.expect("its layers are here");
    let there = |path: &str| ready.lowers.iter().any(|layer| layer.join(path).is_file());
    assert!(there("a/inner/file") && there("a/main.py") && there("c/files.tar") && there("d"));
    assert!(!there("a/files.tar"));
}

#[tokio::test]
async fn a_procfile_takes_the_place_of_the_command() {
    let mut bench = docker("FROM debian:bookworm\nENTRYPOINT [\"/enter\"]\nCMD [\"web\"]\n").await;
    let lines = [("worker", "work --fast"), ("release", "migrate && echo $X")];
    if let Some(file) = &mut bench.plan.dockerfile {
        let named =
            |(name, line): &(&str, &str)| (ProcessType::parse(name).expect("valid"), (*line).to_owned());
        file.procfile = lines.iter().map(named).collect();
    }
    let image = bench.build("hello", context(&[])).await.0.expect("a good Dockerfile");
    let argv = |name: &str| match image.processes.get(&ProcessType::parse(name).expect("valid")) {
        Some(Process::Command { argv }) => argv.join(" "),
        other => format!("{other:?}"),
    };
    assert_eq!(argv("worker"), "/enter work --fast");
    assert_eq!(argv("release"), "/enter /bin/sh -c migrate && echo $X");
    assert_eq!(argv("web"), "None", "the Procfile names what runs");
    assert!(EnvName::parse("PATH").is_ok());
}
