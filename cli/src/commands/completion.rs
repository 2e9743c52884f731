//! Completion scripts. Colons break the words that shells' own generators assume, so these are written here.
//!
//! In: the tree of commands. Out: a script for bash, zsh or fish that completes commands, their options and app names
//! (asked of `berth apps:list` when a command takes one).

use clap::Command;

/// The script for `shell`.
pub(super) fn script(shell: &str, tree: &Command) -> Option<String> {
    let mut tree = tree.clone();
    tree.build();
    let commands: Vec<Entry> =
        tree.get_subcommands().filter(|command| !command.is_hide_set()).map(Entry::of).collect();
    match shell {
        "bash" => Some(bash(&commands)),
        "zsh" => Some(zsh(&commands)),
        "fish" => Some(fish(&commands)),
        _ => None,
    }
}

struct Entry {
    names: Vec<String>,
    about: String,
    options: Vec<String>,
}

impl Entry {
    fn of(command: &Command) -> Self {
        let aliases = command.get_visible_aliases().map(str::to_owned);
        let options =
            command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long());
        Self {
            names: std::iter::once(command.get_name().to_owned()).chain(aliases).collect(),
            about: command.get_about().map(ToString::to_string).unwrap_or_default(),
            options: options.map(|option| format!("--{option}")).collect(),
        }
    }
}

fn bash(commands: &[Entry]) -> String {
    let names: Vec<&str> = commands.iter().flat_map(|entry| &entry.names).map(String::as_str).collect();
    let options: String = commands
        .iter()
        .map(|entry| format!("    {}) options='{}' ;;\n", entry.names.join("|"), entry.options.join(" ")))
        .collect();
    format!(
        r#"# bash completion of berth; install with: berth completion bash > /etc/bash_completion.d/berth
_berth_commands='{names}'

_berth() {{
  local line=${{COMP_LINE:0:COMP_POINT}} current command='' word options='' candidates prefix
  current=${{line##*[[:space:]]}}
  for word in ${{line%"$current"}}; do
    [[ " $_berth_commands " == *" $word "* ]] && command=$word && break
  done
  case $command in
{options}  esac
  if [[ $current == -* ]]; then
    candidates=$options
  elif [[ -z $command ]]; then
    candidates=$_berth_commands
  else
    candidates=$(berth --quiet apps:list 2>/dev/null)
  fi
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
  # Readline takes the word to begin behind the last colon: give it only what follows.
  if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
    prefix=${{current%"${{current##*:}}"}}
    COMPREPLY=("${{COMPREPLY[@]#"$prefix"}}")
  fi
}}
complete -F _berth berth
"#,
        names = names.join(" "),
    )
}

fn zsh(commands: &[Entry]) -> String {
    let quoted = |text: &str| text.replace('\'', r"'\''");
    let names: String = commands
        .iter()
        .flat_map(|entry| entry.names.iter().map(move |name| (name, &entry.about)))
        .map(|(name, about)| format!("    '{}:{}'\n", name.replace(':', r"\:"), quoted(about)))
        .collect();
    let options: String = commands
        .iter()
        .map(|entry| format!("    {}) options=({}) ;;\n", entry.names.join("|"), entry.options.join(" ")))
        .collect();
    format!(
        r#"#compdef berth
# zsh completion of berth; install with: berth completion zsh > "${{fpath[1]}}/_berth"
_berth() {{
  local -a commands options apps
  local word command=''
  commands=(
{names}  )
  for word in ${{words[2,CURRENT-1]}}; do
    (( ${{commands[(I)${{word//:/\\:}}:*]}} )) && command=$word && break
  done
  case $command in
{options}  esac
  if [[ ${{words[CURRENT]}} == -* ]]; then
    compadd -- $options
  elif [[ -z $command ]]; then
    _describe command commands
  else
    apps=(${{(f)"$(berth --quiet apps:list 2>/dev/null)"}})
    compadd -- $apps
  fi
}}
if [[ $funcstack[1] == _berth ]]; then _berth "$@"; else compdef _berth berth; fi
"#
    )
}

fn fish(commands: &[Entry]) -> String {
    let quoted = |text: &str| text.replace('\\', r"\\").replace('\'', r"\'");
    let mut script = String::from(
        "# fish completion of berth; install with: berth completion fish > ~/.config/fish/completions/berth.fish\n\
         complete -c berth -f\n",
    );
    let all: Vec<&str> = commands.iter().flat_map(|entry| &entry.names).map(String::as_str).collect();
    script.push_str(&format!("set -g __berth_commands {}\n", all.join(" ")));
    for entry in commands {
        for name in &entry.names {
            script.push_str(&format!(
                "complete -c berth -n 'not __fish_seen_subcommand_from $__berth_commands' -a '{name}' -d '{}'\n",
                quoted(&entry.about)
            ));
            for option in &entry.options {
                let option = option.trim_start_matches('-');
                script.push_str(&format!(
                    "complete -c berth -n '__fish_seen_subcommand_from {name}' -l {option}\n"
                ));
            }
        }
    }
    script.push_str(
        "complete -c berth -n '__fish_seen_subcommand_from $__berth_commands' -a '(berth --quiet apps:list 2>/dev/null)'\n",
    );
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Mode, tree};

    #[test]
    fn every_script_lists_every_command_and_option() {
        let root = tree(Mode::Local);
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell, &root).expect("known");
            let script = script.replace(r"\:", ":");
            for entry in root.get_subcommands().filter(|command| !command.is_hide_set()).map(Entry::of) {
                for name in &entry.names {
                    assert!(script.contains(name.as_str()), "{shell} lacks {name}");
                }
                for option in &entry.options {
                    assert!(script.contains(option.trim_start_matches('-')), "{shell} lacks {option}");
                }
            }
        }
    }
}
