//! Completion scripts. Colons break the words that shells' own generators assume, so these are written here.
//!
//! In: the tree of commands. Out: a script for bash, zsh or fish that completes commands, their options, and what the platform
//! knows: app names (asked of `berth apps:list`), process types of the app that is there already (of `berth ps:scale`) and its
//! config names (of `berth config:keys`).

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

/// What a command takes behind its app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `web`, or with `ps:scale` `web=`.
    Processes(&'static str),
    /// Names of config vars, with what follows each.
    Names(&'static str),
    /// Nothing the platform knows of.
    Nothing,
}

impl Takes {
    fn of(name: &str) -> Self {
        match name {
            "ps:scale" => Self::Processes("="),
            "ps:restart" | "ps:stop" | "ps:start" | "enter" | "ps:exec" => Self::Processes(""),
            "config:get" | "config:unset" => Self::Names(""),
            "config:set" => Self::Names("="),
            _ => Self::Nothing,
        }
    }
}

/// The names of all commands that take the same, for `case` of a shell.
fn taking(commands: &[Entry], takes: Takes) -> String {
    let names = commands.iter().flat_map(|entry| &entry.names).filter(|name| Takes::of(name) == takes);
    names.map(String::as_str).collect::<Vec<_>>().join("|")
}

/// Lines of `case` that ask the platform for the second argument: `$1` is the shell's variable of the app.
fn asked(commands: &[Entry], app: &str) -> String {
    let mut lines = String::new();
    for (takes, ask) in [
        (Takes::Processes("="), "ps:scale $APP | sed -n 's/: .*/=/p'"),
        (Takes::Processes(""), "ps:scale $APP | sed -n 's/: .*//p'"),
        (Takes::Names(""), "config:keys $APP"),
        (Takes::Names("="), "config:keys $APP | sed 's/$/=/'"),
    ] {
        let names = taking(commands, takes);
        if !names.is_empty() {
            let ask = ask.replace("$APP", app).replacen(" |", " 2>/dev/null |", 1);
            let silent = if ask.contains("2>") { "" } else { " 2>/dev/null" };
            lines.push_str(&format!("      {names}) candidates=$(berth --quiet {ask}{silent}) ;;\n"));
        }
    }
    lines
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
    let asked = asked(commands, "\"$app\"");
    format!(
        r#"# bash completion of berth; install with: berth completion bash > /etc/bash_completion.d/berth
_berth_commands='{names}'

_berth() {{
  local line=${{COMP_LINE:0:COMP_POINT}} current command='' app='' word before='' options='' candidates prefix
  current=${{line##*[[:space:]]}}
  for word in ${{line%"$current"}}; do
    if [[ $before == -a || $before == --app ]]; then
      app=$word
    elif [[ -z $command && " $_berth_commands " == *" $word "* ]]; then
      command=$word
    elif [[ -n $command && -z $app && $word != -* ]]; then
      app=$word
    fi
    before=$word
  done
  case $command in
{options}  esac
  if [[ $current == -* ]]; then
    candidates=$options
  elif [[ $before == -a || $before == --app ]]; then
    candidates=$(berth --quiet apps:list 2>/dev/null)
  elif [[ -z $command ]]; then
    candidates=$_berth_commands
  elif [[ -z $app ]]; then
    candidates=$(berth --quiet apps:list 2>/dev/null)
  else
    candidates=''
    case $command in
{asked}    esac
  fi
  [[ $candidates == *= ]] && compopt -o nospace 2>/dev/null
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
    let asked = asked(commands, "$app");
    format!(
        r#"#compdef berth
# zsh completion of berth; install with: berth completion zsh > "${{fpath[1]}}/_berth"
_berth() {{
  local -a commands options apps
  local word before='' command='' app='' candidates=''
  commands=(
{names}  )
  for word in ${{words[2,CURRENT-1]}}; do
    if [[ $before == -a || $before == --app ]]; then
      app=$word
    elif [[ -z $command ]] && (( ${{commands[(I)${{word//:/\\:}}:*]}} )); then
      command=$word
    elif [[ -n $command && -z $app && $word != -* ]]; then
      app=$word
    fi
    before=$word
  done
  case $command in
{options}  esac
  if [[ ${{words[CURRENT]}} == -* ]]; then
    compadd -- $options
  elif [[ -z $command ]]; then
    _describe command commands
  elif [[ -z $app || $before == -a || $before == --app ]]; then
    apps=(${{(f)"$(berth --quiet apps:list 2>/dev/null)"}})
    compadd -- $apps
  else
    case $command in
{asked}    esac
    [[ -n $candidates ]] && compadd -S '' -- ${{(f)candidates}}
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
    script.push_str(FISH_TAIL);
    for (takes, ask) in [
        (Takes::Processes("="), "ps:scale (__berth_app) 2>/dev/null | string replace -rf ': .*' '='"),
        (Takes::Processes(""), "ps:scale (__berth_app) 2>/dev/null | string replace -rf ': .*' ''"),
        (Takes::Names(""), "config:keys (__berth_app) 2>/dev/null"),
        (Takes::Names("="), "config:keys (__berth_app) 2>/dev/null | string replace -r '$' '='"),
    ] {
        let names = taking(commands, takes).replace('|', " ");
        if !names.is_empty() {
            script.push_str(&format!(
                "complete -c berth -n '__fish_seen_subcommand_from {names}; and test -n \"$(__berth_app)\"' -a \"(berth --quiet {ask})\"\n"
            ));
        }
    }
    script
}

/// The app that is on the line already, and app names while there is none.
const FISH_TAIL: &str = r#"function __berth_app
    set -l words (commandline -opc)
    set -l command ''
    set -l before ''
    for word in $words[2..]
        if test "$before" = -a -o "$before" = --app
            echo $word
            return
        else if test -z "$command"
            contains -- $word $__berth_commands; and set command $word
        else if not string match -q -- '-*' $word
            echo $word
            return
        end
        set before $word
    end
end
complete -c berth -n '__fish_seen_subcommand_from $__berth_commands; and test -z "$(__berth_app)"' -a '(berth --quiet apps:list 2>/dev/null)'
"#;

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

    /// What bash offers for a line, with a platform of two apps.
    fn offered(line: &str) -> Vec<String> {
        let script = script("bash", &tree(Mode::Local)).expect("known");
        let stub = r#"
            berth() {
                case "$*" in
                    *apps:list*) printf 'hello\nother\n' ;;
                    *"ps:scale hello"*) printf 'web: 2\nworker: 0\n' ;;
                    *"config:keys hello"*) printf 'GREETING\nTOKEN\n' ;;
                esac
            }
            COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
            _berth
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = std::process::Command::new("bash")
            .args(["-c", &format!("{script}{stub}"), "bash", line])
            .output();
        let output = output.expect("there is a bash");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn bash_completes_apps_process_types_and_names() {
        assert!(offered("berth ps:resta").contains(&"restart".to_owned()));
        assert_eq!(offered("berth url "), ["hello", "other"]);
        assert_eq!(offered("berth ps:scale hello w"), ["web=", "worker="]);
        assert_eq!(offered("berth ps:restart -a hello wo"), ["worker"]);
        assert_eq!(offered("berth config:get hello G"), ["GREETING"]);
        assert_eq!(offered("berth config:set hello T"), ["TOKEN="]);
        assert_eq!(offered("berth url -a o"), ["other"]);
        assert!(offered("berth config:set hello --sec").contains(&"--secret".to_owned()));
    }

    #[test]
    fn zsh_and_fish_can_read_their_scripts() {
        for shell in ["zsh", "fish"] {
            let script = script(shell, &tree(Mode::Local)).expect("known");
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("script");
            std::fs::write(&file, script).expect("ours");
            match std::process::Command::new(shell).arg("-n").arg(&file).output() {
                Ok(output) => {
                    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{shell} is not here"),
            }
        }
    }
}
