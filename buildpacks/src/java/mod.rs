//! Java: a runtime, the app built by Maven, Gradle or javac.
//!
//! In: a tree with a pom.xml, a Gradle build or Java programs at its top. Out: layers for the runtime, for the compiler and Maven
//! (which no image gets), and for the app. What Maven and Gradle download is kept between builds.

mod version;

use crate::PlanError;
use crate::debian::{self, Packages};
use crate::draft::{Draft, Outcome, Step, image_config};
use crate::error::invalid;
use crate::tree::SourceTree;

/// What builds the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// `./mvnw`, which fetches the Maven it names.
    MavenWrapper,
    /// Debian's Maven.
    Maven,
    /// `./gradlew`, which fetches the Gradle it names.
    Gradle,
    /// javac over the Java files.
    Plain,
    /// Nothing: a jar is committed.
    Jar,
}

/// The file that makes the tree a Java app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    ["pom.xml", "gradlew", "build.gradle", "build.gradle.kts"].into_iter().find(|file| tree.has(file))
}

/// A program at the top, for trees that nothing else knows.
pub(crate) fn detect_files(tree: &dyn SourceTree) -> Option<String> {
    let by_name =
        ["Main.java", "App.java", "Application.java", "Server.java"].into_iter().find(|file| tree.has(file));
    by_name.map(str::to_owned).or_else(|| tree.top().find(|name| name.ends_with(".jar")).map(str::to_owned))
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let tree = draft.tree;
    let tool = tool(tree)?;
    let (version, origin) = version::wanted(tree)?;
    let web = match tool {
        Tool::Plain => detect_files(tree).and_then(|file| {
            let class = file.strip_suffix(".java")?.to_owned();
            Some((format!("java $JAVA_OPTS -cp 'classes:lib/*:.' {class}"), format!("the program {file}")))
        }),
        Tool::Jar => tree
            .top()
            .find(|name| name.ends_with(".jar") && is_plain(name))
            .map(|name| (format!("java $JAVA_OPTS -jar {name}"), format!("{name} is committed"))),
        _ => Some((
            format!("java {}$JAVA_OPTS -jar .berth/web.jar", port(tree)),
            "the jar with a main class that the build makes".to_owned(),
        )),
    };
    let web = web.filter(|_| draft.wants_default_web());
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Java",
            looked: "a Procfile, pom.xml, a Gradle build, Main.java, App.java, Server.java and a jar",
            example: "java -jar target/app.jar",
        });
    }
    runtime(draft, version, origin, tool)?;
    let mut notes = Vec::new();
    if let Some((line, reason)) = &web {
        notes.push(format!("web: {line} ({reason}); a Procfile would overrule this"));
    }
    match tool {
        Tool::Jar => draft.source(notes, &[]),
        _ => build(draft, tool, version, notes, web.is_some())?,
    }
    let processes = draft.processes(web.map(|(line, _)| line));
    let home = home(version);
    let bin = format!("{home}/bin");
    // The heap as a share of the container's memory, whatever that is; a config var of the same name replaces it.
    let env = [
        ("JAVA_HOME", home.as_str()),
        ("JAVA_TOOL_OPTIONS", "-XX:MaxRAMPercentage=70 -Dfile.encoding=UTF-8"),
    ];
    Ok(Outcome { processes, config: image_config(&[&bin], &env) })
}

/// Spring Boot listens on a port of its own unless it is told.
fn port(tree: &dyn SourceTree) -> &'static str {
    let files = ["pom.xml", "build.gradle", "build.gradle.kts"];
    let is_spring = files
        .into_iter()
        .filter_map(|file| tree.glance(file))
        .any(|text| text.contains("spring-boot") || text.contains("org.springframework.boot"));
    if is_spring { "-Dserver.port=$PORT " } else { "" }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !name.starts_with('-')
}

fn tool(tree: &dyn SourceTree) -> Result<Tool, PlanError> {
    if tree.has("pom.xml") {
        let has_wrapper = tree.has("mvnw") && tree.has_dir(".mvn/wrapper");
        return Ok(if has_wrapper { Tool::MavenWrapper } else { Tool::Maven });
    }
    if let Some(file) =
        ["build.gradle", "build.gradle.kts", "gradlew"].into_iter().find(|file| tree.has(file))
    {
        if !tree.has("gradlew") || !tree.has("gradle/wrapper/gradle-wrapper.jar") {
            return invalid(
                file,
                "there is no Gradle wrapper beside it, which says which Gradle to use; run `gradle wrapper`, and commit gradlew and gradle/wrapper",
            );
        }
        return Ok(Tool::Gradle);
    }
    let has_program = tree.top().any(|name| name.ends_with(".java"));
    Ok(if has_program { Tool::Plain } else { Tool::Jar })
}

