# Puts Eclipse Temurin into /layers/jre or /layers/jdk. In: JAVA_WANTED (a feature version), JAVA_KIND (jre, jdk), BERTH_JAVA_MIRROR
# (answers like https://api.adoptium.net).
source=${BERTH_JAVA_MIRROR:-https://api.adoptium.net}
source=${source%/}
case $(uname -m) in x86_64) machine=x64 ;; *) machine=$(uname -m) ;; esac
hint() {
	echo "Java $JAVA_WANTED could not be fetched; the message above says why."
	echo "1. Debian's Java 17 needs no other source: if the app runs with it, write java.runtime.version=17 into system.properties."
	echo "2. Let this machine reach $source and https://github.com, or set BERTH_JAVA_MIRROR to a mirror."
	echo "3. Check that such a version exists: https://adoptium.net/temurin/releases"
	exit 1
}
list="$source/v3/assets/latest/$JAVA_WANTED/hotspot?architecture=$machine&image_type=$JAVA_KIND&os=linux&vendor=eclipse"
curl -fsSL --retry 2 --connect-timeout 10 -o /tmp/java.json "$list" || hint
read -r address hash name < <(jq -r '.[0] | "\(.binary.package.link) \(.binary.package.checksum) \(.release_name)"' /tmp/java.json) || hint
[[ $hash =~ ^[0-9a-f]{64}$ ]] || { echo "$source has no Java $JAVA_WANTED for $machine"; hint; }
curl -fsSL --retry 2 --connect-timeout 10 -o /tmp/java.tar.gz "$address" || hint
echo "$hash  /tmp/java.tar.gz" | sha256sum --check --quiet || hint
tar -C "/layers/$JAVA_KIND" --strip-components=1 --no-same-owner -xzf /tmp/java.tar.gz
echo "Eclipse Temurin $name ($JAVA_KIND) from $source"
