# shellcheck shell=bash
# What deploy/quickstart and tests/run share: installing system packages and a Rust toolchain.

# The oldest Rust that builds Berth (rust-version in Cargo.toml).
berth_rust_version() {
  sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml" | head -n 1
}

# install_packages NAME…: installs those Debian or Ubuntu packages that are missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
      missing+=("$package")
    fi
  done
  if [ "${#missing[@]}" = 0 ]; then return 0; fi
  if ! command -v apt-get >/dev/null; then
    echo " !     missing: ${missing[*]}; this script installs them on Debian and Ubuntu only" >&2
    return 1
  fi
  echo "       installing ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo " !     apt-get could not install ${missing[*]}; the lines above say why" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

# rust_is_enough: whether the cargo on PATH is new enough.
rust_is_enough() {
  local have want
  have=$(cargo --version 2>/dev/null | awk '{print $2}')
  want=$(berth_rust_version)
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]
}

# install_rust: a Rust toolchain, only if there is none that is new enough; leaves cargo on PATH.
install_rust() {
  if [ -d "$HOME/.cargo/bin" ]; then PATH=$HOME/.cargo/bin:$PATH; export PATH; fi
  if rust_is_enough; then return 0; fi
  install_packages curl ca-certificates
  echo "       installing Rust by rustup (https://rustup.rs)"
  # The same script under its short name and where the toolchains come from, for networks that let only one through.
  local script
  script=$(mktemp)
  curl --proto '=https' --tlsv1.2 -fsSL -o "$script" https://sh.rustup.rs ||
    curl --proto '=https' --tlsv1.2 -fsSL -o "$script" https://static.rust-lang.org/rustup/rustup-init.sh ||
    { rm -f "$script"; echo " !     rustup cannot be downloaded: install Rust $(berth_rust_version) or newer, then run this again" >&2; return 1; }
  sh "$script" -q -y --profile minimal --component rustfmt,clippy
  rm -f "$script"
  PATH=$HOME/.cargo/bin:$PATH
  export PATH
  if ! rust_is_enough; then
    echo " !     cargo $(berth_rust_version) or newer is needed; found: $(cargo --version 2>/dev/null || echo none)" >&2
    return 1
  fi
}
