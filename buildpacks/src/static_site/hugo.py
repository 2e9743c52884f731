# Fetches Hugo (the extended edition) into /layers/hugo/bin with nothing but Python. In: HUGO_WANTED ("" for the newest, or
# 0.148.2), BERTH_HUGO_MIRROR (laid out like https://github.com/gohugoio/hugo/releases/download). The hash is checked against
# the release's list. Exit code 3: no source has it.
import hashlib, io, os, platform, re, sys, tarfile, urllib.request

wanted = os.environ["HUGO_WANTED"]
official = "https://github.com/gohugoio/hugo/releases"
base = os.environ.get("BERTH_HUGO_MIRROR", "").rstrip("/") or f"{official}/download"
arch = {"x86_64": "amd64|64bit", "aarch64": "arm64|ARM64"}.get(platform.machine(), platform.machine())


def get(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read(), reply.url


try:
    if not wanted:
        # It leads to the page of the newest release, whose address ends with its name.
        _, place = get(f"{official}/latest")
        wanted = place.rstrip("/").rpartition("/v")[2]
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
        raise OSError(f"no version was found at {official}/latest")
    listing, _ = get(f"{base}/v{wanted}/hugo_{wanted}_checksums.txt")
    pattern = rf"([0-9a-f]{{64}})\s+(hugo_extended_{re.escape(wanted)}_[Ll]inux-(?:{arch})\.tar\.gz)"
    match = re.search(pattern, listing.decode())
    if not match:
        raise OSError(f"the release {wanted} has no hugo_extended for {platform.machine()}")
    archive, _ = get(f"{base}/v{wanted}/{match.group(2)}")
except OSError as error:
    print(f"Hugo {wanted or '(newest)'} cannot be fetched from {base}: {getattr(error, 'reason', error)}")
    sys.exit(3)
if hashlib.sha256(archive).hexdigest() != match.group(1):
    sys.exit(f"{match.group(2)} does not have the hash that its release names")
os.makedirs("/layers/hugo/bin", exist_ok=True)
with tarfile.open(fileobj=io.BytesIO(archive)) as tar, open("/layers/hugo/bin/hugo", "wb") as program:
    program.write(tar.extractfile("hugo").read())
os.chmod("/layers/hugo/bin/hugo", 0o755)
print(f"Hugo {wanted} from {base} (sha256 checked)")
