# Fetches uv's wheel from a Python package index with nothing but Python, and unpacks its one program to /layers/uv/bin/uv.
# (pip could do it too, in ten times the time.) In: UV_VERSION, UV_HASHES, the usual names of an index address.
import hashlib, html, io, os, platform, re, sys, time, urllib.parse, urllib.request, zipfile

version, hashes = os.environ["UV_VERSION"], os.environ["UV_HASHES"].split()
names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
index = next((os.environ[name] for name in names if os.environ.get(name)), "https://pypi.org/simple").rstrip("/")


def get(url):
    for attempt in range(3):
        try:
            parts = urllib.parse.urlsplit(url)
            request = urllib.request.Request(url)
            if parts.username:
                import base64
                login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
                host = parts.netloc.rpartition("@")[2]
                request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
                request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.read(), reply.url
        except OSError as error:
            problem = error
        time.sleep(attempt)
    raise problem


try:
    page, base = get(f"{index}/uv/")
    links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', page.decode())]
    wanted = re.compile(rf"/uv-{re.escape(version)}-py3-none-manylinux[^/#]*{platform.machine()}[^/#]*\.whl(#|$)")
    link = next((link for link in links if wanted.search(link)), None)
    if link is None:
        raise LookupError(f"{index} has no uv {version} for {platform.machine()}")
    wheel, _ = get(urllib.parse.urljoin(base, link.partition("#")[0]))
    if hashlib.sha256(wheel).hexdigest() not in hashes:
        raise LookupError(f"the uv wheel from {index} does not have the hash that is expected of it")
    program = zipfile.ZipFile(io.BytesIO(wheel)).read(f"uv-{version}.data/scripts/uv")
except (OSError, LookupError) as error:
    shown = re.sub(r"//[^/@]*@", "//", f"{error}")
    print(f"uv {version} could not be fetched: {shown}.")
    print("1. Check that this machine reaches its Python package index, and that the index offers uv.")
    print("2. If it says CERTIFICATE_VERIFY_FAILED: the index's CA must be in this machine's CA bundle.")
    sys.exit(1)
os.makedirs("/layers/uv/bin", exist_ok=True)
with open("/layers/uv/bin/uv", "wb") as file:
    file.write(program)
os.chmod("/layers/uv/bin/uv", 0o755)
