"""Writes rows.csv and prints what `golden.rs` expects of it, from docs/decisions/0002 alone: the tests do not run this, so that the worker
is held to numbers it had no part in. Run it again only where the rows change: `python3 rows.py`."""

import csv
import datetime
import hashlib
import json
import pathlib
import struct

FILE = pathlib.Path(__file__).with_name("rows.csv")
FIELDS = [("id", "String", True, "Id"), ("größe", "Number", True, "Feature"), ("count", "Integer", True, "Feature"),
          ("paid", "Boolean", True, "Feature"), ("city", "String", True, "Sensitive"), ("at", "Timestamp", True, "Timestamp"),
          ("label", "Integer", False, "Label")]
TAGS = {"Integer": 1, "Number": 2, "Boolean": 3, "String": 4, "Timestamp": 5}
SPLIT = {"seed": -7, "test": 2500, "train": 6000, "validation": 1500}


def written():
    """Forty rows: missing cells, both zeros, NaN, infinity, the ends of 64 bits, text beyond ASCII, moments before 1970, a row twice."""
    numbers = ["-0.0", "0", "NaN", "1e300", "", "0.1", "-2.5", "inf"]
    cities = ["Zürich", "", "東京", "Zu\u0308rich", "a, \"b\"", "🙂", "x"]
    moments = ["1969-12-31T23:59:59.999999Z", "2024-02-29", "", "2024-01-01T01:00:00+02:00", "2024-01-01 10:00:00.123456"]
    counts = ["9223372036854775807", "-9223372036854775808", "", "0", "42"]
    rows = [[f"é{n}" if n % 9 else "", numbers[n % 8], counts[n % 5], ["true", "false", ""][n % 3], cities[n % 7], moments[n % 5], "unused", str(n % 2)]
            for n in range(40)]
    with FILE.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["id", "größe", "count", "paid", "city", "at", "other", "label"], *rows, rows[5]])


def cell(kind, text):
    if text == "":
        return bytes([TAGS[kind], 0])
    if kind == "Integer":
        value = struct.pack("<q", int(text))
    elif kind == "Number":
        number = float(text)
        value = bytes.fromhex("000000000000f87f") if number != number else struct.pack("<d", number + 0.0)
    elif kind == "Boolean":
        value = bytes([text == "true"])
    elif kind == "String":
        value = struct.pack("<q", len(text.encode())) + text.encode()
    else:
        moment = datetime.datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
        value = struct.pack("<q", (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1))
    return bytes([TAGS[kind], 1]) + value


def split_of(key):
    bucket = int.from_bytes(hashlib.sha256(struct.pack("<q", SPLIT["seed"]) + key).digest()[:8], "little") % 10_000
    return "test" if bucket < SPLIT["test"] else "validation" if bucket < SPLIT["test"] + SPLIT["validation"] else "train"


def main():
    written()
    total, splits = 0, {}
    rows = list(csv.DictReader(FILE.open(encoding="utf-8", newline="")))
    for row in rows:
        whole = b"".join(cell(kind, row[name]) for name, kind, _, _ in FIELDS)
        total += int.from_bytes(hashlib.sha256(whole).digest(), "little")
        split = split_of(cell("String", row["id"]) if row["id"] else whole)
        splits.setdefault(split, []).append(row["id"])
    schema = [{"name": name, "type": kind, "nullable": nullable, "role": role} for name, kind, nullable, role in FIELDS]
    texts = [json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() for value in (schema, SPLIT)]
    content = b"millrace-dataset-content-v1\0" + b"".join(struct.pack("<q", len(text)) + text for text in texts)
    content += (total % 2**256).to_bytes(32, "little") + struct.pack("<q", len(rows))
    print(f"contentDigest sha256:{hashlib.sha256(content).hexdigest()}")
    for split in ("test", "validation", "train"):
        print(split, len(splits[split]), sorted(splits[split]))


if __name__ == "__main__":
    main()
