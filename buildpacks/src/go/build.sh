# Builds programs of /app into /app/bin. In: GO_HAS_MODULES, GOFLAGS and what else Go reads from its environment.
hint() {
	echo "Building with Go failed; its message is above."
	echo "1. If a module could not be fetched: does this machine reach GOPROXY (default https://proxy.golang.org)? Set the config"
	echo "   var GOPROXY to a mirror, or commit the modules: \`go mod vendor\`. For private modules also set GOPRIVATE."
	echo "2. If go.sum lacks something: run \`go mod tidy\`, and commit go.mod and go.sum."
	echo "3. If go.mod requires a newer Go than the one above: set the config var GOVERSION, or BERTH_GO_MIRROR to where it is found."
	exit 1
}
flags=()
if [[ -n ${GO_LINKER_SYMBOL-} && -n ${GO_LINKER_VALUE-} ]]; then
	flags+=(-ldflags "-X $GO_LINKER_SYMBOL=$GO_LINKER_VALUE")
fi
if [[ $GO_HAS_MODULES == no ]]; then
	go mod init app 2>/dev/null || hint
	# Packages of the standard library have no dot in their first part: others must be found.
	if go list -deps -e -f '{{if .Error}}{{.ImportPath}}{{end}}' ./... 2>/dev/null | grep -q '^[^/]*\.'; then
		go mod tidy || hint
	fi
fi
mkdir -p /tmp/bin
build() { # NAME PACKAGE
	echo "go build -o bin/$1 $2"
	go build "${flags[@]}" -o "/tmp/bin/$1" "$2" || hint
}
install() { # PACKAGE...
	echo "go install $*"
	GOBIN=/tmp/bin go install "${flags[@]}" "$@" || hint
}
finish() {
	# Programs do not read their source; templates, migrations and other files stay.
	find . -name '*.go' -type f -delete
	if [[ -f vendor/modules.txt ]]; then rm -rf vendor; fi
	rm -f go.mod go.sum go.work go.work.sum
	find . -mindepth 1 -depth -type d -empty -delete
	mkdir -p bin
	cp /tmp/bin/* bin/ 2>/dev/null || {
		echo "Go built no program: the packages named are no package main."
		exit 1
	}
}
