//! Dockerfiles from text to work.

use super::*;
use berth_model::EnvName;
use berth_model::image::ImageConfig;
use std::collections::BTreeMap;

fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn program(text: &str) -> Program {
    Program::parse(text, &Options::default()).expect("well-formed")
}

fn problem(text: &str) -> String {
    match Program::parse(text, &Options::default()) {
        Err(problem) => problem.to_string(),
        Ok(program) => {
            let none = BTreeMap::new();
            let mut state = State::default();
            let scope = Scope { program: &program, stage: 0, args: &none };
            let found = program.stages[0].steps.iter().find_map(|step| state.apply(step, scope).err());
            found.expect("a problem").to_string()
        }
    }
}

/// The state after the last step of the target, and all the work on the way.
fn run(text: &str, base: ImageConfig, given: &[(&str, &str)]) -> (ImageConfig, Vec<Work>) {
    let given = args(given);
    let program = Program::parse(text, &Options { target: None, args: given.clone() }).expect("well-formed");
    let stage = program.target_stage();
    let scope = Scope { program: &program, stage, args: &given };
    let mut state = State::new(base);
    let mut steps = state.take_triggers(program.stages[stage].line, program.escape).expect("good triggers");
    steps.extend(program.stages[stage].steps.clone());
    let work = steps.iter().filter_map(|step| state.apply(step, scope).expect("a good step")).collect();
    (state.config().clone(), work)
}

fn of(config: &ImageConfig, name: &str) -> Option<String> {
    config.env.get(&EnvName::parse(name).expect("valid")).cloned()
}

#[test]
fn arguments_have_their_scopes_and_env_wins() {
    let text = "ARG V=1\nARG W\nFROM a:$V AS b\nARG V\nARG W=w\nARG X=x$V\nENV X=env Y=$X-$V Z=\"a b\" U=$UNSET\nRUN echo $X\nARG LATE=1\n";
    let (config, work) = run(text, ImageConfig::default(), &[("W", "given"), ("UNDECLARED", "no")]);
    assert_eq!(of(&config, "Y").as_deref(), Some("x1-1"));
    assert_eq!(of(&config, "Z").as_deref(), Some("a b"));
    assert_eq!(of(&config, "U").as_deref(), Some(""));
    assert_eq!(of(&config, "V"), None, "an ARG is not in the image");
    let [Work::Run(run)] = work.as_slice() else { panic!("{work:?}") };
    let env: Vec<_> = run.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("U", ""), ("V", "1"), ("W", "given"), ("X", "env"), ("Y", "x1-1"), ("Z", "a b")]);
    assert_eq!(run.argv, ["/bin/sh", "-c", "echo $X"], "the shell fills in what RUN names");
    assert_eq!(program(text).stages[0].base, Base::Image("a:1".to_owned()));
}

#[test]
fn a_target_needs_only_what_it_stands_on_and_copies_from() {
    let text = "FROM a AS base\nFROM base AS build\nRUN x\nFROM b AS unused\nRUN y\nFROM c AS tools\nFROM base\nCOPY --from=build /x /\nRUN --mount=type=bind,from=3,target=/t z\n";
    let all = program(text);
    assert_eq!((all.order.as_slice(), all.target_stage(), all.step_count()), (&[0, 1, 3, 4][..], 4, 7));
    assert_eq!(all.in_image(), [0, 4].into());
    let only = Program::parse(text, &Options { target: Some("BUILD".to_owned()), ..Options::default() });
    assert_eq!(only.expect("there is one").order, [0, 1]);
    let none = Program::parse(text, &Options { target: Some("x".to_owned()), ..Options::default() });
    assert!(none.expect_err("no such").text.contains("base, build, unused, tools"));
}

