#!/bin/bash
# Serves a directory of the app by Apache on $PORT: berth-php [DIRECTORY]. Also answers to the names of Heroku's scripts.
set -eu
root=
while (($#)); do
	case $1 in
	-*) shift; (($#)) && shift; continue ;; # options of Heroku's scripts name files of other servers
	*) root=$1; shift ;;
	esac
done
root=/app/${root#/}
[[ -d $root ]] || { echo "berth-php: there is no directory ${root#/app/} in the app" >&2; exit 1; }
export PORT=${PORT:-5000} BERTH_PHP_ROOT=${root%/}
if [[ -z ${WEB_CONCURRENCY-} ]]; then
	# A process of PHP may take 128 MB; most take a third of that.
	bytes=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -n 1 || true)
	WEB_CONCURRENCY=16
	if [[ $bytes =~ ^[0-9]{1,15}$ ]]; then
		WEB_CONCURRENCY=$((bytes / 1048576 / 48))
		((WEB_CONCURRENCY >= 4)) || WEB_CONCURRENCY=4
		((WEB_CONCURRENCY <= 64)) || WEB_CONCURRENCY=64
	fi
fi
export BERTH_PHP_WORKERS=$WEB_CONCURRENCY
# Apache ends gracefully on SIGWINCH only; a platform stops with SIGTERM.
/usr/sbin/apache2 -D FOREGROUND -f /layers/php/apache2.conf &
child=$!
trap 'kill -WINCH "$child" 2>/dev/null || true' TERM INT
status=0
while kill -0 "$child" 2>/dev/null; do
	status=0
	wait "$child" || status=$?
done
exit "$status"
