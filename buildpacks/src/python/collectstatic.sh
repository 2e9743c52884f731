python manage.py collectstatic --noinput || {
	echo "Collecting Django's static files failed; its message is above."
	echo "1. If the settings need a config var (SECRET_KEY, DATABASE_URL), set it and push again, or give it a default for builds."
	echo "2. To do without, set the config var DISABLE_COLLECTSTATIC=1."
	exit 1
}
