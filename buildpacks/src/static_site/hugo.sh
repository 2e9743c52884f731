code=0
python3 /tmp/hugo.py || code=$?
case $code in
0) ;;
3)
	# Debian 12 has this one, the extended edition.
	case $HUGO_WANTED in
	"" | 0.111 | 0.111.3)
		echo "Debian's package is used instead."
		packages
		;;
	*)
		echo "1. Check that such a version exists: https://github.com/gohugoio/hugo/releases"
		echo "2. Let this machine reach https://github.com, or set BERTH_HUGO_MIRROR to a mirror of its releases."
		echo "3. If Hugo 0.111.3 will do, which Debian has, ask for that."
		exit 1
		;;
	esac
	;;
*) exit 1 ;;
esac
PATH=/layers/hugo/bin:$PATH hugo version
