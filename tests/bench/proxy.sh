#!/usr/bin/env bash
# CPU per request of Berth's proxy beside nginx and HAProxy: the same work, in one run, in turns.
#
#   tests/bench/proxy.sh [--rounds N] [--seconds S] [--connections C] [--case NAME] [--berth COMMAND...]
#
# Cases: get-1k (default), get-100k, chunked, post-10k, new-connection. All three write an access log, set X-Forwarded-*
# and keep connections to the origin open. The proxy under test runs on core 0, load and origin on core 1, inside a
# network namespace of its own (root needed). Prints microseconds of CPU a request and the median of the per-round
# ratios to HAProxy; `foreign` is CPU used by others meanwhile, in cores: figures with more than 0.1 are only ratios.
set -euo pipefail

rounds=8 seconds=3 connections=64 case=get-1k
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
berth=()
while (($#)); do
    case $1 in
        --rounds) rounds=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --connections) connections=$2; shift 2 ;;
        --case) case=$2; shift 2 ;;
        --berth) shift; berth=("$@"); break ;;
        *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
for tool in nginx haproxy wrk taskset unshare; do
    command -v $tool >/dev/null || { echo "$tool is missing: apt-get install nginx-light haproxy wrk util-linux" >&2; exit 1; }
done
if [[ ${BENCH_NAMESPACE:-} != 1 ]]; then
    if ((${#berth[@]} == 0)); then
        (cd "$root" && cargo build --release -p berth-proxy --example serve)
        berth=("${CARGO_TARGET_DIR:-$root/target}/release/examples/serve" DIR ADDRESS 1)
    fi
    export BENCH_NAMESPACE=1
    exec unshare -n "$0" --rounds "$rounds" --seconds "$seconds" --connections "$connections" --case "$case" \
        --berth "${berth[@]}"
fi
ip link set lo up
(($(nproc) >= 2)) || { echo "two cores are needed: one for the proxy, one for load and origin" >&2; exit 1; }

dir=$(mktemp -d)
chmod 755 "$dir" # nginx workers give up root
declare -A pid port=([berth]=8081 [nginx]=8082 [haproxy]=8083)
names=(berth nginx haproxy)
stop() {
    for name in "${!pid[@]}"; do kill "${pid[$name]}" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT

# The origin: nginx answering from memory.
mkdir -p "$dir"/{origin,nginx,data/proxy}
head -c 1024 /dev/zero | tr '\0' x >"$dir/origin/1k"
head -c 102400 /dev/zero | tr '\0' x >"$dir/origin/100k"
cat >"$dir/origin.conf" <<END
daemon off; worker_processes 1; pid $dir/origin.pid; error_log $dir/origin.err crit;
events { worker_connections 4096; }
http {
    access_log off; sendfile on; keepalive_requests 1000000; client_body_buffer_size 64k;
    open_file_cache max=100; open_file_cache_valid 1h;
    server { listen 127.0.0.1:8090 reuseport backlog=4096; root $dir/origin;
        location = /post { return 200 "ok"; }
        location = /chunked { gzip on; gzip_min_length 1; gzip_types *; gzip_comp_level 1; try_files /1k =404; } }
}
END
cat >"$dir/nginx.conf" <<END
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err crit;
events { worker_connections 8192; }
http {
    log_format full '\$msec \$remote_addr "\$request" \$host \$status \$request_length \$bytes_sent \$request_time \$upstream_addr \$request_id';
    access_log $dir/nginx.log full buffer=48k flush=1s; keepalive_requests 1000000;
    client_body_temp_path $dir/nginx/b; proxy_temp_path $dir/nginx/p; fastcgi_temp_path $dir/nginx/f;
    uwsgi_temp_path $dir/nginx/u; scgi_temp_path $dir/nginx/s;
    upstream app { server 127.0.0.1:8090; keepalive 128; keepalive_requests 1000000; }
    server { listen 127.0.0.1:8082 backlog=4096; server_name app.test;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host \$host; proxy_set_header X-Forwarded-For \$remote_addr;
            proxy_set_header X-Forwarded-Proto \$scheme; proxy_set_header X-Forwarded-Host \$host;
            proxy_set_header X-Forwarded-Port \$server_port; proxy_set_header X-Request-Start \$msec;
            proxy_set_header X-Request-Id \$request_id; proxy_request_buffering off; proxy_buffering on; } }
}
END
cat >"$dir/haproxy.cfg" <<END
global
    nbthread 1
    maxconn 8192
    log $dir/log.sock len 1024 local0
defaults
    mode http
    log global
    option httplog
    option forwardfor
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend web
    bind 127.0.0.1:8083 backlog 4096
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Request-Start %[date(0,ms)]
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    acl known hdr(host),field(1,:) -m str app.test
    use_backend app if known
backend app
    server s1 127.0.0.1:8090 pool-max-conn 128
END
cat >"$dir/data/proxy/table.json" <<END
{"revision":1,"http":[{"host":"app.test","app":"app","release":1,"target":{"target":"backends","backends":
[{"container":"app.web.1.a","incarnation":1,"address":"127.0.0.1:8090"}]}}],"tcp":[]}
END
# Somebody must read HAProxy's log; like a syslog daemon, on the other core and not counted.
taskset -c 1 python3 -c "
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('$dir/log.sock')
while True: s.recv(65536)" & pid[log]=$!
taskset -c 1 nginx -p "$dir/origin" -c "$dir/origin.conf" & pid[origin]=$!
until [[ -S $dir/log.sock ]]; do sleep 0.05; done
berth=("${berth[@]/#DIR/$dir/data}")
berth=("${berth[@]/#ADDRESS/127.0.0.1:8081}")
taskset -c 0 "${berth[@]}" >"$dir/berth.out" 2>&1 & pid[berth]=$!
taskset -c 0 nginx -p "$dir/nginx" -c "$dir/nginx.conf" & pid[nginx]=$!
taskset -c 0 haproxy -q -f "$dir/haproxy.cfg" & pid[haproxy]=$!

tree() { local child; echo "$1"; for child in $(pgrep -P "$1" || true); do tree "$child"; done; }
# Ticks (10 ms) of user and system time of a process tree.
ticks() { local sum=0 p; for p in $(tree "$1"); do
    sum=$((sum + $(sed 's/.*) //' "/proc/$p/stat" 2>/dev/null | awk '{print $12 + $13}' || echo 0))); done; echo $sum; }
busy() { awk '/^cpu / {print $2 + $3 + $4 + $7 + $8}' /proc/stat; }

path=/1k lua=/dev/null
case $case in
    get-1k) ;;
    get-100k) path=/100k ;;
    chunked) path=/chunked; echo 'wrk.headers["Accept-Encoding"] = "gzip"' >"$dir/case.lua"; lua=$dir/case.lua ;;
    post-10k) path=/post; echo 'wrk.method = "POST"; wrk.body = string.rep("x", 10240)' >"$dir/case.lua"; lua=$dir/case.lua ;;
    new-connection) echo 'wrk.headers["Connection"] = "close"' >"$dir/case.lua"; lua=$dir/case.lua ;;
    *) echo "no such case: $case" >&2; exit 2 ;;
