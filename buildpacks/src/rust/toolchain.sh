# Installs a Rust toolchain into /layers/rust by rustup. In: RUST_CHANNEL, RUST_TARGETS (comma-separated), RUSTUP_DIST_SERVER and
# RUSTUP_UPDATE_ROOT (mirrors laid out like https://static.rust-lang.org). rustup checks what it downloads by the channel's hashes.
dist=${RUSTUP_DIST_SERVER:-https://static.rust-lang.org}
root=${RUSTUP_UPDATE_ROOT:-${dist%/}/rustup}
host=$(uname -m)-unknown-linux-gnu
hint() {
	echo "Rust $RUST_CHANNEL could not be installed; the message above says why."
	echo "1. Check that such a version exists: https://doc.rust-lang.org/stable/releases.html"
	echo "2. Let this machine reach $dist, or set RUSTUP_DIST_SERVER to a mirror of https://static.rust-lang.org."
	exit 1
}
curl -fsS --retry 2 --connect-timeout 10 -o /tmp/rustup-init "${root%/}/dist/$host/rustup-init" || hint
expected=$(curl -fsS --retry 2 --connect-timeout 10 "${root%/}/dist/$host/rustup-init.sha256") || hint
echo "${expected%% *}  /tmp/rustup-init" | sha256sum --check --quiet || hint
chmod 755 /tmp/rustup-init
export RUSTUP_HOME=/layers/rust/rustup CARGO_HOME=/tmp/cargo RUSTUP_DIST_SERVER=$dist RUSTUP_TERM_COLOR=never
targets=()
if [[ -n $RUST_TARGETS ]]; then targets=(--target "$RUST_TARGETS"); fi
/tmp/rustup-init -q -y --no-modify-path --profile minimal --default-host "$host" --default-toolchain "$RUST_CHANNEL" "${targets[@]}" \
	>/tmp/rustup.log 2>&1 || {
	grep -v '^info' /tmp/rustup.log | tail -n 20
	hint
}
# The toolchain's own programs, not rustup's: those would obey files of the tree and download what they name.
toolchain=$(find "$RUSTUP_HOME/toolchains" -mindepth 1 -maxdepth 1 -type d | head -n 1)
ln -s "$toolchain/bin" /layers/rust/bin
rm -rf "$RUSTUP_HOME/downloads" "$RUSTUP_HOME/tmp" "$toolchain/share"
echo "$(/layers/rust/bin/rustc --version) from $dist"
