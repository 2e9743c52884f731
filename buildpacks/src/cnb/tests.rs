//! The rules of the specification, by examples and as laws.

use super::descriptor::{Descriptor, Target, os_release};
use super::layer::{self, Launch, Layer, Restore};
use super::order::{self, Member, flatten};
use super::resolve::{self, Detected};
use super::slices::Slices;
use super::{Api, classic, process, project, source};
use crate::tests::{settings, tree};
use crate::{Settings, plan};
use berth_model::ProcessType;
use berth_model::build::{BuildpackSource, Stack};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn nowhere(_: &str) -> bool {
    false
}

#[test]
fn sources_are_read_as_users_write_them() {
    let git = |url: &str, reference: Option<&str>| BuildpackSource::Git {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
    };
    for (text, expected) in [
        ("https://github.com/a/b#v1", git("https://github.com/a/b", Some("v1"))),
        ("ssh://git@example.com/a/b.git", git("ssh://git@example.com/a/b.git", None)),
        ("git@example.com:a/b.git#main", git("git@example.com:a/b.git", Some("main"))),
        ("heroku/nodejs", git("https://github.com/heroku/heroku-buildpack-nodejs.git", None)),
        ("https://x.test/a.tgz?v=1", BuildpackSource::Archive { url: "https://x.test/a.tgz?v=1".to_owned() }),
        ("docker://ghcr.io/a/b:1", BuildpackSource::Image { name: "ghcr.io/a/b:1".to_owned() }),
        (
            "urn:cnb:builder:a/b@1.2",
            BuildpackSource::Id { id: "a/b".to_owned(), version: Some("1.2".to_owned()) },
        ),
        ("./buildpacks/x", BuildpackSource::Directory { path: "buildpacks/x".to_owned() }),
        ("buildpacks/x/", BuildpackSource::Directory { path: "buildpacks/x".to_owned() }),
    ] {
        let found = source::parse(text, &|path: &str| path == "buildpacks/x").expect(text);
        assert_eq!(found.source, expected, "{text}");
    }
    for bad in [
        "",
        "-x",
        "a b",
        "../x",
        "/etc",
        "./none",
        "ftp://a/b",
        "file:///etc",
        "urn:cnb:registry:a/b@1",
        "https://a/b#--upload-pack=x",
        "https://a/b#a..b",
        "x",
        "urn:cnb:builder:../x",
    ] {
        source::parse(bad, &nowhere).expect_err(bad);
    }
    let escapes = |path: &str| path.contains("..");
    source::parse("a/../../b", &escapes).expect_err("a directory of the tree");
}

#[test]
fn official_buildpacks_alone_are_berths_own() {
    let built_in = |text: &str| source::built_in(&source::parse(text, &nowhere).expect(text));
    assert_eq!(built_in("heroku/nodejs"), Some("node"));
    assert_eq!(built_in("https://github.com/heroku/heroku-buildpack-python.git#v200"), Some("python"));
    assert_eq!(built_in("git@github.com:heroku/heroku-buildpack-ruby"), Some("ruby"));
    assert_eq!(built_in("https://buildpack-registry.s3.amazonaws.com/buildpacks/heroku/go.tgz"), Some("go"));
    assert_eq!(built_in("https://github.com/me/heroku-buildpack-python"), None);
    assert_eq!(built_in("https://evil.test/github.com/heroku/heroku-buildpack-python"), None);
    assert_eq!(built_in("heroku/scala"), None);
}

