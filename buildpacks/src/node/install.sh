# Installs the packages of /app into /app/node_modules. In: MANAGER (npm, pnpm, yarn, berry, bun), LOCKED (yes, no), NODE_ENV.
headers() { # for packages with C++ in them; node-gyp would fetch them from nodejs.org
	[[ -f /layers/node/headers.tar.zst ]] || return 0
	mkdir -p /tmp/node && tar -C /tmp/node --zstd -xf /layers/node/headers.tar.zst
	# The first name is for node-gyp 11 and later; npm of the same age warns of the second.
	export npm_package_config_node_gyp_nodedir=/tmp/node
	case $(npm --version) in [1-9].* | 10.*) export npm_config_nodedir=/tmp/node ;; esac
}
hint() {
	echo "Installing the packages failed; the message of $MANAGER is above."
	local program=${MANAGER/berry/yarn}
	if [[ $LOCKED == yes ]]; then
		echo "1. If the lock file does not match package.json: run \`$program install\` on your machine, and commit the lock file."
	else
		echo "1. There is no lock file: run \`$program install\` on your machine, and commit the one that it makes."
	fi
	echo "2. If a package was not found: is its name right? Is its registry named in .npmrc, and its token set as a config var?"
	echo "3. Registry errors about certificates: the CA must be in this machine's CA bundle."
	exit 1
}
install() {
	case $MANAGER in
	npm)
		if [[ $LOCKED == yes ]]; then
			! grep -q -e '"hasInstallScript"' -e '"lockfileVersion": 1' package-lock.json npm-shrinkwrap.json 2>/dev/null || headers
			npm ci
		else
			headers
			npm install --no-package-lock
		fi
		;;
	pnpm)
		headers
		local flags=(--store-dir /cache/npm/pnpm --reporter append-only)
		if [[ $LOCKED == yes ]]; then flags+=(--frozen-lockfile); else flags+=(--no-lockfile); fi
		if [[ $NODE_ENV == production ]]; then flags+=(--prod); fi
		pnpm install "${flags[@]}"
		;;
	yarn)
		headers
		local flags=(--non-interactive --cache-folder /cache/npm/yarn)
		if [[ $LOCKED == yes ]]; then flags+=(--frozen-lockfile); else flags+=(--no-lockfile); fi
		if [[ $NODE_ENV != production ]]; then flags+=(--production=false); fi
		yarn install "${flags[@]}"
		;;
	berry)
		headers
		export YARN_ENABLE_GLOBAL_CACHE=true YARN_GLOBAL_FOLDER=/cache/npm/berry YARN_ENABLE_TELEMETRY=false YARN_ENABLE_PROGRESS_BARS=false
		if [[ $NODE_ENV == production ]]; then
			yarn workspaces focus --all --production
		elif [[ $LOCKED == yes ]]; then
			yarn install --immutable
		else
			YARN_ENABLE_IMMUTABLE_INSTALLS=false yarn install
		fi
		;;
	bun)
		headers
		export BUN_INSTALL_CACHE_DIR=/cache/npm/bun
		local flags=(--no-progress)
		if [[ $LOCKED == yes ]]; then flags+=(--frozen-lockfile); else flags+=(--no-save); fi
		if [[ $NODE_ENV == production ]]; then flags+=(--production); fi
		bun install "${flags[@]}"
		;;
	esac || hint
}
# Runs a script of package.json. In: the program, the script's name.
run() {
	echo "$1 run $2"
	"$1" run "$2" && return
	local code=$?
	echo "The script $2 of package.json failed with exit code $code; its message is above."
	echo "1. If a program was not found: is it in dependencies or devDependencies, and not only installed on your machine?"
	echo "2. If a variable was missing: config vars are there in builds too; set it (berth config:set), and push again."
	echo "3. If it was killed or ran out of memory: builds have a memory limit; NODE_OPTIONS=--max-old-space-size=… (a config var) helps some."
	exit 1
}
prune() {
	case $MANAGER in
	npm) NODE_ENV=production npm prune --ignore-scripts ;;
	pnpm) [[ -f pnpm-workspace.yaml ]] || CI=true pnpm prune --prod --ignore-scripts ;;
	yarn) NODE_ENV=production yarn install --non-interactive --cache-folder /cache/npm/yarn --ignore-scripts --frozen-lockfile --prefer-offline ;;
	bun) rm -rf node_modules && NODE_ENV=production install ;;
	berry) yarn workspaces focus --all --production || echo "development packages are kept: this Yarn cannot leave them out" ;;
	esac
}
if [[ $MANAGER == pnpm ]]; then
	# pnpm would fetch another version of itself, with a signature that mirrors do not have.
	export npm_config_manage_package_manager_versions=false
fi
cd /app
