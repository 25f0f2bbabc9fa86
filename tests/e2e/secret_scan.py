"""No secret that a run used is where it may not be: not in a log, a database, a journal, a dump of Redis,
on a page of metrics, or in a core.

Whoever makes or learns a secret tells it here (`remember`, `learn`); when a stack ends, every file that
its programs wrote is searched for all of them, in several spellings.
"""

import base64
import hashlib
import pathlib
import subprocess
import tempfile

# What the programs keep by design, readable by their owner only.
MEANT = ("kek", "admin.token")

_texts = {}  # spelling: what it is
_bytes = {}  # likewise, of what is no text


def remember(what, secret):
    """Adds a secret with the spellings in which it might be written."""
    data = secret if isinstance(secret, bytes) else secret.encode()
    assert len(data) >= 8, "too short to be told from other text"
    if isinstance(secret, bytes) and not data.isascii():
        _bytes[data] = what
    else:
        _texts.update((line.strip(), what) for line in data.decode().split())
    _texts[data.hex()] = what + " in hex"
    _texts[base64.b64encode(data).decode().rstrip("=")] = what + " in base64"
    _texts[hashlib.sha256(data).hexdigest()] = what + " hashed"


def remember_key(text):
    """A virtual key (its id is no secret) or an admin token."""
    if text.startswith("sk-toll-"):
        remember("the secret of a virtual key", text.rsplit("-", 1)[1])
    else:  # of a token the hash is what is stored: it has 256 random bits
        _texts[text] = "an admin token"


def learn(answer):
    """Remembers whatever an answer of tollctl calls a secret."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name == "secret" and isinstance(value, str) and value:
                remember_key(value)
            else:
                learn(value)
    elif isinstance(answer, list):
        for item in answer:
            learn(item)


def findings(*paths):
    """["FILE: WHAT"] of every secret in the files at or below the paths."""
    found = set()
    with tempfile.NamedTemporaryFile("w") as patterns:
        patterns.write("".join(text + "\n" for text in _texts))
        patterns.flush()
        done = subprocess.run(
            ["grep", "-r", "-a", "-o", "-F", "-Z", "-f", patterns.name,
             *("--exclude=" + name for name in MEANT), "--", *map(str, paths)],
            capture_output=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, check=False)
    for line in done.stdout.split(b"\n"):
        file, separator, text = line.partition(b"\0")
        if separator:
            found.add("%s: %s" % (file.decode(), _texts[text.decode("latin-1")]))
    for file in (file for path in map(pathlib.Path, paths)
                 for file in (path.rglob("*") if path.is_dir() else [path])):
        if _bytes and file.name not in MEANT and file.is_file():
            data = file.read_bytes()
            found |= {"%s: %s" % (file, what) for secret, what in _bytes.items() if secret in data}
    return sorted(found)
