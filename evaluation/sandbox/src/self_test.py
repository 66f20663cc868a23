# Tries what the sandbox must refuse, and prints the name of each rule that did not. The lines before this one set
# OUTSIDE (a folder with a file `file`), PORT (someone listens there) and MEMORY (the limit, in bytes).
import os
import socket
import sys


def read():
    return open(OUTSIDE + "/file").read()


def read_folder():
    return os.listdir(OUTSIDE)


def write():
    return open(OUTSIDE + "/file", "a").close()


def create():
    return open(OUTSIDE + "/new", "w").close()


def remove():
    return os.remove(OUTSIDE + "/file")


def connect():
    return socket.create_connection(("127.0.0.1", PORT), 1).close()


def unix_socket():
    return socket.socket(socket.AF_UNIX).close()


def fork():
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)


def signal():
    os.kill(os.getppid(), 0)


def mode():
    os.chmod(OUTSIDE + "/file", 0o600)


def allocate():
    bytearray(MEMORY)


print("print works")
for rule, attempt in [
    ("Read", read), ("Read", read_folder), ("Metadata", mode), ("Write", write), ("Write", create), ("Write", remove),
    ("Sockets", connect), ("Sockets", unix_socket), ("Processes", fork), ("Signals", signal), ("Memory", allocate),
]:
    try:
        attempt()
    except (OSError, MemoryError):
        continue
    print(rule)

# Last, for if it is allowed then nothing comes after it.
print("Execute", flush=True)
with open(os.open("run", os.O_CREAT | os.O_WRONLY, 0o700), "w") as file:
    file.write("#!" + sys.executable)
try:
    os.execv("run", ["run"])
except OSError:
    print("but refused")
