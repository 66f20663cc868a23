"""Writes tests/golden/data: the same rows as JSON Lines and as Parquet, by pyarrow; and one file compressed by zstandard.

    pip install pyarrow==26.0.1 zstandard==0.25.0
    python scripts/make_data_goldens.py
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

FOLDER = Path(__file__).parent.parent / "tests" / "golden" / "data"

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def chat_rows():
    """Forty dialogues: with and without a system turn, of one and two answers, with what JSON has to escape."""
    for number in range(40):
        messages = [{"role": "system", "content": 'You say "numbers".\\'}] if number % 3 == 0 else []
        for turn in range(1 + number % 2):
            messages.append({"role": "user", "content": f"What is {number}\u00b7{turn + 2}?\nDigits only, \u8bf7."})
            messages.append({"role": "assistant", "content": f"\t{number * (turn + 2)} \U0001f642"})
        yield {"messages": messages}


def ranked_rows():
    """Answers with votes of one to three people, one of which is missing."""
    yield {"prompt": "q", "responses": ["a", "b", "c"], "scores": [[3.0, 4.0, 5.0], [4.0, None, 1.0], [0.1]]}
    yield {"prompt": "r", "responses": ["d", "e"], "scores": [[2.0], [1.5, 1.0]]}


def text_rows():
    """Few texts again and again, and columns of other types, that no row has at all, or that are nested twice."""
    for number in range(300):
        row = {"id": number - 2, "text": f"text {number % 7} \u00e9", "weight": number / 8, "kept": number % 2 == 0}
        if number % 5 == 0:
            row["tags"] = [] if number % 10 == 0 else [["a"], [], [f"b{number}", "c"]]
        if number % 4 == 0:
            row["source"] = {"url": f"https://example.org/{number}"}
        yield row


def write_lines(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    (FOLDER / name).write_text(text)
    return text.encode()


def write_table(name, rows, schema, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), FOLDER / name, **options)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = list(chat_rows())
    text = write_lines("chat.jsonl", rows)
    (FOLDER / "chat.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=3).compress(text))
    schema = pa.schema([("messages", MESSAGES)])
    write_table("chat.parquet", rows, schema, compression="snappy", row_group_size=16)
    # Version 2 pages, of few rows each.
    write_table("chat-zstd.parquet", rows, schema, compression="zstd", data_page_version="2.0", data_page_size=64,
                write_batch_size=4)
    large = pa.list_(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))
    write_table("chat-gzip.parquet", rows, pa.schema([("messages", large)]), compression="gzip", use_dictionary=False)

    rows = list(ranked_rows())
    write_lines("ranked.jsonl", rows)
    votes = pa.list_(pa.list_(pa.float64()))
    schema = pa.schema([("prompt", pa.string()), ("responses", pa.list_(pa.string())), ("scores", votes)])
    write_table("ranked.parquet", rows, schema, compression="none")

    write_table("empty.parquet", [], pa.schema([("text", pa.string())]))

    rows = list(text_rows())
    write_lines("text.jsonl", rows)
    fields = [("id", pa.int32()), ("text", pa.dictionary(pa.int32(), pa.string())), ("weight", pa.float32()), ("kept", pa.bool_()),
              ("tags", pa.list_(pa.list_(pa.string()))), ("source", pa.struct([("url", pa.string())])), ("nothing", pa.null())]
    write_table("text.parquet", rows, pa.schema(fields), compression="snappy", row_group_size=128)
    # Encodings that writers use only on request.
    lengths = {"id": "DELTA_BINARY_PACKED", "text": "DELTA_LENGTH_BYTE_ARRAY", "weight": "BYTE_STREAM_SPLIT", "kept": "RLE"}
    rest = {"tags.list.element.list.element": "PLAIN", "source.url": "PLAIN", "nothing": "PLAIN"}
    fields[1] = ("text", pa.string())
    write_table("text-delta.parquet", rows, pa.schema(fields), compression="snappy", use_dictionary=False,
                column_encoding=lengths | rest)


if __name__ == "__main__":
    main()
