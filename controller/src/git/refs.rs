//! Which of a push's refs deploy.
//!
//! In: the app's deploy branch and the updates git wants to make. Out: what to deploy and what to say, or why nothing may
//! change. Pure.

use serde::Deserialize;

/// One ref that a push changes, as git's pre-receive hook gets it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Update {
    /// Object id before; zeros if the ref is new.
    pub old: String,
    /// Object id after; zeros to delete it.
    pub new: String,
    /// Full name, such as `refs/heads/main`.
    #[serde(rename = "ref")]
    pub name: String,
}

impl Update {
    fn deletes(&self) -> bool {
        is_zero(&self.new)
    }

    fn branch(&self) -> Option<&str> {
        self.name.strip_prefix("refs/heads/")
    }

    fn short(&self) -> &str {
        self.branch().or_else(|| self.name.strip_prefix("refs/tags/")).unwrap_or(&self.name)
    }
}

/// A push in a sentence: which refs it moves, the first few.
#[must_use]
pub fn said(updates: &[Update]) -> String {
    let one = |update: &Update| match update.deletes() {
        true => format!("deleted {}", update.short()),
        false => format!("pushed {} ({})", update.short(), update.new.get(..7).unwrap_or(&update.new)),
    };
    let mut text = updates.iter().take(5).map(one).collect::<Vec<_>>().join(", ");
    if updates.len() > 5 {
        text.push_str(&format!(" and {} more", updates.len() - 5));
    }
    text
}

/// Whether this object id means "nothing".
#[must_use]
pub fn is_zero(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte == b'0')
}

/// What a push does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is deployed.
    pub deploy: Option<Update>,
    /// The branch that becomes the deploy branch.
    pub adopt: Option<String>,
    /// For the pusher, in order: `-----> text`.
    pub remarks: Vec<String>,
}

/// Most refs of one push.
const MAX_UPDATES: usize = 1000;
/// Longest name of a ref.
const MAX_NAME: usize = 250;

/// Judges a push. Errors are for the pusher; then git changes no ref.
pub fn judge(deploy_branch: Option<&str>, updates: &[Update]) -> Result<Verdict, String> {
    if updates.len() > MAX_UPDATES {
        return Err(format!("the push changes {} refs at once; {MAX_UPDATES} is the most", updates.len()));
    }
    for update in updates {
        let known = update.name.starts_with("refs/heads/") || update.name.starts_with("refs/tags/");
        if !known || update.name.len() > MAX_NAME || update.name.chars().any(char::is_control) {
            let shown: String = update.name.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(format!(
                "{shown} cannot be pushed: only branches and tags with names up to {MAX_NAME} bytes"
            ));
        }
    }
    let mut verdict = Verdict::default();
    let adopted = match deploy_branch {
        Some(_) => None,
        None => first_branch(updates),
    };
    if let Some(branch) = &adopted {
        verdict.remarks.push(format!("Set {branch} as deploy-branch"));
        verdict.adopt = Some(branch.clone());
    }
    let deploys = deploy_branch.map(str::to_owned).or(adopted);
    for update in updates {
        let is_live = deploys.as_deref().is_some_and(|branch| update.branch() == Some(branch));
        match (is_live, update.deletes()) {
            (true, true) => {
                let branch = update.short();
                return Err(format!(
                    "{branch} is the branch that deploys and cannot be deleted; choose another one first: \
                     berth git:set APP deploy-branch OTHER"
                ));
            }
            (true, false) => verdict.deploy = Some(update.clone()),
            (false, true) => {}
            (false, false) => {
                let must = deploys.as_deref().unwrap_or("main");
                let text = format!("WARNING: deploy did not complete, you must push to {must}.");
                verdict.remarks.push(text);
                verdict.remarks.push(format!("for example, git push REMOTE {}:{must}", update.short()));
            }
        }
    }
    Ok(verdict)
}

/// The branch that a first push means: `main` or `master` if it is among them, else the first.
fn first_branch(updates: &[Update]) -> Option<String> {
    let branches = || updates.iter().filter(|update| !update.deletes()).filter_map(Update::branch);
    let usual = ["main", "master"].into_iter().find(|name| branches().any(|branch| branch == *name));
    usual.or_else(|| branches().next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn update(name: &str) -> Update {
        Update { old: "0".repeat(40), new: "1".repeat(40), name: name.to_owned() }
    }

    fn deletion(name: &str) -> Update {
        Update { old: "1".repeat(40), new: "0".repeat(40), name: name.to_owned() }
    }

    #[test]
    fn the_first_branch_is_adopted() {
        let verdict = judge(None, &[update("refs/heads/trunk")]).expect("fine");
        assert_eq!(verdict.adopt.as_deref(), Some("trunk"));
        assert_eq!(verdict.remarks, ["Set trunk as deploy-branch"]);
        assert_eq!(verdict.deploy.expect("deploys").name, "refs/heads/trunk");
        let all = [update("refs/heads/a"), update("refs/heads/main"), update("refs/tags/v1")];
        let verdict = judge(None, &all).expect("fine");
        assert_eq!(verdict.adopt.as_deref(), Some("main"));
    }

    #[test]
    fn another_branch_is_taken_and_warned_of() {
        let verdict = judge(Some("main"), &[update("refs/heads/dev")]).expect("fine");
        assert_eq!(verdict.deploy, None);
        assert_eq!(verdict.remarks[0], "WARNING: deploy did not complete, you must push to main.");
    }

    #[test]
    fn the_live_branch_cannot_go() {
        assert!(judge(Some("main"), &[deletion("refs/heads/main")]).is_err());
        assert!(judge(Some("main"), &[deletion("refs/heads/dev")]).expect("fine").remarks.is_empty());
    }

    #[test]
    fn other_refs_are_refused() {
        for bad in
            ["refs/notes/x", "refs/changes/1/1", "HEAD", "refs/internal", "refs/headsx", "refs/heads/a\nb"]
        {
            assert!(judge(Some("main"), &[update(bad)]).is_err(), "{bad}");
        }
        assert!(judge(None, &[update(&format!("refs/heads/{}", "x".repeat(300)))]).is_err());
    }

    proptest! {
        /// Nothing but the deploy branch ever deploys, and it always does.
        #[test]
        fn only_the_deploy_branch_deploys(names in prop::collection::vec("(heads|tags)/[a-d]", 0..6), branch in "[a-d]") {
            let mut names = names;
            names.sort();
            names.dedup();
            let updates: Vec<_> = names.iter().map(|name| update(&format!("refs/{name}"))).collect();
            let verdict = judge(Some(&branch), &updates).expect("nothing is deleted");
            let pushed = names.contains(&format!("heads/{branch}"));
            prop_assert_eq!(verdict.deploy.is_some(), pushed);
            prop_assert_eq!(verdict.adopt, None);
            prop_assert_eq!(verdict.remarks.len(), 2 * (names.len() - usize::from(pushed)));
        }
    }
}
