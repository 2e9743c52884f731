//! Packages of the stack's own distribution as layers.
//!
//! In: names of packages. Out: a step that fetches them with what they need beyond the stack, and unpacks them at their own
//! places. Nothing is installed: the run image stays what it is and can be patched below the layer, and no package's script
//! runs as root. What is in a layer is written to `/var/lib/dpkg/status.d`, where scanners look.

use crate::PlanError;
use crate::draft::{Draft, Step};

/// What the run image has, as `deploy/stack` makes it.
const RUN_PACKAGES: &str = include_str!("../../deploy/stacks/debian-12/run.txt");

/// A layer of packages.
pub(crate) struct Packages<'p> {
    pub(crate) name: &'p str,
    pub(crate) title: String,
    pub(crate) notes: Vec<String>,
    /// As apt names them.
    pub(crate) packages: Vec<String>,
    /// Bash that calls `packages`, which unpacks them, and does what the packages' own scripts would have done.
    pub(crate) script: &'p str,
    pub(crate) env: Vec<(&'p str, String)>,
    pub(crate) launch: bool,
    pub(crate) uses: Vec<&'p str>,
}

/// Adds the layer.
pub(crate) fn layer(draft: &mut Draft<'_>, wanted: Packages<'_>) -> Result<(), PlanError> {
    let words =
        RUN_PACKAGES.lines().filter_map(|line| line.split('#').next()).flat_map(str::split_whitespace);
    let mut env = draft.config(is_mirror);
    env.extend([
        ("DEBIAN_PACKAGES", wanted.packages.join(" ")),
        ("DEBIAN_RUN_PACKAGES", words.collect::<Vec<_>>().join(" ")),
        ("DEBIAN_FOR_IMAGE", if wanted.launch { "yes" } else { "no" }.to_owned()),
        ("HOME", "/tmp".to_owned()),
    ]);
    env.extend(wanted.env);
    // Patches of Debian come with a new stack, or when asked for.
    if draft.settings.refresh > 0 {
        env.push(("DEBIAN_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.root_step(Step {
        name: wanted.name,
        title: wanted.title,
        notes: wanted.notes,
        script: format!("{}{}", script(), wanted.script),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec!["/"],
        caches: Vec::new(),
        launch: wanted.launch,
        uses: wanted.uses,
    })
}

/// Bash with a function `packages` that does the work.
fn script() -> String {
    format!(
        "cat >/tmp/debian.py <<'BERTH-DEBIAN'\n{}BERTH-DEBIAN\n{}",
        include_str!("debian.py"),
        include_str!("debian.sh")
    )
}

fn is_mirror(name: &str) -> bool {
    matches!(name, "BERTH_DEBIAN_MIRROR" | "BERTH_DEBIAN_SECURITY_MIRROR")
}
