import fileinput
import hashlib
import json

last = (0, "0" * 64)
with fileinput.input(encoding="ascii", openhook=fileinput.hook_compressed) as files:  # the oldest one first
    for raw in files:
        line = json.loads(raw)
        claimed = line.pop("hash")
        text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        is_whole = hashlib.sha256((line["prev_hash"] + text).encode()).hexdigest() == claimed
        where = f"{files.filename()}, line {files.filelineno()}"
        if not is_whole or last not in ((0, "0" * 64), (line["seq"] - 1, line["prev_hash"])):
            raise SystemExit(where + (" does not follow" if is_whole else " was edited"))
        last = (line["seq"], claimed)
print("the chain is whole; its last line is", last)
