# Makes the virtual environment /layers/python/venv. In: UV_INSTALL (the way the packages are named), files in /app.
uv=/layers/uv/bin/uv
# uv does not read pip's names of these.
[[ -n ${UV_DEFAULT_INDEX-} ]] || export UV_DEFAULT_INDEX=${UV_INDEX_URL:-${PIP_INDEX_URL:-}}
[[ -n $UV_DEFAULT_INDEX ]] || unset UV_DEFAULT_INDEX
[[ -z ${PIP_EXTRA_INDEX_URL-} || -n ${UV_INDEX-} ]] || export UV_INDEX=$PIP_EXTRA_INDEX_URL
# shellcheck disable=SC2317 # called by the trap
hint() {
	echo "Installing the packages failed; uv's message is above."
	echo "1. If no version satisfies what is asked for: is the name right, and is there one for this Python (.python-version)?"
	echo "2. If a lock file does not match: lock again on your machine (uv lock, poetry lock, pipenv lock), and commit it."
	echo "3. If a package had to be compiled and a header or program was missing: is there a newer version with a wheel?"
	echo "4. If an index could not be reached or refused: its address is PIP_INDEX_URL or PIP_EXTRA_INDEX_URL (config vars); behind"
	echo "   a company proxy its CA must be in this machine's CA bundle."
}
trap hint ERR
cd /app
"$uv" venv --quiet --allow-existing --no-project --python /layers/python/cpython/bin/python3 /layers/python/venv
export VIRTUAL_ENV=/layers/python/venv
