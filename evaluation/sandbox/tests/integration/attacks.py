#=== prelude
# Programs that the sandbox must stop, and programs that it must not. Each begins with a line that says how it ends:
# `passes`, `fails ERROR` (an exception), `times out`, `ends early` (before its checks), `killed REASON`. A program that
# gets what it wants passes. The test puts this prelude before each, with OUTSIDE, a folder with a file `file`.
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def syscall(number, *arguments):
    return checked(libc.syscall(ctypes.c_long(number), *[ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]))
#=== passes | arithmetic
assert sum(range(10)) == 45
#=== passes | writes and reads a file of its own
with open("note.txt", "w") as file: file.write("x")
assert open("note.txt").read() == "x"
os.rename("note.txt", "other.txt"); os.mkdir("folder"); os.rename("other.txt", "folder/note.txt"); os.link("folder/note.txt", "n")
os.remove("folder/note.txt"); os.rmdir("folder"); os.truncate(os.open("n", os.O_RDWR), 0)
#=== passes | temporary files and folders
import tempfile
with tempfile.TemporaryFile() as file: file.write(b"x")
with tempfile.TemporaryDirectory() as folder: open(folder + "/x", "w").close()
#=== passes | threads
import threading
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: assert sum(pool.map(len, ["a", "bc"])) == 3
#=== passes | asyncio
import asyncio
async def one(): await asyncio.sleep(0.01); return 1
assert asyncio.run(one()) == 1
#=== passes | randomness, time, locale, sqlite in memory
import random, secrets, time, datetime, locale, decimal, sqlite3, uuid
assert len(secrets.token_hex(8)) == 16 and time.time() > 0 and datetime.datetime.now() and uuid.uuid4()
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
#=== passes | classes of the main module
import dataclasses, pickle, typing
@dataclasses.dataclass
class Point: x: "int"
assert pickle.loads(pickle.dumps(Point(3))).x == 3 and typing.get_type_hints(Point) == {"x": int} and __name__ == "__main__"
#=== passes | an alarm as a time limit of its own
import signal
def late(*_): raise TimeoutError
signal.signal(signal.SIGALRM, late)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True: pass
except TimeoutError: pass
#=== passes | memory that it executes: foreign functions of C need it, and it gives no rights
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
#=== passes | bytes that are not UTF-8
sys.stdout.buffer.write(b"\xff\xfe"); print("x")
#=== passes | its stdin is empty
assert sys.stdin.read() == ""
#=== passes | its environment is its own
assert "PATH" not in os.environ and "USER" not in os.environ and os.environ["HOME"] == os.getcwd()
#=== passes | root has no capabilities here
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
refused = libc.capget(header, data) == -1
assert refused or list(data) == [0] * 6
#=== fails FileNotFoundError | a file that does not exist
open("missing")
#=== fails EOFError | input()
input()
#=== fails SyntaxError | not Python
def f(:
#=== fails AssertionError | a check that does not hold
assert 1 + 1 == 3, "sum"
#=== fails RecursionError | endless recursion
def f(n): return f(n + 1)
f(0)
#=== fails PermissionError | reads a file outside
open(OUTSIDE + "/file").read()
#=== fails PermissionError | reads the accounts
open("/etc/passwd").read()
#=== fails PermissionError | lists the home folders
os.listdir("/home")
#=== fails PermissionError | changes to a folder outside and lists it
os.chdir(OUTSIDE); os.listdir(".")
#=== fails PermissionError | reads through a symbolic link
os.symlink(OUTSIDE + "/file", "link"); open("link").read()
#=== fails PermissionError | writes through a symbolic link to a folder
os.symlink(OUTSIDE, "folder"); open("folder/new", "w")
#=== fails PermissionError | leaves its folder by ..
open("../" * 12 + OUTSIDE.lstrip("/") + "/file").read()
#=== fails PermissionError | reads by a handle from O_PATH
folder = os.open(OUTSIDE, os.O_PATH); os.open("file", os.O_RDONLY, dir_fd=folder)
#=== fails OSError | links a file outside into its folder
os.link(OUTSIDE + "/file", "mine")
#=== fails PermissionError | moves a file outside into its folder
os.rename(OUTSIDE + "/file", "mine")
#=== fails PermissionError | the parent's environment
open(f"/proc/{os.getppid()}/environ", "rb").read()
#=== fails PermissionError | its own environment, as the kernel shows it
open("/proc/self/environ", "rb").read()
#=== fails PermissionError | its own memory
open("/proc/self/mem", "r+b")
#=== fails PermissionError | a map of its memory
open("/proc/self/maps").read()
#=== fails PermissionError | a shared library's path through /proc
open("/proc/self/root" + OUTSIDE + "/file").read()
#=== fails PermissionError | changes the kernel's settings
open("/proc/sys/kernel/core_pattern", "w")
#=== fails PermissionError | its score for the out-of-memory killer
open("/proc/self/oom_score_adj", "w")
#=== fails PermissionError | creates a file outside
open(OUTSIDE + "/new", "w")
#=== fails PermissionError | appends to a file outside
open(OUTSIDE + "/file", "a")
#=== fails PermissionError | removes a file outside
os.remove(OUTSIDE + "/file")
#=== fails PermissionError | truncates a file outside
os.truncate(OUTSIDE + "/file", 0)
#=== fails PermissionError | moves its file over one outside
open("mine", "w").close(); os.replace("mine", OUTSIDE + "/file")
#=== fails PermissionError | changes the mode of a file outside
os.chmod(OUTSIDE + "/file", 0o777)
#=== fails PermissionError | changes the mode of the interpreter's own files
os.fchmod(os.open(os.__file__, os.O_RDONLY), 0)
#=== fails PermissionError | changes the owner of a file outside
os.chown(OUTSIDE + "/file", os.getuid(), os.getgid())
#=== fails PermissionError | changes the times of a file outside
os.utime(OUTSIDE + "/file", (0, 0))
#=== fails PermissionError | gives a file outside an attribute
os.setxattr(OUTSIDE + "/file", "user.x", b"y")
#=== fails PermissionError | a folder that its owner cannot read
os.mkdir("hidden", 0o300)
#=== fails OSError | folders that their owner cannot read
os.umask(0o777)
#=== fails PermissionError | writes into the interpreter's library
open(os.path.dirname(os.__file__) + "/sitecustomize.py", "w")
#=== fails PermissionError | shared memory that outlives it
open("/dev/shm/left", "w")
#=== fails PermissionError | System V shared memory
libc.shmget.restype = ctypes.c_int; checked(libc.shmget(4711, 4096, 0o1600))
#=== fails PermissionError | message queues
checked(libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o600, None))
#=== fails PermissionError | the terminal
os.open("/dev/tty", os.O_RDWR)
#=== fails PermissionError | devices
blocked = 0
for name in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/zero", "/dev/full", "/dev/random", "/dev/ptmx"):
    try: os.open(name, os.O_RDWR)
    except FileNotFoundError: pass
    except PermissionError: blocked += 1
    else: raise AssertionError(name)