#[test]
fn entrypoint_command_and_shell() {
    let base = ImageConfig {
        entrypoint: vec!["/old".to_owned()],
        cmd: vec!["arg".to_owned()],
        ..ImageConfig::default()
    };
    let (config, _) = run("FROM a\nENTRYPOINT [\"/new\"]\n", base.clone(), &[]);
    assert!(config.cmd.is_empty() && config.entrypoint == ["/new"], "the old CMD was for the old ENTRYPOINT");
    let (config, _) = run("FROM a\nCMD [\"x\"]\nENTRYPOINT exec foo $BAR\n", base.clone(), &[]);
    assert_eq!(
        (config.cmd, config.entrypoint),
        (vec!["x".to_owned()], ["/bin/sh", "-c", "exec foo $BAR"].map(str::to_owned).to_vec())
    );
    let (config, work) =
        run("FROM a\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN a && b\nCMD c\nRUN [\"d\", \"$e\"]\n", base, &[]);
    assert_eq!(config.cmd, ["/bin/bash", "-ec", "c"]);
    let [Work::Run(first), Work::Run(second)] = work.as_slice() else { panic!("{work:?}") };
    assert_eq!(first.argv, ["/bin/bash", "-ec", "a && b"]);
    assert_eq!(second.argv, ["d", "$e"]);
}

#[test]
fn places_users_and_ports() {
    let base = ImageConfig { exposed: vec!["9000/tcp".to_owned()], ..ImageConfig::default() };
    let text = "FROM a\nENV D=/srv P=8080\nWORKDIR $D\nUSER ${U:-app}:app\nWORKDIR ../x/./y\nEXPOSE $P 53/UDP\nEXPOSE 7000-7001 9000\nVOLUME [\"/data\"]\nVOLUME /a /data\nSTOPSIGNAL SIGQUIT\nLABEL a=b \"c d\"=\"e $P\"\n";
    let (config, work) = run(text, base, &[]);
    assert_eq!(config.working_dir, "/x/y");
    assert_eq!(
        work,
        [
            Work::Directory { path: "/srv".to_owned(), user: String::new() },
            Work::Directory { path: "/x/y".to_owned(), user: "app:app".to_owned() }
        ]
    );
    assert_eq!(config.exposed, ["8080/tcp", "53/udp", "7000/tcp", "7001/tcp", "9000/tcp"]);
    assert_eq!(config.volumes, ["/data", "/a"]);
    assert_eq!(config.labels, args(&[("a", "b"), ("c d", "e 8080")]));
    assert_eq!(config.stop_signal, "SIGQUIT");
}

#[test]
fn copies_know_their_sources_and_place() {
    let text = "FROM x AS one\nFROM y\nWORKDIR /srv\nENV F=file\nCOPY --chown=1:2 --chmod=640 $F \"with blank\" ./\nCOPY --from=one --exclude=*.o [\"/a b\", \"/c\"]\nCOPY . .\nADD https://example.com/a.tgz /tmp/a.tgz\nCOPY <<A <<'B' /etc/\nport=$F \"q\"\nA\n$F\nB\n";
    let (_, work) = run(text, ImageConfig::default(), &[]);
    let copies: Vec<&Copy> = work
        .iter()
        .filter_map(|work| match work {
            Work::Copy(copy) => Some(copy),
            _ => None,
        })
        .collect();
    let path = |text: &str| Source::Path(text.to_owned());
    assert_eq!(copies[0].sources, [path("file"), path("with blank")]);
    assert_eq!(
        (copies[0].dest.as_str(), copies[0].chown.as_deref(), copies[0].chmod.clone()),
        ("/srv/", Some("1:2"), Some(Chmod::parse("640").expect("octal")))
    );
    assert_eq!((copies[1].from.clone(), copies[1].dest.as_str()), (Origin::Stage(0), "/c"));
    assert_eq!((copies[2].sources[0].clone(), copies[2].dest.as_str()), (path("."), "/srv/"));
    assert_eq!(copies[3].sources, [Source::Url("https://example.com/a.tgz".to_owned())]);
    assert_eq!(
        copies[4].sources,
        [
            Source::Inline("A".to_owned(), "port=file \"q\"\n".to_owned()),
            Source::Inline("B".to_owned(), "$F\n".to_owned())
        ]
    );
}

