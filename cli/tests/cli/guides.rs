//! The tables of `docs/from-dokku.md` and `docs/from-heroku.md`: what they call a command is one, and what is not there says
//! what to do instead.

use crate::support::Fake;
use std::path::Path;

/// `(theirs, ours)` of each row below "Command by command".
fn rows(file: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let guide = std::fs::read_to_string(&path).expect("the guide is there");
    let (_, table) = guide.split_once("## Command by command").expect("the table is there");
    let (table, _) = table.split_once("\n## ").expect("something follows it");
    let cells = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().replace('`', ""));
        Some((cells.next()?, cells.next()?))
    });
    cells.collect()
}

#[test]
fn the_tables_of_the_guides_are_true() {
    let fake = Fake::start();
    let mut wrong = Vec::new();
    for (file, least) in [("from-dokku.md", 120), ("from-heroku.md", 50)] {
        let rows = rows(file);
        assert!(rows.len() >= least, "{file} has only {} rows", rows.len());
        for (theirs, ours) in rows {
            let command = match ours.as_str() {
                "same" => theirs.as_str(),
                "—" => {
                    let ran = fake.berth(&[&theirs, "my-app"]);
                    let advice = ran.err.lines().nth(1).unwrap_or_default();
                    let says_more = !advice.contains("`berth help` lists all commands") && advice.len() > 20;
                    if ran.code != 1 || !says_more || advice.contains("Did you mean") {
                        wrong.push(format!("{file}: {theirs} says nothing of what to do: {}", ran.err));
                    }
                    continue;
                }
                ours => ours,
            };
            if fake.berth(&["help", command]).code != 0 {
                wrong.push(format!("{file}: {theirs} is said to be {command}, which is no command"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
