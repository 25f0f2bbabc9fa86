"""What a thief gets of the files, and keys, credentials and key-encryption keys that change under load."""

import hashlib
import os
import re
import secrets
import sqlite3
import subprocess
import threading

import load
import secret_scan
from stack import BIN
from test_sdks import GPT, say


def purchase(stack, key):
    return load.call_now(stack.edge, load.chat_request(key, {
        "model": GPT, "max_tokens": 20, "messages": say("Hello", output=5)}))


class Load:
    """Calls one after the other on a thread of its own, each with the newest key."""

    def __init__(self, stack, key):
        self.stack, self.key = stack, key
        self.statuses = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.is_set():
            self.statuses.append(purchase(self.stack, self.key).status)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def more(self, count=5):
        """Waits for so many further answers."""
        begin = len(self.statuses)
        while len(self.statuses) < begin + count:
            self.ended.wait(0.01)


def test_the_scan_finds_what_is_planted(fresh):
    tenant = fresh.tenant()
    tenant.set_budget("org", 10**9)
    assert purchase(fresh, tenant.secret).status == 200
    assert secret_scan.findings(*fresh.written()) == []
    planted = fresh.directory / "core.1234.log"
    for text in (tenant.secret, "sim-secret-sim", tenant.secret.rsplit("-", 1)[1].encode().hex()):
        planted.write_text("a core with %s in it" % text)
        assert len(secret_scan.findings(*fresh.written())) == 1, text
    planted.unlink()


def test_databases_and_journal_without_the_kek_give_no_credential_and_no_key(fresh):
    tenant = fresh.tenant()
    tenant.set_budget("org", 10**9)
    assert purchase(fresh, tenant.secret).status == 200
    tenant.settled()
    fresh.house.stop()
    stolen = b"".join(file.read_bytes() for file in sorted(fresh.house.data.rglob("*"))
                      if file.is_file() and file.name not in secret_scan.MEANT)
    assert tenant.key.encode() in stolen  # it is the data
    assert b"sim-secret-" not in stolen
    # Every text in them that could be the secret of a key, tried as one by its hash.
    secret = tenant.secret.rsplit("-", 1)[1]
    assert secret.encode() not in stolen
    assert secret not in set(re.findall(r"[a-z2-7]{52}", stolen.decode("latin-1")))
    for guess in (secret, tenant.secret):
        assert hashlib.sha256(guess.encode()).digest() not in stolen
    # With the database and another key-encryption key the vault does not even start.
    (fresh.house.data / "kek").rename(fresh.directory / "kek.away")
    (fresh.house.data / "kek").write_bytes(secrets.token_bytes(32))
    (fresh.house.data / "kek").chmod(0o600)
    fresh.house.launch()
    fresh.house.process.wait(30)
    assert fresh.house.process.returncode != 0
    assert "key-encryption key is not the one" in fresh.house.tail()
    # Nor is there a text among the stored ones that opens another: sealed ones have 12 bytes of nonce
    # and 16 of tag, and no key of 32 bytes stands beside them.
    (vault,) = fresh.house.data.rglob("vault.db")
    with sqlite3.connect("file:%s?mode=ro" % vault, uri=True) as database:
        for (sealed,) in database.execute("SELECT sealed FROM credential"):
            assert len(sealed) > 28 and b"sim-secret" not in sealed
        for (wrapped,) in database.execute("SELECT wrapped_key FROM credential"):
            assert len(wrapped) >= 32 + 28
    (fresh.directory / "kek.away").rename(fresh.house.data / "kek")
    fresh.house.start()
    assert purchase(fresh, tenant.secret).status == 200


def test_no_call_fails_while_keys_credentials_and_keks_rotate(fresh):
    tenant = fresh.tenant()
    tenant.set_budget("org", 10**10)
    with Load(fresh, tenant.secret) as running:
        running.more()
        for _ in range(3):
            rotated = fresh.ctl("key", "rotate", tenant.key, "--overlap", "1h")
            running.more(2)
            running.key = rotated["secret"]
            running.more(2)
        secret = fresh.directory / "credential-sim"
        for _ in range(2):
            fresh.ctl("credential", "set", "sim", "--credential-file", secret, "--overlap", "1h")
            running.more(2)
        fresh.ctl("credential", "set", "sim", "--name", "second", "--weight", "3",
                  "--credential-file", secret)
        running.more(2)
        done = subprocess.run([BIN / "tollhouse-vault", "add-key", "--insecure",
                               "--database", "sqlite:unused", "--ledger", "127.0.0.1:1",
                               "--admin-token-file", fresh.house.data / "admin.token",
                               "--key-encryption-key-file", fresh.house.data / "kek"],
                              text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        answer = fresh.ctl("kek", "rewrap")
        assert int(answer["rewrapped"]) >= 4 and int(answer["remaining"]) == 0
        running.more(2)
        # The next version is read from what is wrapped anew.
        fresh.ctl("credential", "set", "sim", "--credential-file", secret, "--overlap", "1h")
        running.more(2)
    assert set(running.statuses) == {200}
    keks = fresh.ctl("kek", "list")["keys"]
    assert [int(kek["secrets"]) > 0 for kek in keks] == [False, True]
    # The old key-encryption key is not needed any more.
    fresh.house.stop()
    kek = fresh.house.data / "kek"
    lines = kek.read_text().split()
    assert len(lines) == 2
    kek.write_text(lines[1] + "\n")
    os.chmod(kek, 0o600)
    fresh.house.start()
    assert purchase(fresh, running.key).status == 200


def test_the_last_use_of_a_key_is_shown(fresh):
    tenant = fresh.tenant()
    tenant.set_budget("org", 10**9)
    assert "last_used_at" not in fresh.ctl("key", "show", tenant.key)["key"]
    assert purchase(fresh, tenant.secret).status == 200
    # What the edge has not told yet it tells when it ends.
    fresh.house.stop()
    fresh.house.start()
    assert fresh.ctl("key", "show", tenant.key)["key"]["last_used_at"]
