if ! rake=$(bundle exec rake -P 2>/tmp/rake.err); then
	tail -n 20 /tmp/rake.err
	echo "rake -P failed; its message is above. Without it the assets cannot be compiled."
	echo "1. If a config var is missing (DATABASE_URL …), set it and push again, or give it a default for builds."
	echo "2. To do without, set the config var DISABLE_ASSETS_PRECOMPILE=1."
	exit 1
fi
if grep -q '^rake assets:precompile$' <<<"$rake"; then
	bundle exec rake assets:precompile || {
		echo "rake assets:precompile failed; its message is above. DISABLE_ASSETS_PRECOMPILE=1 turns it off."
		exit 1
	}
fi
rm -rf tmp/cache log/*.log
