# Installs the packages of composer.lock into /app/vendor; classes and scripts of the app come later.
cd /app
hint() {
	echo "Installing the packages failed; Composer's message is above."
	echo "1. If composer.lock does not match composer.json: run \`composer update --lock\`, and commit composer.lock."
	echo "2. If packages could not be fetched: does this machine reach https://repo.packagist.org and what it names (mostly"
	echo "   GitHub)? A mirror is set under repositories in composer.json; access to private ones in the config var COMPOSER_AUTH."
	echo "   Or commit vendor: what is there and matches the lock file is not fetched."
	echo "3. If an extension is missing: Berth installs those that composer.json requires as ext-NAME, as far as Debian has them."
	exit 1
}
install() {
	composer install --no-dev --no-scripts --no-autoloader --prefer-dist --no-progress --no-ansi || hint
}
