# Unpacks packages at their own places. In: DEBIAN_PACKAGES, and what debian.py reads; BERTH_DEBIAN_MIRROR and
# BERTH_DEBIAN_SECURITY_MIRROR instead of deb.debian.org. apt checks signatures and hashes.
hint() {
	echo "Packages of Debian could not be fetched: $DEBIAN_PACKAGES."
	echo "1. Let this machine reach http://deb.debian.org, or set BERTH_DEBIAN_MIRROR and BERTH_DEBIAN_SECURITY_MIRROR to mirrors."
	echo "2. If a package was not found: is its name one of Debian 12's?"
	exit 1
}
packages() {
	local work=/tmp/debian options deb name
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/sources" "$work/root"
	python3 /tmp/debian.py
	sed -e "s,http://deb.debian.org/debian-security,${BERTH_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}," \
		-e "s,http://deb.debian.org/debian\$,${BERTH_DEBIAN_MIRROR:-http://deb.debian.org/debian}," \
		/etc/apt/sources.list.d/debian.sources >"$work/sources/debian.sources"
	options=(-q -y -o "Dir::State::status=$work/status" -o "Dir::State::lists=$work/lists" -o "Dir::Cache::archives=$work/archives"
		-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources"
		-o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 -o Debug::NoLocking=1 -o Dpkg::Use-Pty=0
		-o "Acquire::https::CaInfo=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" -o APT::Update::Error-Mode=any)
	apt-get "${options[@]}" update >"$work/log" 2>&1 || { tail -n 10 "$work/log"; hint; }
	# shellcheck disable=SC2086 # names of packages
	apt-get "${options[@]}" install --download-only --no-install-recommends $DEBIAN_PACKAGES >"$work/log" 2>&1 || { tail -n 20 "$work/log"; hint; }
	mkdir -p "$work/root/var/lib/dpkg/status.d"
	for deb in "$work"/archives/*.deb; do
		[[ -e $deb ]] || break
		name=$(dpkg-deb -f "$deb" Package)
		dpkg-deb -x "$deb" "$work/root"
		{ echo "Status: install ok installed"; dpkg-deb -f "$deb"; } >"$work/root/var/lib/dpkg/status.d/$name"
		case " $DEBIAN_PACKAGES " in *" $name "*) echo "$name $(dpkg-deb -f "$deb" Version) from Debian" ;; esac
	done
	find "$work/root/usr/share/doc" -type f ! -name copyright -delete 2>/dev/null || true
	rm -rf "$work/root"/usr/share/{man,info,locale,lintian}
	# /bin, /lib and /sbin are links in the image and directories in packages.
	tar -C "$work/root" -cf - . | tar -C / --keep-directory-symlink --no-overwrite-dir -xf -
	rm -rf "$work"
}
