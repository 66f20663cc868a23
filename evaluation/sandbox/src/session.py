"""Runs the blocks of one session in one namespace, and answers each.

A request on stdin: a number (8 bytes), the block's length (8 bytes), the block. An answer on the same socket: the
number, two lengths, a JSON object, and the figures (PNG), one after another. The blocks find an empty stdin, and what
they print goes to the streams of the process.
"""
import ast
import io
import json
import linecache
import os
import sys
import traceback
import warnings

control = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
LONGEST = 64 << 10  # characters of a value or a traceback
main = sys.modules["__main__"] = type(sys)("__main__")


def receive(size, read=os.read):
    data = b""
    while len(data) < size:
        part = read(control, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def send(data, write=os.write):
    while data:
        data = data[write(control, data):]


def execute(block, name):
    """Executes a block. Returns what its last expression evaluates to, as text."""
    linecache.cache[name] = (len(block), None, block.splitlines(True), name)
    tree = compile(block, name, "exec", ast.PyCF_ONLY_AST)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), main.__dict__)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), name, "eval"), main.__dict__)
    if value is None:
        return None
    main._ = value
    return repr(value)[:LONGEST]


def figures():
    """The open figures as PNG; they are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    images = []
    for number in pyplot.get_fignums() if pyplot else []:
        image = io.BytesIO()
        pyplot.figure(number).savefig(image, format="png")
        images.append(image.getvalue())
    if pyplot:
        pyplot.close("all")
    return images


def without_driver(error):
    """The traceback of an error, from the block's own frame on."""
    frame = error.__traceback__
    while frame and frame.tb_frame.f_code.co_filename == __file_of_driver__:
        frame = frame.tb_next
    lines = traceback.format_exception(type(error), error, frame)
    return "".join(lines)[-LONGEST:]


def answer(block, name):
    value, error, images = None, None, []
    try:
        value = execute(block, name)
        images = figures()
    except BaseException as raised:  # SystemExit as well: the session continues.
        error = without_driver(raised)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # The block closed it, or put something else there.
    text = {"value": value, "traceback": error, "figures": [len(image) for image in images]}
    return json.dumps(text).encode(), b"".join(images)


__file_of_driver__ = answer.__code__.co_filename
# plt.show() has no window to open here.
warnings.filterwarnings("ignore", message=".*(non-interactive|non-GUI backend).*")
count = 0
while True:
    number, size = receive(8), int.from_bytes(receive(8), "little")
    count += 1
    text, images = answer(receive(size).decode(), "<block %d>" % count)
    send(number + len(text).to_bytes(8, "little") + len(images).to_bytes(8, "little") + text + images)