#[test]
fn lists_are_chosen_in_order_and_explained() {
    let chosen = |files: &[(&str, &str)], settings: Settings| {
        let plan = plan(&tree(files), &settings).expect("there is a plan");
        let cnb = plan.cnb.expect("buildpacks");
        (cnb.buildpacks.iter().map(|one| one.text.clone()).collect::<Vec<_>>(), cnb.reason)
    };
    let all = [
        (".buildpacks", "https://x.test/one\nhttps://x.test/two\n\n"),
        (".env", "A=b\nexport BUILDPACK_URL='https://x.test/env'\n"),
        ("app.json", r#"{"buildpacks": [{"url": "https://x.test/json"}]}"#),
        ("Dockerfile", "FROM x\n"),
    ];
    let (list, reason) = chosen(&all, settings());
    assert_eq!(list, ["https://x.test/one", "https://x.test/two"]);
    assert!(reason.contains(".buildpacks"), "{reason}");
    let set = Settings { buildpacks: vec!["https://x.test/set".to_owned()], ..settings() };
    assert_eq!(chosen(&all, set).0, ["https://x.test/set"]);
    assert_eq!(chosen(&all[1..], settings()).0, ["https://x.test/env"]);
    assert_eq!(chosen(&all[2..], settings()).0, ["https://x.test/json"]);
    let stack = Settings { stack: Some("heroku-24".to_owned()), ..settings() };
    let cnb = plan(&tree(&all), &stack).expect("a plan").cnb.expect("buildpacks");
    assert_eq!(cnb.stack.and_then(|stack| stack.build).as_deref(), Some("heroku/heroku:24-build"));
}

#[test]
fn stacks_are_names_or_images() {
    let stack = |text: &str| super::parse_stack(text);
    let images = |run: &str, build: &str| (Some(run.to_owned()), Some(build.to_owned()));
    let of = |stack: Stack| (stack.run, stack.build);
    assert_eq!(of(stack("debian-12").expect("ours")), (None, None));
    assert_eq!(of(stack("heroku-22").expect("known")), images("heroku/heroku:22", "heroku/heroku:22-build"));
    assert_eq!(
        of(stack("heroku/heroku:24").expect("a pair")),
        images("heroku/heroku:24", "heroku/heroku:24-build")
    );
    assert_eq!(of(stack("a:1,b:2").expect("two")), images("a:1", "b:2"));
    assert_eq!(of(stack("debian:bookworm").expect("one")), images("debian:bookworm", "debian:bookworm"));
    stack("not an image!").expect_err("no image");
}

#[test]
fn projects_are_read_in_both_versions() {
    let read = |text: &str| project::parse(text, &|path: &str| path == "bp").expect(text);
    assert_eq!(read("[project]\nname = \"x\"\n"), None);
    let new = read(
        "[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nbuilder = \"a/b:1\"\nexclude = [\"x\"]\n\
         [[io.buildpacks.group]]\nuri = \"bp\"\noptional = true\n[[io.buildpacks.post.group]]\nid = \"a/b\"\nversion = \"1\"\n\
         [[io.buildpacks.build.env]]\nname = \"A\"\nvalue = \"b\"\n",
    )
    .expect("buildpacks");
    assert_eq!((new.builder.as_deref(), new.env.len(), new.post.len()), (Some("a/b:1"), 1, 1));
    assert!(new.buildpacks[0].optional);
    let old =
        read("[build]\ninclude = [\"x\"]\n[[build.buildpacks]]\nid = \"a/b\"\n[[build.env]]\nname = \"A\"\n")
            .expect("buildpacks");
    assert_eq!((old.buildpacks.len(), old.env.len(), old.include.len()), (1, 1, 1));
    for bad in [
        "[[io.buildpacks.group]]\nversion = \"1\"\n",
        "[[io.buildpacks.group]]\nid = \"../x\"\n",
        "[io.buildpacks]\ninclude = [\"a\"]\nexclude = [\"b\"]\n",
        "[[io.buildpacks.group]]\nuri = \"none/here/x\"\n",
        "[[io.buildpacks.group]]\nid = \"a\"\nscript = { api = \"0.10\", inline = \"x\", shell = \"sh -x\" }\n",
    ] {
        project::parse(bad, &nowhere).expect_err(bad);
    }
}

#[test]
fn a_single_official_one_in_a_project_is_berths_own() {
    let project = |text: &str| plan(&tree(&[("project.toml", text), ("Procfile", "web: x\n")]), &settings());
    let group = |id: &str| format!("[[io.buildpacks.group]]\nid = \"{id}\"\n");
    let procfile = group("heroku/procfile");
    let built_in = project(&format!("{}{procfile}", group("heroku/go"))).map(|plan| plan.builder);
    // There is no Go in this tree, which only Berth's own builder can say.
    assert!(built_in.is_err_and(|error| error.to_string().contains("Go")));
    let fork = format!("[[io.buildpacks.group]]\nuri = \"https://x.test/y\"\n{procfile}");
    let cnb = project(&fork).expect("a plan").cnb.expect("buildpacks");
    assert_eq!(cnb.buildpacks.len(), 1);
    let error =
        project(&format!("{}{}", group("heroku/go"), group("heroku/scala"))).expect_err("names alone");
    assert!(error.to_string().contains("only a name"), "{error}");
}

fn descriptor(id: &str, more: &str) -> Descriptor {
    let text = format!("api = \"0.10\"\n[buildpack]\nid = \"{id}\"\nversion = \"1.2\"\n{more}");
    Descriptor::parse(&text).expect("a descriptor")
}

#[test]
fn descriptors_are_checked() {
    for (text, wanted) in [
        ("api = \"0.6\"\n[buildpack]\nid = \"a\"\nversion = \"1\"\n", "0.7 to 0.12"),
        ("api = \"1.0\"\n[buildpack]\nid = \"a\"\nversion = \"1\"\n", "0.7 to 0.12"),
        ("api = \"0.10\"\n[buildpack]\nid = \"a/../../b\"\nversion = \"1\"\n", "no id"),
        ("api = \"0.10\"\n[buildpack]\nid = \"config\"\nversion = \"1\"\n", "reserved"),
        ("api = \"0.10\"\n[buildpack]\nid = \"a\"\nversion = \"../1\"\n", "no version"),
        ("api = \"0.10\"\n[buildpack]\n", "line"),
    ] {
        let error = Descriptor::parse(text).expect_err(text);
        assert!(error.contains(wanted), "{error}");
    }
    assert!(Api(0, 10) > Api(0, 9));
}

#[test]
fn targets_and_stacks_say_where_a_buildpack_runs() {
    let (distro, distro_version) = os_release("NAME=x\nID=debian\nVERSION_ID=\"12\"\n");
    let debian = Target {
        os: "linux".to_owned(),
        arch: "amd64".to_owned(),
        distro,
        distro_version,
        stack_id: "debian-12".to_owned(),
        ..Target::default()
    };
    let noble = Target {
        distro: "ubuntu".to_owned(),
        distro_version: "24.04".to_owned(),
        stack_id: "heroku-24".to_owned(),
        ..debian.clone()
    };
    for (more, on_debian, on_noble) in [
        ("", true, true),
        ("[[targets]]\nos = \"linux\"\n", true, true),
        ("[[targets]]\nos = \"linux\"\narch = \"arm64\"\n", false, false),
        ("[[targets]]\n[[targets.distros]]\nname = \"ubuntu\"\nversion = \"24.04\"\n", false, true),
        ("[[targets]]\n[[targets.distros]]\nname = \"debian\"\n", true, false),
        ("[[stacks]]\nid = \"*\"\n", true, true),
        ("[[stacks]]\nid = \"io.buildpacks.stacks.noble\"\n", false, true),
        ("[[stacks]]\nid = \"heroku-24\"\n", false, true),
        ("[[stacks]]\nid = \"io.buildpacks.stacks.bionic\"\n", false, false),
    ] {
        let found = descriptor("a", more);
        assert_eq!(found.supports(&debian).is_ok(), on_debian, "{more}");
        assert_eq!(found.supports(&noble).is_ok(), on_noble, "{more}");
    }
    let wanted =
        descriptor("a", "[[targets]]\n[[targets.distros]]\nname = \"ubuntu\"\nversion = \"24.04\"\n");
    assert_eq!(wanted.supports(&debian), Err("linux/any ubuntu 24.04".to_owned()));
}

#[test]
fn orders_come_to_flat_groups() {
    let composite =
        "[[order]]\n[[order.group]]\nid = \"a\"\n[[order]]\n[[order.group]]\nid = \"b\"\noptional = true\n";
    let all = [descriptor("a", ""), descriptor("b", ""), descriptor("both", composite)];
    let order = order::parse(
        "[[order]]\n[[order.group]]\nid = \"both\"\n[[order.group]]\nid = \"b\"\nversion = \"1.2\"\n\
         [[order.group]]\nid = \"gone\"\noptional = true\n[[order.group]]\nid = \"a\"\nexec-env = [\"test\"]\n",
    )
    .expect("an order");
    let groups = flatten(&order, &all, "production").expect("groups");
    let member = |at, optional| Member { at, optional };
    assert_eq!(groups, [vec![member(0, false), member(1, false)], vec![member(1, true), member(1, false)]]);
    let gone = order::parse("[[order]]\n[[order.group]]\nid = \"gone\"\n").expect("an order");
    let error = flatten(&gone, &all, "production").expect_err("nobody has it");
    assert!(error.contains("gone") && error.contains("a@1.2"), "{error}");
    // One that stands for itself has an end.
    let itself = [descriptor("x", "[[order]]\n[[order.group]]\nid = \"x\"\n")];
    let order = order::parse("[[order]]\n[[order.group]]\nid = \"x\"\n").expect("an order");
    flatten(&order, &itself, "production").expect_err("without end");
    // Nor does one with very many ways grow without bound.
    let ways = "[[order]]\n[[order.group]]\nid = \"a\"\n".repeat(30);
    let many = [descriptor("a", ""), descriptor("many", &ways)];
    let text = format!("[[order]]\n{}", "[[order.group]]\nid = \"many\"\n".repeat(10));
    flatten(&order::parse(&text).expect("an order"), &many, "production").expect_err("too many");
}

fn passed(text: &str) -> Detected {
    Detected::Passed(resolve::parse(text).expect("a build plan"))
}

fn group(optional: &[bool]) -> Vec<Member> {
    optional.iter().enumerate().map(|(at, optional)| Member { at, optional: *optional }).collect()
}

#[test]
fn build_plans_choose_who_takes_part() {
    let provides = passed("[[provides]]\nname = \"node\"\n");
    let either = passed("[[provides]]\nname = \"spare\"\n[[or]]\n[[or.provides]]\nname = \"node\"\n[[or]]\n");
    let requires = passed("[[requires]]\nname = \"node\"\n[requires.metadata]\nversion = \"1\"\n");
    let resolved = |optional: &[bool], said: &[Detected]| {
        resolve::resolve(&group(optional), &|at| said[at].clone()).map(|found| found.members)
    };
    assert_eq!(resolved(&[false, false], &[provides.clone(), requires.clone()]), Ok(vec![0, 1]));
    assert_eq!(resolved(&[false, false], &[either.clone(), requires.clone()]), Ok(vec![0, 1]));
    assert_eq!(resolved(&[false], std::slice::from_ref(&either)), Ok(vec![0]));
    // Too late, or not at all.
    resolved(&[false, false], &[requires.clone(), provides.clone()]).expect_err("the provider comes after");
    resolved(&[false], std::slice::from_ref(&requires)).expect_err("nobody provides");
    resolved(&[false], std::slice::from_ref(&provides)).expect_err("nobody requires");
    // What is optional goes, and what depended on it too.
    let nothing = passed("");
    assert_eq!(
        resolved(&[true, true, false], &[Detected::Failed, requires.clone(), nothing.clone()]),
        Ok(vec![2])
    );
    assert_eq!(resolved(&[true, false], &[provides.clone(), nothing.clone()]), Ok(vec![1]));
    resolved(&[false, false], &[Detected::Failed, nothing.clone()]).expect_err("it must take part");
    resolved(&[true], &[Detected::Broken(1)]).expect_err("nobody is left");
    let error = resolved(&[false], &[Detected::Broken(3)]).expect_err("it broke off");
    assert!(error.contains("exit code 3"), "{error}");
}

#[test]
fn plans_go_from_one_to_the_next() {
    let provides = passed("[[provides]]\nname = \"a\"\n[[provides]]\nname = \"b\"\n");
    let also =
        passed("[[provides]]\nname = \"b\"\n[[requires]]\nname = \"a\"\n[requires.metadata]\nby = \"two\"\n");
    let wants = passed("[[requires]]\nname = \"b\"\n[requires.metadata]\nlist = [1, \"x\"]\n");
    let said = [provides, also, wants];
    let mut found = resolve::resolve(&group(&[false; 3]), &|at| said[at].clone()).expect("it resolves");
    let first = found.plan_for(0);
    assert!(first.contains("by = \"two\"") && first.contains("list = "), "{first}");
    found.met(0, &["b".to_owned()]);
    let second = found.plan_for(1);
    assert!(second.contains("name = \"b\"") && !second.contains("two"), "{second}");
    found.met(1, &[]);
    assert_eq!(found.plan_for(2), "");
}

#[test]
fn layers_say_what_comes_back() {
    let layer =
        |types: &str| Layer::parse(&format!("[types]\n{types}\n[metadata]\nv = 1\n"), "x.toml").expect(types);
    for (types, restore) in [
        ("cache = true", Restore::Files),
        ("cache = true\nlaunch = true\nbuild = true", Restore::Files),
        ("launch = true", Restore::Metadata),
        ("launch = true\nbuild = true", Restore::Nothing),
        ("build = true", Restore::Nothing),
    ] {
        assert_eq!(layer(types).restore(), restore, "{types}");
        assert!(layer(types).is_used());
    }
    let without = Layer::parse("[metadata]\nv = 1\n", "x.toml").expect("parses");
    assert!(!without.is_used());
    assert_eq!(layer("launch = true").restored(), "[metadata]\nv = 1\n");
    for name in ["build", "launch", "store", "..", "a/b", "", ".hidden", "a\0"] {
        layer::check_name(name).expect_err(name);
    }
    assert_eq!(layer::sbom("jre.sbom.cdx.json"), Some(("jre", "cdx")));
    assert_eq!(layer::sbom("launch.sbom.spdx.json"), Some(("launch", "spdx")));
    assert_eq!(layer::sbom("store.sbom.cdx.json"), None);
    assert_eq!(layer::unmet("[[unmet]]\nname = \"x\"\n").expect("parses"), ["x"]);
}

#[test]
fn launch_files_follow_their_api() {
    let list = "[[processes]]\ntype = \"web\"\ncommand = [\"a\"]\nargs = [\"b\"]\ndefault = true\n";
    let text = "[[processes]]\ntype = \"web\"\ncommand = \"a b\"\ndirect = false\n";
    let new = Launch::parse(list, Api(0, 9)).expect("a list");
    assert!(new.processes[0].direct && new.processes[0].default);
    let old = Launch::parse(text, Api(0, 8)).expect("a text");
    assert!(!old.processes[0].direct);
    let of_tests =
        format!("{list}[[processes]]\ntype = \"check\"\ncommand = [\"a\"]\nexec-env = [\"test\"]\n");
    assert_eq!(Launch::parse(&of_tests, Api(0, 12)).expect("parses").processes.len(), 1);
    Launch::parse(list, Api(0, 8)).expect_err("a list too early");
    Launch::parse(text, Api(0, 9)).expect_err("a text too late");
    Launch::parse("[[processes]]\ntype = \"../x\"\ncommand = [\"a\"]\n", Api(0, 9)).expect_err("no type");
    Launch::parse("[[labels]]\nkey = \"sh.berth.image\"\nvalue = \"x\"\n", Api(0, 9))
        .expect_err("not theirs");
}

#[test]
fn processes_of_later_buildpacks_and_the_procfile_win() {
    let defined = |name: &str, command: &str, default| process::Defined {
        name: name.to_owned(),
        command: vec![command.to_owned()],
        direct: true,
        default,
        ..process::Defined::default()
    };
    let merged = |defined: Vec<process::Defined>, procfile: &[(&str, &str)]| {
        let line =
            |(name, line): &(&str, &str)| (ProcessType::parse(name).expect("valid"), (*line).to_owned());
        let merged = process::merge(defined, &procfile.iter().map(line).collect::<BTreeMap<_, _>>());
        merged.into_iter().map(|one| (one.name, one.command[0].clone(), one.default)).collect::<Vec<_>>()
    };
    let owned = |name: &str, command: &str, default| (name.to_owned(), command.to_owned(), default);
    assert_eq!(
        merged(
            vec![defined("web", "one", true), defined("task", "two", false), defined("web", "three", false)],
            &[]
        ),
        [owned("task", "two", false), owned("web", "three", true)],
        "defined anew as no default, but web is one by itself"
    );
    assert_eq!(
        merged(vec![defined("a", "one", true), defined("b", "two", true)], &[("b", "line")]),
        [owned("a", "one", false), owned("b", "line", true)]
    );
    assert_eq!(
        merged(vec![defined("server", "one", true)], &[]),
        [owned("server", "one", true), owned("web", "one", false)]
    );
}

#[test]
fn slices_have_what_their_patterns_match() {
    let texts = |patterns: &[&[&str]]| {
        let owned: Vec<Vec<String>> =
            patterns.iter().map(|slice| slice.iter().map(|text| (*text).to_owned()).collect()).collect();
        Slices::parse(&owned)
    };
    let slices = texts(&[&["static/**", "*.md"], &["vendor"]]).expect("patterns");
    for (path, slice) in [
        ("static/a/b.css", Some(0)),
        ("README.md", Some(0)),
        ("docs/x.md", None),
        ("vendor/a/b", Some(1)),
        ("vendored", None),
    ] {
        assert_eq!(slices.of(path), slice, "{path}");
    }
    texts(&[&["../x"]]).expect_err("outside");
    texts(&[&["/etc/passwd"]]).expect_err("outside");
}

#[test]
fn releases_of_classic_buildpacks_are_read() {
    let text = "---\naddons:\n  - heroku-postgresql:dev # small\nconfig_vars:\n  A: plain # a remark\n  \"B\": 'it''s: x'\n  C: \"two\\nlines\"\n\
                default_process_types:\n  web: bundle exec rackup -p $PORT\n  worker: |\n    one\n    two\n  empty:\nother: {}\n";
    let release = classic::parse(text).expect("a document");
    assert_eq!(release.addons, ["heroku-postgresql:dev"]);
    let config: Vec<_> = release.config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(config, [("A", "plain"), ("B", "it's: x"), ("C", "two\nlines")]);
    assert_eq!(release.processes["web"], "bundle exec rackup -p $PORT");
    assert_eq!(release.processes["worker"], "one\ntwo");
    assert_eq!(classic::parse("--- {}\n").expect("nothing"), classic::Release::default());
    classic::parse("config_vars: {A: b}\n").expect_err("a flow map");
    classic::parse("no colon\n").expect_err("no map");
}

proptest! {
    /// Whoever takes part, each requirement is provided at or before it, and each provision required at or after it.
    #[test]
    fn resolved_plans_are_whole(
        said in prop::collection::vec((any::<bool>(), prop::collection::vec(
            (prop::collection::vec(0..3_u8, 0..3), prop::collection::vec(0..3_u8, 0..3)), 1..3)), 1..5),
    ) {
        let name = |n: &u8| format!("n{n}");
        let sections = |(provides, requires): &(Vec<u8>, Vec<u8>)| resolve::Sections {
            provides: provides.iter().map(name).collect(),
            requires: requires.iter().map(|n| resolve::Require { name: name(n), ..Default::default() }).collect(),
        };
        let members: Vec<Member> =
            said.iter().enumerate().map(|(at, (optional, _))| Member { at, optional: *optional }).collect();
        let detected = |at: usize| Detected::Passed(said[at].1.iter().map(sections).collect());
        if let Ok(found) = resolve::resolve(&members, &detected) {
            prop_assert!(!found.members.is_empty());
            prop_assert!(members.iter().all(|member| member.optional || found.members.contains(&member.at)));
            for dependency in found.plan.values() {
                prop_assert!(!dependency.providers.is_empty() && !dependency.requires.is_empty());
            }
        }
    }

    /// No text of a buildpack breaks a reader.
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]a-z.\"= \n'|>:{}-]{0,120}") {
        let _ = Descriptor::parse(&text);
        let _ = order::parse(&text);
        let _ = resolve::parse(&text);
        let _ = Layer::parse(&text, "x.toml");
        let _ = Launch::parse(&text, Api(0, 10));
        let _ = layer::unmet(&text);
        let _ = classic::parse(&text);
        let _ = project::parse(&text, &nowhere);
        let _ = source::parse(&text, &nowhere);
        let _ = Slices::parse(&[vec![text]]);
    }
}
