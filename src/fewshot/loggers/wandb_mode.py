"""Online or offline, decided before wandb is imported: wandb would ask for a missing key. Layer 2."""

import configparser
import contextlib
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

MODES = ("auto", "online", "offline", "disabled")
ENV_MODES = {"run": "online", "shared": "online", "dryrun": "offline"} | {mode: mode for mode in MODES}
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # one service under two names since wandb 0.31


def choose_mode(mode: str) -> tuple[str, str | None]:
    """(online | offline | disabled, API key). Any mode but auto wins over WANDB_MODE and wandb's files."""
    if mode == "auto":
        mode = ENV_MODES.get(os.environ.get("WANDB_MODE") or _stored("mode") or "auto", "auto")
    if mode in ("offline", "disabled"):
        return mode, None
    key = find_key()
    return ("offline" if mode == "auto" and key is None else "online"), key


def find_key() -> str | None:
    """WANDB_API_KEY, or what `wandb login` wrote to the netrc file for the server in use."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    url = os.environ.get("WANDB_BASE_URL") or _stored("base_url") or f"https://{HOSTS[0]}"
    host = urlsplit(url).netloc
    files = [Path(name).expanduser() for name in (os.environ.get("NETRC") or "~/.netrc", "~/_netrc")]
    try:
        entries = next((netrc.netrc(file).hosts for file in files if file.exists()), {})
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return None
    keys = [entries[name][2] for name in (HOSTS if host in HOSTS else (host,)) if name in entries]
    return next(filter(None, keys), None)


def _stored(name: str) -> str | None:
    """What `wandb offline` or `wandb login --host` left, for this folder or else for this user."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    stored = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
        stored.read([folder / "settings", Path("wandb") / "settings"])
    return stored.get("default", name, fallback=None)
