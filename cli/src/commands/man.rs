//! Manual pages, as `man` reads them (man-pages(7), groff_man(7)).
//!
//! In: the tree of commands. Out: `berth(1)` with all commands, and a page for each: `berth-config-set(1)`.

use super::families;
use super::help::{about, examples, next};
use crate::args::{Mode, tree};
use crate::error::{CliError, Result};
use clap::{Arg, Command};

/// Text that is no markup: a leading dot or quote would be a request, a backslash an escape, and `-` a hyphen.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn file_name(command: &str) -> String {
    format!("berth-{}", command.replace(':', "-"))
}

fn top(name: &str) -> String {
    format!(
        ".TH {} 1 \"\" \"berth {}\" \"Berth\"\n.nh\n",
        plain(&name.to_uppercase()),
        plain(env!("CARGO_PKG_VERSION"))
    )
}

fn option(arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    let mut head =
        arg.get_short().map(|short| format!("\\fB{}\\fR, ", plain(&format!("-{short}")))).unwrap_or_default();
    head.push_str(&format!("\\fB{}\\fR", plain(&format!("--{long}"))));
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default();
        head.push_str(&format!(
            " \\fI{}\\fR",
            plain(&names.iter().map(clap::builder::Str::as_str).collect::<Vec<_>>().join(" "))
        ));
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    Some(format!(".TP\n{head}\n{}\n", plain(&help)))
}

fn options(command: &Command, is_global: bool) -> String {
    let wanted = command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.is_global_set() == is_global);
    wanted.filter_map(option).collect()
}

/// The page of one command, or of the family called so.
pub(super) fn page(word: &str) -> Option<String> {
    let mut root = tree(Mode::Local);
    root.build();
    let found = root.get_subcommands().find(|command| command.get_name() == word);
    let found = found.or_else(|| {
        root.get_subcommands().find(|command| command.get_all_aliases().any(|alias| alias == word))
    })?;
    Some(command_page(found))
}

fn command_page(command: &Command) -> String {
    let name = file_name(command.get_name());
    let mut page = top(&name);
    page.push_str(&format!(".SH NAME\n{} \\- {}\n", plain(&name), plain(&about(command))));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    page.push_str(&format!(".SH SYNOPSIS\n.nf\n{}\n.fi\n", plain(usage)));
    let aliases: Vec<_> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        page.push_str(&format!(".SH ALSO CALLED\n{}\n", plain(&aliases.join(", "))));
    }
    for (title, text) in [("OPTIONS", options(command, false)), ("GLOBAL OPTIONS", options(command, true))] {
        if !text.is_empty() {
            page.push_str(&format!(".SH {title}\n{text}"));
        }
    }
    let examples = examples(command);
    if !examples.is_empty() {
        page.push_str(&format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", plain(&examples.join("\n"))));
    }
    page.push_str(EXIT);
    let also: Vec<_> = next(command).iter().map(|name| format!("{}(1)", file_name(name))).collect();
    page.push_str(&format!(
        ".SH SEE ALSO\n{}\n",
        plain(&[vec!["berth(1)".to_owned()], also].concat().join(", "))
    ));
    page
}

const EXIT: &str = ".SH EXIT STATUS\n0 done; 1 failed; 2 misused; 20 there is no such app. \\fBrun\\fR and \\fBenter\\fR end as the \
                    command did.\n";

/// `berth(1)`.
pub(super) fn overview() -> String {
    let mut page = top("berth");
    page.push_str(".SH NAME\nberth \\- a platform of your own: git push, and it runs\n");
    page.push_str(".SH SYNOPSIS\n.nf\nberth COMMAND [<app>] [arguments] [options]\n.fi\n.SH COMMANDS\n");
    for family in families() {
        page.push_str(&format!(".SS {}\n", plain(family.about)));
        for command in &family.commands {
            page.push_str(&format!(
                ".TP\n\\fB{}\\fR\n{}\n",
                plain(command.get_name()),
                plain(&about(command))
            ));
        }
    }
    page.push_str(".SS Running Berth on this machine\n");
    for role in crate::roles::commands().iter().filter(|role| !role.is_hide_set()) {
        page.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", plain(role.get_name()), plain(&about(role))));
    }
    let mut root = tree(Mode::Local);
    root.build();
    page.push_str(&format!(".SH GLOBAL OPTIONS\n{}", options(&root, true)));
    page.push_str(ENVIRONMENT);
    page.push_str(EXIT);
    page
}

const ENVIRONMENT: &str = ".SH ENVIRONMENT\n\
.TP\n\\fBBERTH_HOST\\fR\nWhere the platform is: https:// or ssh://\n\
.TP\n\\fBBERTH_TOKEN\\fR\nA token of tokens:create, for https://\n\
.TP\n\\fBBERTH_CA\\fR\nPEM file to trust instead of the system's\n\
.TP\n\\fBBERTH_CONTEXT\\fR\nA cluster of context:list\n\
.TP\n\\fBDOKKU_HOST\\fR, \\fBDOKKU_PORT\\fR, \\fBDOKKU_GIT_REMOTE\\fR\nAs for Dokku's client: commands go there over SSH\n\
.TP\n\\fBNO_COLOR\\fR\nNo colours, even on a terminal\n\
.SH FILES\n.TP\n~/.config/berth/contexts.toml\nThe clusters of context:add, with their tokens (mode 0600)\n";

/// Writes every page into `dir`.
pub(super) fn write_all(dir: &str) -> Result<()> {
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot write into {dir}: {error}"));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let write = |name: &str, page: &str| {
        std::fs::write(std::path::Path::new(dir).join(format!("{name}.1")), page).map_err(failed)
    };
    write("berth", &overview())?;
    let mut root = tree(Mode::Local);
    root.build();
    let mut shown = root.get_subcommands().filter(|command| !command.is_hide_set());
    shown.try_for_each(|command| write(&file_name(command.get_name()), &command_page(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_text_is_taken_for_markup() {
        assert_eq!(plain(".so /etc/passwd\n'x\n-a \\n"), "\\&.so /etc/passwd\n\\&'x\n\\-a \\en");
        for family in families() {
            for command in family.commands {
                let page = page(command.get_name()).expect("every command has one");
                for line in page.lines().filter(|line| line.starts_with('.')) {
                    let request = line.split(' ').next().unwrap_or_default();
                    assert!([".TH", ".nh", ".SH", ".SS", ".TP", ".nf", ".fi"].contains(&request), "{line}");
                }
            }
        }
        assert!(overview().contains("config:set".replace('-', "\\-").as_str()));
    }
}