#[test]
fn repositories_and_caches_with_a_beginning() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let text = format!(
        "FROM x AS seed\nFROM y\nARG TAG=v1\nADD --keep-git-dir=true --checksum={commit} https://h/r.git#$TAG:sub /src\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/root/.m2 x\n"
    );
    let (_, work) = run(&text, ImageConfig::default(), &[]);
    let [Work::Copy(copy), Work::Run(run)] = work.as_slice() else { panic!("{work:?}") };
    let git = GitSource {
        url: "https://h/r.git".to_owned(),
        reference: "v1".to_owned(),
        directory: "sub".to_owned(),
        keep_git_dir: true,
        commit: Some(commit.to_owned()),
    };
    assert_eq!(copy.sources, [Source::Git(git)]);
    let MountKind::Cache { from, .. } = &run.mounts[0].kind else { panic!("{run:?}") };
    assert_eq!(*from, Some((Origin::Stage(0), "/root/.m2".to_owned())));
    assert_eq!(program(&text).order, [0, 1], "the stage is needed");
}

#[test]
fn mounts_and_here_documents_of_run() {
    let text = "FROM x\nARG ID=pip\nWORKDIR /w\nRUN --mount=type=cache,target=/root/.cache,id=$ID,sharing=locked --mount=type=secret,id=TOKEN,env=T --mount=type=secret,id=K,target=k,required --mount=source=src,dst=/s,rw --network=none make\nRUN <<EOF\nset -e\necho $x\nEOF\nRUN <<PY cat - && python3 <<B\na\nPY\nb\nB\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n";
    let (_, work) = run(text, ImageConfig::default(), &[]);
    let runs: Vec<&Run> = work
        .iter()
        .filter_map(|work| match work {
            Work::Run(run) => Some(run),
            _ => None,
        })
        .collect();
    let mount = |kind, target: &str, read_only| Mount { kind, target: target.to_owned(), read_only };
    assert_eq!(
        runs[0].mounts,
        [
            mount(
                MountKind::Cache { id: "pip".to_owned(), uid: 0, gid: 0, mode: 0o755, from: None },
                "/root/.cache",
                false
            ),
            mount(
                MountKind::Secret { id: "TOKEN".to_owned(), env: Some("T".to_owned()), required: false },
                "",
                true
            ),
            mount(MountKind::Secret { id: "K".to_owned(), env: None, required: true }, "/w/k", true),
            mount(MountKind::Bind { from: Origin::Context, source: "src".to_owned() }, "/s", false),
        ]
    );
    assert!(!runs[0].online && runs[1].online);
    assert_eq!(runs[1].argv[2], "set -e\necho $x\n");
    assert_eq!(runs[2].argv[2], "<<PY cat - && python3 <<B\na\nPY\nb\nB");
    assert_eq!(runs[3].argv, ["/usr/bin/env", "python3", "/run/berth/heredoc/EOF"]);
    assert_eq!(runs[3].files[0].1, "#!/usr/bin/env python3\nprint(1)\n");
}

#[test]
fn triggers_of_the_base_come_first() {
    let base = ImageConfig {
        on_build: vec!["ENV A=1".to_owned(), "COPY . /src".to_owned()],
        ..ImageConfig::default()
    };
    let (config, work) = run("FROM a\nENV B=$A\nONBUILD RUN later\n", base, &[]);
    assert_eq!(of(&config, "B").as_deref(), Some("1"));
    assert!(matches!(work.as_slice(), [Work::Copy(_)]));
    assert_eq!(config.on_build, ["RUN later"]);
}

#[test]
fn healthchecks() {
    let (config, _) = run(
        "FROM a\nHEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 CMD curl -f localhost\n",
        ImageConfig::default(),
        &[],
    );
    let check = config.healthcheck.expect("there is one");
    assert_eq!(
        (check.test, check.interval, check.timeout, check.retries),
        (vec!["CMD-SHELL".to_owned(), "curl -f localhost".to_owned()], 90_000_000_000, 500_000_000, 2)
    );
    assert_eq!(
        run("FROM a\nHEALTHCHECK NONE\n", ImageConfig::default(), &[]).0.healthcheck.expect("said").test,
        ["NONE"]
    );
}

