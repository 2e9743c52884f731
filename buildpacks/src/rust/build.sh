# Builds the programs of /app into /app/target/release. In: BUILD_FLAGS, what cargo reads from its environment, the caches of the
# last build at /cache/rust.
mkdir -p "$CARGO_HOME" "$CARGO_TARGET_DIR"
# cargo tells changed files by their times, and here all have the same: files whose contents are not those of the last build that
# succeeded get a new time. Until this build succeeds, they count as changed, whatever they become.
known=/cache/rust/sources.sha256
find . -type f -not -path './target/*' -print0 | sort -z | xargs -0r sha256sum >/tmp/sources
touch "$known"
LC_ALL=C comm -23 <(LC_ALL=C sort /tmp/sources) <(LC_ALL=C sort "$known") >/tmp/changed
LC_ALL=C comm -12 <(LC_ALL=C sort /tmp/sources) <(LC_ALL=C sort "$known") >/tmp/unchanged
mv /tmp/unchanged "$known.new"
mv "$known.new" "$known"
while IFS= read -r line; do
	[[ $line == \\* ]] || touch -c -- "${line:66}"
done </tmp/changed

hint() {
	echo "cargo build failed; its message is above."
	echo "1. If crates could not be fetched: does this machine reach the registry? A mirror is set in .cargo/config.toml, or commit the"
	echo "   crates: \`cargo vendor\`, and add what it prints to .cargo/config.toml."
	echo "2. If the lock file needs to be updated: run \`cargo build\` on your machine, and commit Cargo.lock."
	echo "3. If a newer or older Rust is needed: commit rust-toolchain.toml with [toolchain] and channel = \"1.85\"."
	echo "4. If a linker or a library in C was not found: the stack has gcc and headers of common libraries only."
	exit 1
}
read -ra flags <<<"$BUILD_FLAGS"
echo "cargo build ${flags[*]}"
cargo build "${flags[@]}" --message-format json-render-diagnostics >/tmp/cargo.json || hint
mkdir -p /tmp/bin
jq -r 'select(.reason == "compiler-artifact" and .executable != null and (.target.kind | index("bin"))) | .executable' /tmp/cargo.json |
	while IFS= read -r program; do cp "$program" /tmp/bin/; done
[[ -n $(ls /tmp/bin) ]] || {
	echo "cargo built no program: the flags of RUST_CARGO_BUILD_FLAGS leave all binaries out."
	exit 1
}
cp /tmp/sources "$known.new"
mv "$known.new" "$known"
# What older versions left would fill the disk in time.
if (($(du -sm "$CARGO_TARGET_DIR" | cut -f1) > 4096)); then
	rm -rf "$CARGO_TARGET_DIR" "$known"
fi
# Programs do not read their source; templates, migrations and other files stay.
for checksum in vendor/*/.cargo-checksum.json; do
	if [[ -e $checksum ]]; then rm -rf vendor; fi
	break
done
find . -name '*.rs' -type f -delete
find . -name Cargo.toml -type f -delete
rm -rf target Cargo.lock rust-toolchain rust-toolchain.toml .cargo
find . -mindepth 1 -depth -type d -empty -delete
mkdir -p target/release
cp /tmp/bin/* target/release/
