# Puts the wanted CPython into /layers/python/cpython. In: PYTHON_KIND (any, minor, exact, range), PYTHON_WANTED.
# A version the stack's own Python satisfies is copied from there: Debian keeps it patched and no network is needed.
home=/layers/python/cpython
stack=$(/usr/bin/python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
minor=${stack%.*}
uv=/layers/uv/bin/uv

copy_stack() {
	echo "Python $stack from the stack (Debian's, with its security patches)"
	dpkg -L "python$minor" "python$minor-minimal" "libpython$minor-minimal" "libpython$minor-stdlib" |
		sed -n 's,^/usr/\(\(bin\|lib/python3\)[^ ]*\)$,\1,p' |
		grep -v -E '/(sitecustomize\.py|EXTERNALLY-MANAGED)$' >/tmp/python.list
	tar -C /usr --no-recursion -cf - -T /tmp/python.list | tar -C "$home" --no-same-owner -xf -
	mkdir -p "$home/include"
	ln -s "/usr/include/python$minor" "$home/include/python$minor"
	ln -sf "python$minor" "$home/bin/python3"
	ln -sf python3 "$home/bin/python"
	# Times of files are not kept in images, so bytecode must not depend on them.
	"$home/bin/python3" -m compileall -q --invalidation-mode unchecked-hash -x '/(test|tests|lib2to3|idlelib|tkinter|turtledemo)/' \
		"$home/lib/python$minor" >/dev/null || true
}

reachable() { # a mirror given as a file needs no network
	case $1 in file:*) return 0 ;; esac
	curl -sS -o /dev/null --connect-timeout 3 --max-time 6 "$1" 2>/tmp/reach.err
}

managed() {
	local mirror=${UV_PYTHON_INSTALL_MIRROR:-https://github.com}
	reachable "$mirror" || return 1
	echo "Python $PYTHON_WANTED from $mirror (a CPython build managed by uv)"
	UV_PYTHON_DOWNLOADS=automatic "$uv" python install --no-bin --no-config --install-dir "$home" "$PYTHON_WANTED" || return 1
	local dir
	dir=$(find "$home" -mindepth 1 -maxdepth 1 -type d -name 'cpython-*' | sort | tail -n 1)
	[[ -n $dir ]] || return 1
	for part in bin lib include; do ln -s "${dir##*/}/$part" "$home/$part"; done
	[[ -e $home/bin/python ]] || ln -s python3 "$home/bin/python"
	"$home/bin/python3" -m compileall -q --invalidation-mode unchecked-hash -x '/(test|tests|lib2to3|idlelib|tkinter|turtledemo|site-packages)/' \
		"$dir/lib" >/dev/null || true
}

satisfied=no
case $PYTHON_KIND in
any) satisfied=yes ;;
minor) [[ $PYTHON_WANTED != "$minor" ]] || satisfied=yes ;;
exact) [[ $PYTHON_WANTED != "$stack" ]] || satisfied=yes ;;
range) ! "$uv" python find --system --no-config --no-managed-python --no-python-downloads --no-project "$PYTHON_WANTED" >/dev/null 2>&1 || satisfied=yes ;;
esac

if [[ $satisfied == yes ]]; then
	copy_stack
elif managed; then
	:
elif [[ $PYTHON_KIND == exact && ${PYTHON_WANTED%.*} == "$minor" ]]; then
	echo "warning: Python $PYTHON_WANTED cannot be downloaded here; using the stack's $stack instead"
	rm -rf "${home:?}"/*
	copy_stack
else
	echo "Python $PYTHON_WANTED is not available: the stack brings $stack, and ${UV_PYTHON_INSTALL_MIRROR:-https://github.com} gave no other ($(head -c 200 /tmp/reach.err 2>/dev/null || true))."
	echo "1. If $minor will do, put \"$minor\" into .python-version."
	echo "2. Let this machine reach https://github.com, or set UV_PYTHON_INSTALL_MIRROR to a mirror of python-build-standalone."
	echo "3. Check that such a version exists: https://www.python.org/downloads/"
	exit 1
fi