/// Where the Java of an image is.
fn home(version: u32) -> String {
    match version {
        version::STACK => "/layers/java".to_owned(),
        _ => "/layers/jre".to_owned(),
    }
}

fn runtime(draft: &mut Draft<'_>, version: u32, origin: &str, tool: Tool) -> Result<(), PlanError> {
    let note = match origin {
        "" => format!(
            "no version was asked for: Debian's Java {version} is used; to choose one, commit system.properties with a line such as java.runtime.version=21"
        ),
        origin => format!("the version comes from {origin}"),
    };
    if version == version::STACK {
        debian::layer(
            draft,
            Packages {
                name: "java/runtime",
                title: format!("Installing Java {version}"),
                notes: vec![note],
                packages: vec!["openjdk-17-jre-headless".to_owned(), "ca-certificates-java".to_owned()],
                script: include_str!("runtime.sh"),
                env: Vec::new(),
                launch: true,
                uses: Vec::new(),
            },
        )?;
    } else {
        upstream(
            draft,
            "java/runtime",
            format!("Installing Java {version}"),
            vec![note],
            version,
            "jre",
            true,
        )?;
    }
    let mut packages = Vec::new();
    if tool != Tool::Jar && version == version::STACK {
        packages.push("openjdk-17-jdk-headless".to_owned());
    }
    if tool == Tool::Maven {
        packages.push("maven".to_owned());
    }
    if !packages.is_empty() {
        debian::layer(
            draft,
            Packages {
                name: "java/tools",
                title: "Installing what builds Java".to_owned(),
                notes: vec!["it does not become part of the image".to_owned()],
                packages,
                script: "packages\n[[ ! -d /usr/share/maven ]] || ln -sf /usr/share/maven/bin/mvn /usr/bin/mvn\n",
                env: Vec::new(),
                launch: false,
                uses: vec!["java/runtime"],
            },
        )?;
    }
    if tool != Tool::Jar && version != version::STACK {
        let notes = vec!["it does not become part of the image".to_owned()];
        upstream(draft, "java/jdk", "Installing the Java compiler".to_owned(), notes, version, "jdk", false)?;
    }
    Ok(())
}

/// Eclipse Temurin, for versions that Debian does not have.
fn upstream(
    draft: &mut Draft<'_>,
    name: &'static str,
    title: String,
    notes: Vec<String>,
    version: u32,
    kind: &'static str,
    launch: bool,
) -> Result<(), PlanError> {
    let mut env = draft.config(|name| name == "BERTH_JAVA_MIRROR");
    env.extend([
        ("JAVA_WANTED", version.to_string()),
        ("JAVA_KIND", kind.to_owned()),
        ("HOME", "/tmp".to_owned()),
    ]);
    if draft.settings.refresh > 0 {
        env.push(("JAVA_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.step(Step {
        name,
        title,
        notes,
        script: include_str!("upstream.sh").to_owned(),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![if launch { "/layers/jre" } else { "/layers/jdk" }],
        caches: Vec::new(),
        launch,
        uses: Vec::new(),
    })
}

fn build(
    draft: &mut Draft<'_>,
    tool: Tool,
    version: u32,
    notes: Vec<String>,
    wants_web: bool,
) -> Result<(), PlanError> {
    let home = if version == version::STACK { "/layers/java" } else { "/layers/jdk" };
    let (title, run) = match tool {
        Tool::MavenWrapper => ("Building the app with Maven", "maven bash ./mvnw\n"),
        Tool::Maven => ("Building the app with Maven", "maven mvn\n"),
        Tool::Gradle => ("Building the app with Gradle", "gradle\n"),
        Tool::Plain | Tool::Jar => ("Building the app with javac", "plain\n"),
    };
    let find = if wants_web && tool != Tool::Plain { "find_web\n" } else { "" };
    let script = format!("cd /app\n{}{}{run}{find}", draft.prune(), include_str!("build.sh"));
    let mut env = draft.build_config();
    env.extend([
        ("HOME", "/tmp".to_owned()),
        ("JAVA_HOME", home.to_owned()),
        ("PATH", format!("{home}/bin:/usr/local/bin:/usr/bin:/bin")),
        ("GRADLE_USER_HOME", "/cache/java/gradle".to_owned()),
        ("MAVEN_USER_HOME", "/cache/java/maven".to_owned()),
    ]);
    draft.step(Step {
        name: "app",
        title: title.to_owned(),
        notes,
        script,
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: vec![("java", "/cache/java")],
        launch: true,
        uses: vec!["java/runtime", "java/tools", "java/jdk"],
    })
}
