"""Runs one program, and then answers with the line that shows that its end was reached.

On stdin: the program's length (8 bytes), the program, the line (32 bytes). The program finds an empty stdin.
"""
import os
import sys

control = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def receive(size):
    data = b""
    while len(data) < size:
        part = os.read(control, size - len(data))
        if not part:
            os._exit(1)
        data += part
    return data


def run(program):
    """Executes the program as the main module. Returns nothing, as bytes."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    for stream in (sys.stdout, sys.__stdout__):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # The program closed it, or put something else there.
    return b""


program = receive(int.from_bytes(receive(8), "little"))
# While the program runs, the line is on the interpreter's stack of values, where neither frames nor the garbage
# collector show it. `os.write` and `control` are there as well: what the program puts in their place is not called.
os.write(control, receive(32) + run(program))
# The parent ends this process.
