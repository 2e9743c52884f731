# Puts Composer at /layers/composer/bin/composer: upstream's newest, else Debian's. In: BERTH_COMPOSER_MIRROR, laid out like
# https://getcomposer.org/download.
mkdir -p /layers/composer/bin
source=${BERTH_COMPOSER_MIRROR:-https://getcomposer.org/download}
upstream() {
	curl -fsSL --connect-timeout 5 --max-time 60 -o /tmp/composer.phar "${source%/}/latest-stable/composer.phar" 2>/tmp/curl.err || return 1
	curl -fsSL --connect-timeout 5 --max-time 20 -o /tmp/composer.sum "${source%/}/latest-stable/composer.phar.sha256sum" 2>/tmp/curl.err || return 1
	echo "$(cut -c1-64 /tmp/composer.sum)  /tmp/composer.phar" | sha256sum --check --quiet || return 1
	mv /tmp/composer.phar /layers/composer/bin/composer
	chmod 755 /layers/composer/bin/composer
	echo "Composer from $source"
}
if ! upstream; then
	echo "$source: $(tail -n 1 /tmp/curl.err 2>/dev/null); taking Debian's"
	packages
	ln -s /usr/bin/composer /layers/composer/bin/composer
fi
COMPOSER_ALLOW_SUPERUSER=1 php /layers/composer/bin/composer --version --no-ansi 2>/dev/null | head -n 1
