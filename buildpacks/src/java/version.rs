//! Which Java an app wants.
//!
//! In: system.properties, version files, pom.xml. Out: a feature version (8, 17, 21) and where it was found.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;

/// The Java of the stack's distribution.
pub(super) const STACK: u32 = 17;

/// The feature version, and the file that says so; empty if none does.
pub(super) fn wanted(tree: &dyn SourceTree) -> Result<(u32, &'static str), PlanError> {
    let property = |text: String| {
        text.lines().map(str::trim).find_map(|line| {
            let rest = line.strip_prefix("java.runtime.version")?.trim_start();
            Some(rest.strip_prefix(['=', ':'])?.trim().to_owned())
        })
    };
    let named = |prefix: &'static str| {
        move |text: String| {
            text.lines().find_map(|line| Some(line.trim().strip_prefix(prefix)?.trim().to_owned()))
        }
    };
    let line = |text: String| text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    let wishes = [
        ("system.properties", tree.text("system.properties")?.and_then(property)),
        (".java-version", tree.text(".java-version")?.and_then(line)),
        (".sdkmanrc", tree.text(".sdkmanrc")?.and_then(named("java="))),
        (".tool-versions", tree.text(".tool-versions")?.and_then(named("java "))),
    ];
    if let Some((file, text)) = wishes.into_iter().find_map(|(file, wish)| Some((file, wish?))) {
        return parse(file, &text).map(|version| (version, file));
    }
    // A pom.xml names the oldest Java that will do.
    let pom = tree.glance("pom.xml").unwrap_or_default();
    let wish =
        ["java.version", "maven.compiler.release", "maven.compiler.target"].into_iter().find_map(|name| {
            let rest = pom.split_once(&format!("<{name}>"))?.1;
            parse("pom.xml", rest.split_once('<')?.0).ok()
        });
    Ok(wish.filter(|version| *version > STACK).map_or((STACK, ""), |version| (version, "pom.xml")))
}

/// `17`, `1.8`, `21.0.2`, `openjdk-21`, `zulu-17.0.1`, `21.0.2-tem`: the feature version.
fn parse(file: &str, text: &str) -> Result<u32, PlanError> {
    let text = text.trim();
    let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let found = match numbers.next().flatten() {
        Some(1) => numbers.next().flatten(),
        other => other,
    };
    let vendor = text[..start].trim_end_matches('-');
    let good = vendor.len() <= 20 && vendor.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match found.filter(|version| good && (8..100).contains(version)) {
        Some(version) => Ok(version),
        None => {
            let shown: String = text.chars().take(40).collect();
            invalid(file, format!("found {shown:?}, expected a version of Java such as 17 or 21"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    #[test]
    fn versions_are_found_where_people_write_them() {
        let of = |file: &str, text: &str| wanted(&MemoryTree::new().with(file, text));
        assert_eq!(
            of("system.properties", "# x\njava.runtime.version = 21\n").ok(),
            Some((21, "system.properties"))
        );
        assert_eq!(of("system.properties", "java.runtime.version=1.8").ok(), Some((8, "system.properties")));
        assert_eq!(of(".sdkmanrc", "java=21.0.2-tem\n").ok(), Some((21, ".sdkmanrc")));
        assert_eq!(of(".java-version", "openjdk-11.0.2\n").ok(), Some((11, ".java-version")));
        assert_eq!(of("pom.xml", "<java.version>25</java.version>").ok(), Some((25, "pom.xml")));
        assert_eq!(of("pom.xml", "<java.version>${x}</java.version>").ok(), Some((17, "")));
        assert!(of("system.properties", "java.runtime.version=newest").is_err());
        assert!(of("system.properties", "java.runtime.version=$(x)17").is_err());
    }
}