if blocked: raise PermissionError(blocked)
#=== fails PermissionError | a named pipe
os.mkfifo("pipe")
#=== fails PermissionError | TCP
import socket; socket.create_connection(("127.0.0.1", 22), 1)
#=== fails gaierror | a name of the internet
import socket; socket.getaddrinfo("example.com", 80)
#=== fails PermissionError | UDP
import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
#=== fails PermissionError | Unix sockets
import socket; socket.socket(socket.AF_UNIX)
#=== fails PermissionError | netlink
import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
#=== fails PermissionError | a pair of sockets that is connected elsewhere, by an abstract name
import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.connect("\0bus")
#=== fails PermissionError | a pair of sockets that sends elsewhere
import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", "/dev/log")
#=== fails PermissionError | open files in messages to itself, beyond the limit of open files
import socket; a, b = socket.socketpair(); socket.send_fds(a, [b"x"], [0])
#=== fails PermissionError | fork
os.fork()
#=== fails PermissionError | a subprocess
import subprocess; subprocess.run(["id"])
#=== fails AssertionError | a shell
assert os.system("id") == 0
#=== fails PermissionError | multiprocessing
import multiprocessing as m; m.get_context("fork").Process(target=print).start()
#=== fails PermissionError | posix_spawn
os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
#=== fails PermissionError x86_64 | vfork by its number
syscall(58)
#=== fails OSError | clone3 by its number
syscall(435, ctypes.create_string_buffer(88), 88)
#=== fails PermissionError x86_64 | clone that is not a thread
syscall(56, 17, 0, 0, 0, 0)
#=== fails PermissionError x86_64 | a thread with open files of its own, which are not counted
syscall(56, 0x10000 | 0x100 | 0x800, 0, 0, 0, 0)
#=== fails PermissionError | open files that are not the other threads'
syscall(436, 60, 60, 2)
#=== fails PermissionError | executes another program
os.execv("/bin/sh", ["sh", "-c", "exit"])
#=== fails PermissionError | executes a program that it wrote
open("run", "w").write("#!/bin/sh\n"); os.execv("run", ["run"])
#=== fails PermissionError | executes a file in memory
file = os.memfd_create("x"); os.write(file, open(sys.executable, "rb").read()); os.execve(file, ["x"], {})
#=== fails PermissionError x86_64 | execveat
file = os.open(sys.executable, os.O_PATH); syscall(322, file, b"", 0, 0, 0x1000)
#=== ends early | starts the interpreter again in its place, under the same rules
os.execv(sys.executable, [sys.executable, "-c", "import os\ntry: os.listdir('/etc')\nexcept PermissionError: print('same rules')"])
#=== fails PermissionError | kills the parent
os.kill(os.getppid(), 9)
#=== fails PermissionError | signals all processes
os.kill(-1, 0)
#=== fails PermissionError x86_64 | a signal to the parent's thread, by its number
syscall(234, os.getppid(), os.getppid(), 15)
#=== fails PermissionError x86_64 | a queued signal
syscall(129, os.getppid(), 15, ctypes.create_string_buffer(128))
#=== fails PermissionError | a signal through the owner of a pipe
import fcntl; a, b = os.pipe(); fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid())
#=== fails PermissionError | the signal that the owner of a pipe gets
import fcntl; a, b = os.pipe(); fcntl.fcntl(a, fcntl.F_SETSIG, 9)
#=== fails PermissionError | a handle of the parent
os.pidfd_open(os.getppid()) if hasattr(os, "pidfd_open") else syscall(434, os.getppid(), 0)
#=== fails PermissionError | leaves its session
os.setsid()
#=== fails PermissionError | leaves its process group
os.setpgid(0, os.getppid())
#=== fails PermissionError | outlives the parent
checked(libc.prctl(1, 0, 0, 0, 0))
#=== fails PermissionError | hides from the parent's measurements
checked(libc.prctl(4, 0, 0, 0, 0))
#=== fails ValueError | raises its limits
import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
#=== fails PermissionError | changes the parent's limits
import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
#=== fails PermissionError | a higher priority
os.setpriority(os.PRIO_PROCESS, 0, -5)
#=== fails PermissionError | the parent's priority
os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
#=== fails PermissionError | real-time scheduling
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
#=== fails PermissionError | the parent's processors
os.sched_setaffinity(os.getppid(), {0})
#=== fails PermissionError | ptrace
checked(libc.ptrace(16, os.getppid(), 0, 0))
#=== fails PermissionError | reads the parent's memory
buffer = (ctypes.c_size_t * 2)(); checked(libc.process_vm_readv(os.getppid(), buffer, 1, buffer, 1, 0))
#=== fails PermissionError | writes the parent's memory
buffer = (ctypes.c_size_t * 2)(); checked(libc.process_vm_writev(os.getppid(), buffer, 1, buffer, 1, 0))
#=== fails PermissionError | a new user namespace
checked(libc.unshare(0x10000000))
#=== fails PermissionError | another root folder
os.chroot(".")
#=== fails PermissionError | another user
os.setresuid(1, 1, 1)
#=== fails PermissionError | mounts
checked(libc.mount(b"none", b".", b"tmpfs", 0, None))
#=== fails PermissionError | watches folders outside
checked(libc.inotify_init1(0))
#=== fails PermissionError | a file in memory, which no limit counts
os.memfd_create("x")
#=== fails PermissionError | larger pipes
import fcntl; a, b = os.pipe(); fcntl.fcntl(a, 1031, 1 << 20)
#=== fails PermissionError | io_uring, which no filter of calls sees
syscall(425, 8, ctypes.create_string_buffer(256))
#=== passes x86_64 | other dangerous calls, by number: each is refused
calls = {"userfaultfd": 323, "perf_event_open": 298, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321,
    "kcmp": 312, "seccomp": 317, "open_by_handle_at": 304, "name_to_handle_at": 303, "pivot_root": 155,
    "init_module": 175, "kexec_load": 246, "iopl": 172, "ioperm": 173, "quotactl": 179, "reboot": 169, "swapon": 167,
    "acct": 163, "settimeofday": 164, "sethostname": 170, "modify_ldt": 154, "personality": 135, "vhangup": 153,
    "io_setup": 206, "mbind": 237, "move_pages": 279, "set_mempolicy": 238, "semget": 64, "msgget": 68, "vmsplice": 278,
    "setns": 308, "fanotify_init": 300, "mlockall": 151, "mknod": 133, "sync": 162, "process_madvise": 440,
    "pidfd_getfd": 438, "pidfd_send_signal": 424, "fsopen": 430, "open_tree": 428, "mount_setattr": 442,
    "memfd_secret": 447, "landlock_create_ruleset": 444, "openat2": 437, "fchmodat2": 452, "futex_wake": 454,
    "statmount": 457, "lookup_dcookie": 212, "a number of the future": 1000, "the x32 form of getpid": 0x40000027}
