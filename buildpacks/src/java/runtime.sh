packages
# What the packages' own scripts would have done: one name for every machine, and the certificates as Java reads them.
jvm=$(find /usr/lib/jvm -mindepth 1 -maxdepth 1 -type d -name 'java-17-openjdk-*' | head -n 1)
mkdir -p /layers /etc/ssl/certs/java
ln -s "$jvm" /layers/java
find /etc/ssl/certs -maxdepth 1 -name '*.pem' | sed 's/^/+/' | LC_ALL=C sort |
	"$jvm/bin/java" -Xshare:off -jar /usr/share/ca-certificates-java/ca-certificates-java.jar -storepass changeit >/tmp/certs.log 2>&1 || {
	tail -n 5 /tmp/certs.log
	exit 1
}
# Start-up is faster with the classes of the runtime laid out in advance.
"$jvm/bin/java" -Xshare:dump >/dev/null 2>&1 || true
"$jvm/bin/java" -version 2>&1 | head -n 1