#[test]
fn problems_name_their_line_and_what_to_write() {
    for (text, line, part) in [
        ("", 1, "no FROM"),
        ("RUN x\n", 1, "must be FROM"),
        ("FROM a\n\nRUNN x\n", 3, "\"RUNN\" is no instruction; did you mean RUN?"),
        ("FROM a\nRUN x &&\n apt-get y\n", 3, "\"apt-get\" is no instruction. If this line goes on"),
        ("FROM a\nCMD ['a', 'b']\n", 2, "double quotes"),
        ("FROM a\nENTRYPOINT [\"a\",]\n", 2, "none at the end"),
        ("FROM debian bookworm\n", 1, "FROM debian:bookworm"),
        ("FROM a\nCOPY x\n", 2, "one source and a destination"),
        ("FROM a\nCOPY --form=b x y\n", 2, "no flag --form; it knows --from"),
        ("FROM a\nCOPY --from=later x y\nFROM b AS later\n", 2, "not before"),
        ("FROM a\nCOPY --from=0 x y\n", 2, "no stage 0"),
        ("FROM $X\n", 1, "no image"),
        ("FROM a AS 1x\n", 1, "stage name"),
        ("FROM a as b\nFROM c as B\n", 2, "two stages"),
        ("FROM --platform=linux/mips a\n", 1, "cannot be built here"),
        ("FROM a\nENV x\n", 2, "NAME=VALUE"),
        ("FROM a\nENV a=b c\n", 2, "quotes"),
        ("FROM a\nENV 1a=b\n", 2, "variable name"),
        ("FROM a\nEXPOSE 99999\n", 2, "65535"),
        ("FROM a\nUSER ${X:?who}\n", 2, "X: who"),
        ("FROM a\nRUN --mount=type=ssh x\n", 2, "secret"),
        ("FROM a\nRUN --mount=type=cache x\n", 2, "target"),
        ("FROM a\nRUN --mount=type=cache,target=/a,foo=b x\n", 2, "foo"),
        ("FROM a\nRUN --security=insecure x\n", 2, "not allowed"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "EOF is missing"),
        ("FROM a\nHEALTHCHECK\n", 2, "needs something"),
        ("FROM a\nHEALTHCHECK --interval=3 CMD x\n", 2, "duration"),
        ("FROM a\nSHELL bash\n", 2, "list"),
        ("FROM a\nONBUILD FROM x\n", 2, "cannot come after"),
        ("FROM a\nADD git@host:u/x.git /x\n", 2, "SSH"),
        ("FROM a\nADD --checksum=sha256:0 https://host/x /x\n", 2, "64 hexadecimal"),
        ("FROM a\nADD --checksum=sha256:0 x /x\n", 2, "URL or a git repository"),
        ("FROM a\nCOPY --chmod=u+q a b\n", 2, "neither octal"),
        ("FROM a\nSTOPSIGNAL SIGNOPE\n", 2, "no such signal"),
        ("FROM a\nRUN --mount=type=cache,target=/a,from=later x\nFROM b as later\n", 2, "not before"),
        ("FROM a\nCOPY \"a b\n", 2, "at least one source"),
    ] {
        let found = problem(text);
        assert!(found.starts_with(&format!("line {line}: ")) && found.contains(part), "{text:?}: {found}");
    }
}

proptest::proptest! {
    /// Nothing that anybody writes makes it panic.
    #[test]
    fn any_text_is_read_or_refused(lines in proptest::collection::vec("(FROM|RUN|COPY|ADD|ENV|ARG|EXPOSE|LABEL|USER|WORKDIR|CMD|SHELL|VOLUME|HEALTHCHECK|ONBUILD|STOPSIGNAL|#)? ?[-a-z0-9 =$\\{}:\"'\\\\<,./\\[\\]%#é\\n]{0,30}", 0..8)) {
        let text = format!("FROM a AS b\n{}", lines.join("\n"));
        if let Ok(program) = Program::parse(&text, &Options::default()) {
            let none = BTreeMap::new();
            for (index, stage) in program.stages.iter().enumerate() {
                let mut state = State::default();
                for step in &stage.steps {
                    let _ = state.apply(step, Scope { program: &program, stage: index, args: &none });
                }
            }
        }
    }
}