allowed = []
for name, number in calls.items():
    try: syscall(number, 0, 0, 0, 0, 0); allowed.append(name)
    except OSError as error: allowed += [name] if error.errno not in (errno.EPERM, errno.ENOSYS) else []
assert not allowed, allowed
#=== killed SIGSYS x86_64 | a call of the 32-bit interface
import mmap
code = mmap.mmap(-1, 4096, prot=7); code.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))  # mov eax, 20; int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
#=== killed SIGSEGV | a null pointer
ctypes.string_at(0)
#=== fails MemoryError | much memory at once
x = bytearray(8 << 30)
#=== fails MemoryError | memory bit by bit
x = []
while True: x.append(bytearray(1 << 20))
#=== fails OSError | shared memory beyond the limit
import mmap; m = mmap.mmap(-1, 2 << 30)
#=== fails OSError | a large file
open("large", "wb").write(b"x" * (64 << 20))
#=== fails OSError | a file that is large and empty
os.truncate(os.open("large", os.O_CREAT | os.O_RDWR), 1 << 40)
#=== fails OSError | space for a large file
os.posix_fallocate(os.open("large", os.O_CREAT | os.O_RDWR), 0, 1 << 33)
#=== fails OSError | many open files
files = [open("f", "w") for _ in range(1000)]
#=== killed wrote more than 64 MiB | many files of the allowed size
for i in range(10**6): open(str(i), "wb").write(b"x" * (8 << 20))
#=== killed wrote more than 64 MiB | files that are removed and stay open
files = []
for i in range(40): files.append(open("f", "wb")); files[-1].write(b"x" * (8 << 20)); files[-1].flush(); os.remove("f")
import time; time.sleep(9)
#=== killed made more than 4096 files | many empty files
for i in range(10**7): open(str(i), "w").close()
#=== killed nested its folders too deeply | folders in folders
while True: os.mkdir("d"); os.chdir("d")
#=== killed had more than 64 threads | many threads
import threading, time; threading.stack_size(65536)
for _ in range(5000): threading.Thread(target=time.sleep, args=(9,)).start()
time.sleep(9)
#=== fails PermissionError | removes its own folder
import shutil; here = os.getcwd(); open("x", "w"); shutil.rmtree(here, ignore_errors=True); os.rmdir(here)
#=== times out | an endless loop
while True: pass
#=== times out | sleeps
import time; time.sleep(60)
#=== times out | ignores signals
import signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
while True: pass
#=== times out | endless output
while True: print("x" * 1000)
#=== times out | endless errors
while True: os.write(2, b"x" * 10000)
#=== times out | closes its streams and stays
os.closerange(0, 64)
while True: pass
#=== times out | a thread of C that Python cannot stop
import re; re.match(r"(a*)*b", "a" * 40)
#=== ends early | sys.exit(0) before its checks
sys.exit(0)
#=== ends early | os._exit(0) before its checks
os._exit(0)
#=== ends early | exit code 1 without an error
os._exit(1)
#=== ends early | exits from a thread
import threading, time; threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(9)
#=== ends early | prints what a success might look like
print("passed", "0" * 32); sys.exit(0)
#=== ends early | writes to every open file
for file in range(64):
    try: os.write(file, b"0" * 32)
    except OSError: pass
