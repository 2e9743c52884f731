# What the packages' own scripts would have done: settings, the extensions switched on, the usual names.
ln -sf php8.2 /usr/bin/php
for api in cli apache2; do
	mkdir -p "/etc/php/8.2/$api/conf.d"
	case $api in
	cli) cp /usr/lib/php/8.2/php.ini-production.cli /etc/php/8.2/cli/php.ini ;;
	*) cp /usr/lib/php/8.2/php.ini-production /etc/php/8.2/apache2/php.ini ;;
	esac
	for ini in /usr/share/php8.2-*/*/*.ini /usr/share/php8.2-*/*.ini; do
		[[ -e $ini ]] || continue
		name=$(basename "$ini")
		priority=$(sed -n 's/^; *priority=\([0-9]*\).*/\1/p' "$ini" | head -n 1)
		mkdir -p /etc/php/8.2/mods-available
		cp "$ini" "/etc/php/8.2/mods-available/$name"
		ln -sf "/etc/php/8.2/mods-available/$name" "/etc/php/8.2/$api/conf.d/${priority:-20}-$name"
	done
	cat >"/etc/php/8.2/$api/conf.d/90-berth.ini" <<-'INI'
		error_log = /proc/self/fd/2
		log_errors = On
		expose_php = Off
		memory_limit = 128M
		upload_max_filesize = 32M
		post_max_size = 34M
		sys_temp_dir = /tmp
		session.save_path = /tmp
		variables_order = "EGPCS"
		opcache.validate_timestamps = 0
		opcache.revalidate_freq = 0
	INI
done
chmod 755 /layers/php/bin/berth-php
for name in heroku-php-apache2 heroku-php-nginx; do ln -sf berth-php "/layers/php/bin/$name"; done
php --version | head -n 1
php -m | grep -v '^\[' | paste -sd' ' | fold -s -w 100