esac
for name in "${names[@]}"; do
    for _ in $(seq 100); do
        curl -fsS -o /dev/null -H 'Host: app.test' "http://127.0.0.1:${port[$name]}/1k" 2>/dev/null && break
        sleep 0.05
    done
    curl -fsS -o /dev/null -H 'Host: app.test' "http://127.0.0.1:${port[$name]}/1k" || { echo "$name does not answer" >&2; exit 1; }
done

measure() { # name → one line: name, µs a request, requests a second, errors, foreign cores
    local name=$1 before after all_before all_after own_before own_after out requests errors began=$EPOCHREALTIME elapsed
    own_before=0; for p in "${pid[@]}"; do own_before=$((own_before + $(ticks "$p"))); done
    before=$(ticks "${pid[$name]}") all_before=$(busy)
    out=$(TIMEFORMAT='wrkcpu %U %S'
        { time taskset -c 1 wrk -t1 -c "$connections" -d "${seconds}s" -s "$lua" -H 'Host: app.test' \
            "http://127.0.0.1:${port[$name]}$path"; } 2>&1)
    after=$(ticks "${pid[$name]}") all_after=$(busy)
    elapsed=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {print b - a}')
    own_after=0; for p in "${pid[@]}"; do own_after=$((own_after + $(ticks "$p"))); done
    requests=$(awk '/requests in/ {print $1}' <<<"$out")
    errors=$(awk '/Non-2xx/ {n += $NF} /Socket errors/ {gsub(",", ""); n += $4 + $6 + $8 + $10} END {print n + 0}' <<<"$out")
    awk -v name="$name" -v ticks=$((after - before)) -v requests="$requests" -v errors="$errors" -v s="$seconds" -v e="$elapsed" \
        -v all=$((all_after - all_before)) -v own=$((own_after - own_before)) \
        -v wrk="$(awk '/^wrkcpu/ {print $2 + $3}' <<<"$out")" \
        'BEGIN {f = ((all - own) / 100 - wrk) / e; printf "%s %.2f %.0f %d %.2f\n", name, ticks * 1e4 / requests, requests / s, errors, f < 0 ? 0 : f}'
}
for name in "${names[@]}"; do taskset -c 1 wrk -t1 -c "$connections" -d 1s -s "$lua" -H 'Host: app.test' \
    "http://127.0.0.1:${port[$name]}$path" >/dev/null; done # warm
echo "case $case, $connections connections, $rounds rounds of $seconds s; CPU µs a request, requests/s, errors, foreign cores"
for round in $(seq "$rounds"); do
    order=("${names[@]}"); ((round % 2)) || order=(haproxy nginx berth)
    for name in "${order[@]}"; do echo "$round $(measure "$name")" | tee -a "$dir/samples"; done
done
awk '
function median(list, n,   i, j, t) { for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (list[j] < list[i]) {t = list[i]; list[i] = list[j]; list[j] = t}
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2 }
{ us[$1, $2] = $3; errors[$2] += $5; foreign[NR] = $6; if ($1 > rounds) rounds = $1 }
END {
    split("berth nginx haproxy", names, " ")
    for (k = 1; k <= 3; k++) { name = names[k]
        for (r = 1; r <= rounds; r++) { plain[r] = us[r, name]; ratio[r] = us[r, name] / us[r, "haproxy"] }
        printf "%-8s %6.2f us  %.2f x haproxy  %d errors\n", name, median(plain, rounds), median(ratio, rounds), errors[name] }
    printf "median foreign CPU %.2f cores\n", median(foreign, NR)
}' "$dir/samples"
