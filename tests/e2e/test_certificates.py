"""What docs/guide.md says of certificates behind a proxy, tried with an authority of our own."""

import http.server
import re
import ssl
import subprocess
import threading

import pytest
from support import ROOT, shell

FETCH = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except OSError as error:
    print('CERTIFICATE_VERIFY_FAILED' in str(error) or error)
"""


class Answer(http.server.BaseHTTPRequestHandler):
    """Says hello, and nothing to the terminal."""

    def do_GET(self):
        """Answer one request."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_words):
        """Say nothing."""


@pytest.fixture
def authority(tmp_path):
    """Return the path of the list with an authority that nobody knows, and its server's address."""
    place = tmp_path / "authority"
    place.mkdir()
    for words in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=proxy",
        "req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=localhost",
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names"
        " -out certificate",
    ):
        (place / "names").write_text("subjectAltName = DNS:localhost\n")
        subprocess.run(["openssl", *words.split()], cwd=place, check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "certificate", place / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield place / "ca.pem", f"https://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def guide():
    """Return the blocks of code of the chapter: for a user, and for a site."""
    text = (ROOT / "docs" / "guide.md").read_text()
    chapter = re.search(r"^## Certificates behind a proxy\n(.*?)^## ", text, re.M | re.S)[1]
    return re.findall(r"^```\n(.*?)^```", chapter, re.M | re.S)


def test_certificates(authority, overlay, scratch, environ, site, site_text, ok):
    """Without the list the server is refused; with the user's lines, or the site's, it is not."""
    path, address = authority
    overlay("env.ext3")
    (scratch / "fetch.py").write_text(FETCH)
    environ["PATH"] = f"{ROOT / 'bin'}:{environ['PATH']}"
    environ |= {"no_proxy": "localhost", "OVERLAY_BINDS_PATHS": "/home"}
    command = f"-- python3 fetch.py {address}"
    fetch = ("run-overlay", "-o", "env.ext3:ro", "--", "python3", "fetch.py", address)
    assert ok(*fetch) == "True\n"
    user, add = guide()
    setting, export, mount = user.splitlines()
    assert mount.startswith("mount-overlay -o env.ext3 -b ")
    line = mount.replace("mount-overlay", "run-overlay") + f" {command}"
    done = shell(f"{setting}; {export}; {line}", {**environ, "SSL_CERT_FILE": str(path)}, scratch)
    assert done == (0, "hello\n", "")
    host = "/etc/pki/tls/certs/ca-bundle.crt"
    assert host in add
    site.write_text(f"{site_text}{add.replace(host, str(path))}")
    assert ok(*fetch) == "hello\n"
