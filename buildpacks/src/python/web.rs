//! What `web` is if no Procfile says it.
//!
//! In: the tree and the names of its packages. Out: a command line and why this one.

use super::manifest::Packages;
use crate::tree::SourceTree;

/// Files that may hold the application object, in order.
const MODULES: [&str; 12] = [
    "main.py",
    "app.py",
    "server.py",
    "application.py",
    "api.py",
    "asgi.py",
    "wsgi.py",
    "src/main.py",
    "src/app.py",
    "app/main.py",
    "app/__init__.py",
    "app/app.py",
];

/// Files that are programs, in order.
const PROGRAMS: [&str; 7] = ["main.py", "app.py", "server.py", "start.py", "run.py", "hello.py", "bot.py"];

/// A command line for `web`, and a line for the log.
pub(super) fn default(tree: &dyn SourceTree, packages: &Packages) -> Option<(String, String)> {
    django(tree, packages).or_else(|| framework(tree, packages)).or_else(|| program(tree))
}

fn django(tree: &dyn SourceTree, packages: &Packages) -> Option<(String, String)> {
    if !tree.has("manage.py") {
        return None;
    }
    // project/wsgi.py, nearest to the top first.
    let nearest = |name: &str| {
        let found =
            tree.entries().iter().filter(|entry| entry.path.ends_with(name) && !entry.path.starts_with('.'));
        found.min_by_key(|entry| entry.path.matches('/').count()).map(|entry| module(&entry.path))
    };
    if let Some(wsgi) = nearest("/wsgi.py").filter(|_| packages.has("gunicorn")) {
        let line = format!("gunicorn --bind 0.0.0.0:$PORT {wsgi}:application");
        return Some((line, "Django with gunicorn".to_owned()));
    }
    if let Some(asgi) = nearest("/asgi.py").filter(|_| packages.has("uvicorn")) {
        let line = format!("uvicorn {asgi}:application --host 0.0.0.0 --port $PORT");
        return Some((line, "Django with uvicorn".to_owned()));
    }
    let line = "python manage.py runserver --noreload 0.0.0.0:$PORT".to_owned();
    Some((line, "Django's development server: add gunicorn to the requirements for production".to_owned()))
}

fn framework(tree: &dyn SourceTree, packages: &Packages) -> Option<(String, String)> {
    let (path, variable, class) = MODULES
        .into_iter()
        .find_map(|path| application(&tree.glance(path)?).map(|(variable, class)| (path, variable, class)))?;
    let target = format!("{}:{variable}", module(path));
    let is_asgi = matches!(class.as_str(), "FastAPI" | "Starlette" | "Quart" | "Litestar" | "BlackSheep");
    let choice = if is_asgi {
        if packages.has("uvicorn") {
            (
                format!("uvicorn {target} --host 0.0.0.0 --port $PORT"),
                format!("{class} in {path} with uvicorn"),
            )
        } else if packages.has("hypercorn") {
            (format!("hypercorn {target} --bind 0.0.0.0:$PORT"), format!("{class} in {path} with hypercorn"))
        } else if packages.has("granian") {
            (
                format!("granian --interface asgi --host 0.0.0.0 --port $PORT {target}"),
                format!("{class} in {path} with granian"),
            )
        } else {
            return None;
        }
    } else if packages.has("gunicorn") {
        (format!("gunicorn --bind 0.0.0.0:$PORT {target}"), format!("{class} in {path} with gunicorn"))
    } else if packages.has("waitress") {
        (
            format!("waitress-serve --listen=0.0.0.0:$PORT {target}"),
            format!("{class} in {path} with waitress"),
        )
    } else if class == "Flask" {
        let line = format!("flask --app {target} run --host 0.0.0.0 --port $PORT");
        (
            line,
            format!("Flask's development server for {path}: add gunicorn to the requirements for production"),
        )
    } else {
        return None;
    };
    Some(choice)
}

/// `app = Flask(__name__)` at the beginning of a line: the variable and the class.
fn application(text: &str) -> Option<(String, String)> {
    const CLASSES: [&str; 8] =
        ["FastAPI", "Flask", "Starlette", "Quart", "Litestar", "BlackSheep", "Falcon", "Bottle"];
    text.lines().find_map(|line| {
        let (variable, value) = line.split_once('=')?;
        let variable = variable.split(':').next()?.trim_end();
        let is_name =
            !variable.is_empty() && variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let class = value.trim_start().split('(').next()?.rsplit('.').next()?;
        (is_name && value.contains('(') && CLASSES.contains(&class))
            .then(|| (variable.to_owned(), class.to_owned()))
    })
}

fn program(tree: &dyn SourceTree) -> Option<(String, String)> {
    let file = PROGRAMS.into_iter().find(|file| tree.has(file))?;
    Some((format!("python {file}"), format!("{file} is at the top")))
}

/// `a/b.py` as `a.b`, `a/__init__.py` as `a`. `src/` stays: imports begin at the top of the tree.
fn module(path: &str) -> String {
    let path = path.strip_suffix("/__init__.py").or_else(|| path.strip_suffix(".py")).unwrap_or(path);
    path.replace('/', ".")
}
