"""`python -m tests.bench.calls CONFIG`: the three calls of a rotation for every token, by bare httpx, and nothing else.

What the pipeline is measured against: sixteen threads with a client each, no journal, no seal, no delivery. Prints the
rotations per second.
"""

import sys
import threading
import time
import tomllib
from pathlib import Path

import httpx

_WORKERS = 16


def main() -> None:
    """Rotate all but the credential itself."""
    path = Path(sys.argv[1])
    provider = next(iter(tomllib.loads(path.read_text())["providers"].values()))
    secret = (path.parent / "credential").read_text().strip()
    base = f"{provider['base_url']}/v1/organizations/{provider['organization_id']}/tokens"

    def client() -> httpx.Client:
        return httpx.Client(headers={"Authorization": f"Bearer {secret}"}, trust_env=False)

    with client() as first:
        listed = first.get(base, params={"limit": 1000}).raise_for_status().json()["tokens"]
    waiting = iter([token["id"] for token in listed if token["name"] != "rotator-credential"])
    done, lock = 0, threading.Lock()

    def work() -> None:
        nonlocal done
        with client() as own:
            while True:
                with lock:
                    token_id = next(waiting, None)
                if token_id is None:
                    return
                own.get(f"{base}/{token_id}").raise_for_status()
                own.post(f"{base}/{token_id}/rotate").raise_for_status()
                own.get(f"{base}/{token_id}").raise_for_status()
                with lock:
                    done += 1

    threads = [threading.Thread(target=work) for _ in range(_WORKERS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(done / (time.monotonic() - started))


if __name__ == "__main__":
    main()