os._exit(0)
#=== ends early | writes each word of 32 letters that it finds: arguments, environment, frames, the collector's objects
import gc
found, seen = [], set()
def look(value, depth=0):
    if id(value) in seen or depth > 6: return
    seen.add(id(value))
    if isinstance(value, (bytes, str)):
        data = value.encode() if isinstance(value, str) else value
        if len(data) == 32: found.append(data)
        return
    for inner in gc.get_referents(value): look(inner, depth + 1)
frame = sys._getframe()
while frame: look(frame); look(dict(frame.f_locals)); look(dict(frame.f_globals)); frame = frame.f_back
look(sys.argv); look(getattr(sys, "orig_argv", [])); look(dict(os.environ)); look(sys._current_frames())
for value in gc.get_objects(): look(value)
def send():
    for file in range(3, 64):
        for data in found:
            try: os.write(file, data)
            except OSError: pass
send(); os._exit(0)
#=== ends early | reads every open file for the line, and writes it to each
data = []
for file in range(64):
    try: os.set_blocking(file, False); data.append(os.read(file, 100))
    except OSError: pass
for file in range(64):
    for part in data:
        try: os.write(file, part)
        except OSError: pass
os._exit(0)
#=== ends early | at exit
import atexit; atexit.register(print, "0" * 32); sys.exit()
#=== ends early | a hook for exceptions that ends well
sys.excepthook = lambda *_: os._exit(0)
assert False
#=== passes | another print and another os.write do not hide its success
import builtins
builtins.print = os.write = lambda *_: None
sys.stdout = None
#=== fails AssertionError | another os.write does not make a success
os.write = lambda *_: 32
frame = sys._getframe(1)
frame.f_globals.update(run=lambda _: b"", receive=lambda _: b"0" * 32)
assert False
#=== fails AssertionError | an exit code does not make a success
sys.exit = lambda *_: None
assert False
