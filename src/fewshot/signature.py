"""Whether a run was made by this user: its config.yaml is signed with a key that nobody else has. Layer 1.

A configuration names classes, and constructing them runs their code. What a user has trained is theirs; a folder that
somebody sent is not, and carries no signature of this user's: `construct.refuse_foreign` follows less of it.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

BYTES = 32  # of the key


def sign(config: bytes) -> str | None:
    """HMAC-SHA256 of the bytes of config.yaml, 64 hex digits; None where this user can keep no key."""
    key = _key() or _new_key()
    return hmac.new(key, config, hashlib.sha256).hexdigest() if key else None


def is_own(config: bytes, signature: str | None) -> bool:
    """Whether `sign` gave this signature of these bytes, by this user's key."""
    key = _key()
    if key is None or not signature:
        return False
    return hmac.compare_digest(hmac.new(key, config, hashlib.sha256).hexdigest().encode(), signature.encode())


def key_file() -> Path | None:
    """`fewshot/key` in the user's state folder (XDG_STATE_HOME, ~/.local/state); None for one without a home."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fewshot" / "key"
    return None


def _key() -> bytes | None:
    file = key_file()
    with contextlib.suppress(OSError):
        if file is not None and len(key := file.read_bytes()) == BYTES:
            return key
    return None


def _new_key() -> bytes | None:
    """A key, stored whole: of several processes at their first run, one stores it and all read that one."""
    if (file := key_file()) is None:
        return None
    own = file.with_name(f".key-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(own, file)
    except OSError:  # no home that can be written
        return None
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
    return _key()
