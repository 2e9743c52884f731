python3 /tmp/fetch.py node "$NODE_RANGE" /layers/node npm "$NPM_RANGE" /layers/node/lib/node_modules/npm
cd /layers/node
for tool in npm npx; do ln -s "../lib/node_modules/npm/bin/$tool-cli.js" "bin/$tool"; done
chmod 755 lib/node_modules/npm/bin/*.js
# Headers are wanted by packages with C++ in them only: small and out of the way until then.
if [[ -d include ]]; then
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - include | zstd -q -3 -o headers.tar.zst
	rm -rf include
fi
bin/node --version
