# Builds /app. In: JAVA_HOME, MAVEN_CUSTOM_GOALS, MAVEN_CUSTOM_OPTS, GRADLE_TASK.
hint() {
	echo "Building the app failed; the message above says why."
	echo "1. If something could not be fetched: does this machine reach the repositories that the build names (Maven Central:"
	echo "   https://repo.maven.apache.org; for wrappers also where their own archives are)? Mirrors go into settings.xml, whose path"
	echo "   is set in the config var MAVEN_SETTINGS_PATH, or into the Gradle build."
	echo "2. If the compiler says that the release is not supported: write java.runtime.version=21 into system.properties."
	exit 1
}
maven() { # COMMAND...
	local goals options settings=()
	read -ra goals <<<"${MAVEN_CUSTOM_GOALS:-clean install}"
	read -ra options <<<"${MAVEN_CUSTOM_OPTS:--DskipTests}"
	if [[ -n ${MAVEN_SETTINGS_PATH-} ]]; then settings=(-s "$MAVEN_SETTINGS_PATH"); elif [[ -f settings.xml ]]; then settings=(-s settings.xml); fi
	echo "$* ${options[*]} ${goals[*]}"
	"$@" -B -ntp "-Dmaven.repo.local=${MAVEN_REPO:-/cache/java/repository}" "${settings[@]}" "${options[@]}" "${goals[@]}" || hint
}
gradle() {
	local tasks=()
	if [[ -n ${GRADLE_TASK-} ]]; then
		read -ra tasks <<<"$GRADLE_TASK"
	elif grep -qE "(^|[^A-Za-z])stage([^A-Za-z]|$)" build.gradle build.gradle.kts 2>/dev/null; then
		tasks=(stage)
	else
		tasks=(build -x test)
	fi
	echo "./gradlew ${tasks[*]}"
	bash ./gradlew --no-daemon --console=plain "${tasks[@]}" || hint
	rm -rf .gradle
}
plain() {
	local files=()
	mapfile -d '' files < <(find . -name '*.java' -not -path './.*' -print0 | sort -z)
	mkdir -p classes
	echo "javac -d classes (${#files[@]} files)"
	javac -d classes -cp 'lib/*:.' -encoding UTF-8 "${files[@]}" || hint
}
find_web() {
	local jar found=()
	while IFS= read -r -d '' jar; do
		case $jar in *-sources.jar | *-javadoc.jar | *-tests.jar | *-plain.jar | */original-*) continue ;; esac
		if unzip -p "$jar" META-INF/MANIFEST.MF 2>/dev/null | grep -qi '^Main-Class:'; then found+=("$jar"); fi
	done < <(find . -path '*/target/*.jar' -print0 -o -path '*/build/libs/*.jar' -print0 | sort -z)
	if ((${#found[@]} != 1)); then
		echo "The build made ${#found[@]} jars with a main class: ${found[*]-}"
		echo "1. Name the one to start in a Procfile: web: java \$JAVA_OPTS -jar target/app.jar"
		echo "2. If there is none: give the jar a Main-Class (maven-jar-plugin, maven-shade-plugin, spring-boot-maven-plugin, Gradle's jar)."
		exit 1
	fi
	mkdir -p .berth
	ln -s "../${found[0]#./}" .berth/web.jar
	echo "web: ${found[0]#./}"
}
