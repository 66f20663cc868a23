#!/usr/bin/env python3
"""Set up libtorch 2.13.0 in a folder, from wheels on PyPI.

    setup_libtorch.py DEST          CPU: three wheels pinned by hash; about 490 MB stay on disk
    setup_libtorch.py DEST --gpu    the full install of torch with its GPU libraries (several GB)

The folder is complete when its `build-version` exists, which is written last: an interrupted set-up is started again
from nothing, a complete one is left alone.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION = "2.13.0"
LIBRARIES = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcupti.so.13", "libcudart.so.13"}
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]


def pip(*args):
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *args], check=True)


def download(folder):
    """The three wheels, checked against the hashes of libtorch.txt."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip("download", "--quiet", "--no-deps", "--only-binary", ":all:", *platforms, "--python-version", "3.11",
        "--implementation", "cp", "--abi", "cp311", "--abi", "none", "--require-hashes",
        "-r", str(pathlib.Path(__file__).with_name("libtorch.txt")), "--dest", str(folder))


def keep(wheel, dest):
    """Keep the libraries that a CPU run loads, and torch's headers."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = pathlib.PurePosixPath(item.filename)
            if item.is_dir() or ".." in path.parts:
                continue
            if path.name in LIBRARIES:
                target = dest / "lib" / path.name
            elif path.parts[:2] == ("torch", "include"):
                target = dest / pathlib.Path(*path.parts[1:])
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(item) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def setup_cpu(dest):
    with tempfile.TemporaryDirectory(dir=dest.parent) as temporary:
        download(temporary)
        for wheel in sorted(pathlib.Path(temporary).glob("*.whl")):
            keep(wheel, dest)
    missing = LIBRARIES - {path.name for path in (dest / "lib").iterdir()}
    if missing:
        sys.exit(f"setup_libtorch: the wheels did not hold {', '.join(sorted(missing))}")
    # The wheel's own libtorch.so needs libtorch_cuda and gigabytes of libraries; this linker script needs the CPU library alone.
    (dest / "lib" / "libtorch.so").write_text("INPUT(-ltorch_cpu)\n")


def setup_gpu(dest):
    pip("install", "--quiet", "--target", str(dest / "packages"), f"torch=={VERSION}")
    for name in ("lib", "include"):
        (dest / name).symlink_to(pathlib.Path("packages") / "torch" / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=pathlib.Path)
    parser.add_argument("--gpu", action="store_true", help="the full build instead of the CPU one")
    args = parser.parse_args()
    kind = "gpu" if args.gpu else "cpu"
    mark, kind_mark = args.dest / "build-version", args.dest / "kind"
    if mark.exists() and kind_mark.exists() and kind_mark.read_text().strip() == kind:
        return
    print(f"setting up libtorch {VERSION} ({kind}) in {args.dest}", file=sys.stderr)
    shutil.rmtree(args.dest, ignore_errors=True)
    args.dest.mkdir(parents=True)
    (setup_gpu if args.gpu else setup_cpu)(args.dest.resolve())
    kind_mark.write_text(kind + "\n")
    mark.write_text(VERSION + "\n")


if __name__ == "__main__":
    main()
