# Puts uv into /layers/uv from its wheel on PyPI: one program, no Python packages. In: UV_VERSION, UV_HASHES.
hashes=()
for hash in $UV_HASHES; do hashes+=("--hash=sha256:$hash"); done
echo "uv==$UV_VERSION ${hashes[*]}" >/tmp/uv.txt
python3 -m pip install --quiet --no-cache-dir --no-deps --no-compile --only-binary :all: --require-hashes \
	--disable-pip-version-check --root-user-action ignore --break-system-packages --target /layers/uv -r /tmp/uv.txt || {
	echo "uv $UV_VERSION could not be installed from PyPI${PIP_INDEX_URL:+ (index $PIP_INDEX_URL)}."
	echo "1. Check that this machine reaches its Python package index; pip's message is above."
	echo "2. \"No matching distribution found\" also appears when the index's TLS certificate is not trusted: is the CA in this machine's bundle?"
	exit 1
}
/layers/uv/bin/uv --version
