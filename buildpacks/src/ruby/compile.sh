# Compiles Ruby into /layers/ruby. In: RUBY_WANTED (3.3 or 3.3.6), BERTH_RUBY_MIRROR (laid out like
# https://cache.ruby-lang.org/pub/ruby, with its index.txt, which names the hashes).
source=${BERTH_RUBY_MIRROR:-https://cache.ruby-lang.org/pub/ruby}
source=${source%/}
hint() {
	echo "Ruby $RUBY_WANTED could not be made; the message above says why."
	echo "1. Debian's Ruby 3.1 needs no compiling: if the app runs with it, ask for 3.1 in Gemfile, Gemfile.lock and .ruby-version."
	echo "2. Let this machine reach $source, or set BERTH_RUBY_MIRROR to a mirror."
	echo "3. Check that such a version exists: https://www.ruby-lang.org/en/downloads/releases/"
	exit 1
}
curl -fsSL --retry 2 --connect-timeout 10 -o /tmp/index "$source/index.txt" || hint
# Lines are: name, address, sha1, sha256, sha512.
found=$(awk -v wanted="$RUBY_WANTED" '
	{ version = $1; sub(/^ruby-/, "", version) }
	version ~ /^[0-9]+\.[0-9]+\.[0-9]+$/ && $2 ~ /\.tar\.xz$/ && (version == wanted || index(version, wanted ".") == 1) { print version, $2, $4 }
' /tmp/index | sort -t' ' -k1,1V | tail -n 1)
read -r version address hash <<<"$found"
[[ -n ${hash-} ]] || { echo "$source has no Ruby $RUBY_WANTED"; hint; }
curl -fsSL --retry 2 --connect-timeout 10 -o /tmp/ruby.tar.xz "$source/${version%.*}/ruby-$version.tar.xz" || hint
echo "$hash  /tmp/ruby.tar.xz" | sha256sum --check --quiet || hint
echo "Ruby $version from $source (${address##*/}, sha256 checked)"
mkdir /tmp/ruby
tar -C /tmp/ruby --strip-components=1 --no-same-owner -xJf /tmp/ruby.tar.xz
cd /tmp/ruby
{
	./configure --prefix=/layers/ruby --disable-install-doc --enable-shared --enable-load-relative --with-out-ext=win32ole &&
		make -j "$(nproc)" && make install
} >/tmp/ruby.log 2>&1 || { tail -n 40 /tmp/ruby.log; hint; }
rm -f /layers/ruby/lib/*.a
/layers/ruby/bin/ruby --version
