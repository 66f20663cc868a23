"""Describes this interpreter as JSON: the executable, its folders, the files it has opened, its packages."""
import json
import os
import pkgutil
import sys

mapped = set()
if os.path.exists("/proc/self/maps"):
    with open("/proc/self/maps") as maps:
        mapped = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
mapped = {path for path in mapped if os.path.isfile(path)}
modules = {os.path.realpath(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)}
prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
parts = ("lib", "lib32", "lib64", "share/zoneinfo", "pyvenv.cfg")
folders = sorted(os.path.realpath(os.path.join(prefix, part)) for prefix in prefixes for part in parts)

print(json.dumps({
    "executable": sys.executable,
    "version": list(sys.version_info[:3]),
    "folders": folders,
    "files": sorted(path for path in mapped | modules if not any(path.startswith(folder + "/") for folder in folders)),
    "linkers": sorted(path for path in mapped if os.path.basename(path).startswith(("ld-", "ld.", "ld64."))),
    "packages": sorted({module.name for module in pkgutil.iter_modules()}),
}))
