# Makes the virtual environment /layers/python/venv. In: UV_INSTALL (the way the packages are named), files in /app.
uv=/layers/uv/bin/uv
# uv does not read pip's names of these.
[[ -n ${UV_DEFAULT_INDEX-} ]] || export UV_DEFAULT_INDEX=${UV_INDEX_URL:-${PIP_INDEX_URL:-}}
[[ -n $UV_DEFAULT_INDEX ]] || unset UV_DEFAULT_INDEX
[[ -z ${PIP_EXTRA_INDEX_URL-} || -n ${UV_INDEX-} ]] || export UV_INDEX=$PIP_EXTRA_INDEX_URL
cd /app
"$uv" venv --quiet --allow-existing --no-project --python /layers/python/cpython/bin/python3 /layers/python/venv
export VIRTUAL_ENV=/layers/python/venv
