//! A Pipfile without its lock file, as requirements: what `pipenv install --skip-lock` would install.
//!
//! In: a parsed Pipfile. Out: requirements text for uv, one package a line.

use super::lock::{Locked, checked, is_pypi};
use super::manifest::normalized;
use toml::Value;

/// `[packages]` and `[[source]]`; packages for development are left out.
pub(super) fn read(pipfile: &Value) -> Result<Locked, String> {
    let mut found = Locked::default();
    let packages = pipfile.get("packages").and_then(Value::as_table);
    for (name, package) in packages.into_iter().flatten() {
        let text = |field: &str| package.get(field).and_then(Value::as_str);
        let extras =
            package.get("extras").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let extras = match extras.collect::<Vec<_>>().as_slice() {
            [] => String::new(),
            extras => format!("[{}]", extras.join(",")),
        };
        let version = match package.as_str().or_else(|| text("version")).map(str::trim) {
            None | Some("*" | "") => String::new(),
            Some(version) if version.starts_with(|c: char| c.is_ascii_digit()) => format!("=={version}"),
            Some(version) => version.to_owned(),
        };
        if let Some(path) = text("path") {
            found.local = true;
            found.names.insert(normalized(name));
            found.requirements.push_str(&format!("-e {}\n", checked("path", path)?));
            continue;
        }
        let pin = match (text("git"), text("file")) {
            (Some(url), _) => {
                let url = url.strip_prefix("git+").unwrap_or(url);
                format!("{extras} @ git+{url}@{}", text("ref").unwrap_or("HEAD"))
            }
            (None, Some(url)) => format!("{extras} @ {url}"),
            (None, None) => format!("{extras}{version}"),
        };
        let mut line = format!("{}{pin}", checked("package name", name)?);
        if let Some(marker) = text("markers") {
            line.push_str(&format!(" ; {marker}"));
        }
        found.names.insert(normalized(name));
        found.requirements.push_str(checked("package", &line)?);
        found.requirements.push('\n');
    }
    let sources = pipfile.get("source").and_then(Value::as_array);
    let urls = sources.into_iter().flatten().filter_map(|source| source.get("url")?.as_str());
    for (index, url) in urls.enumerate().filter(|(_, url)| !is_pypi(url)) {
        found.index(if index == 0 { "--index-url" } else { "--extra-index-url" }, url)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_become_requirements() {
        let text = r#"
            [[source]]
            url = "https://pypi.org/simple"
            [[source]]
            url = "https://${USER}@pypi.example/simple"
            [packages]
            flask = "*"
            gunicorn = ">=22"
            pinned = "1.2"
            rich = {version = "~=13.0", extras = ["jupyter"], markers = "python_version < '4'"}
            tool = {git = "https://h/r.git", ref = "v1"}
            mine = {path = "./mine", editable = true}
            [dev-packages]
            pytest = "*"
        "#;
        let found = read(&toml::from_str(text).expect("TOML")).expect("well-formed");
        assert_eq!(
            found.requirements,
            "--extra-index-url https://${USER}@pypi.example/simple\nflask\ngunicorn>=22\n-e ./mine\npinned==1.2\n\
             rich[jupyter]~=13.0 ; python_version < '4'\ntool @ git+https://h/r.git@v1\n"
        );
        assert!(found.local && found.names.contains("gunicorn") && !found.names.contains("pytest"));
        assert!(found.variables.contains("USER"));
        let hostile = toml::from_str("[packages]\n\"a\\n--index-url x\" = \"*\"\n").expect("TOML");
        assert!(read(&hostile).is_err());
    }
}
