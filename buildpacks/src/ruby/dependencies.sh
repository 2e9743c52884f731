# Installs the gems of /app/Gemfile into BUNDLE_PATH. Gems in vendor/cache are not fetched.
cd /app
# Bundler would fetch the version of itself that the lock file names; any version that is there reads it.
BUNDLER_VERSION=$(bundle --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
export BUNDLER_VERSION
[[ ! -d vendor/cache ]] || [[ -z $(ls vendor/cache) ]] || export BUNDLE_DISABLE_VERSION_CHECK=true
bundle install || {
	echo "Installing the gems failed; Bundler's message is above."
	echo "1. If Gemfile.lock does not match the Gemfile: run \`bundle install\` on your machine, and commit Gemfile.lock."
	echo "2. If it lacks this platform: run \`bundle lock --add-platform x86_64-linux\`, and commit Gemfile.lock."
	echo "3. If gems could not be fetched: does this machine reach https://rubygems.org? Set BUNDLE_MIRROR__ALL to a mirror, or"
	echo "   commit the gems: \`bundle cache\`."
	echo "4. If a gem needs another Ruby: name it in .ruby-version, and it is compiled."
	exit 1
}
rm -rf "$BUNDLE_PATH"/ruby/*/cache
bundle list | tail -n +2 | wc -l | sed 's/$/ gems/'
