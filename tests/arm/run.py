"""Run the CPU kernels on an emulated Arm processor, compiled there by Numba, beside the reference.

    make test-arm                        # or: python tests/arm/run.py --processor neoverse-v1

Nothing is installed: what is needed is unpacked under `.cache/arm`, an Arm Python of Debian with its libraries, qemu
where there is none, and wheels for Arm. It downloads 300 MB once and takes minutes of processor time. The emulated
processor, qemu's `max`, knows all instructions; `--processor` is the one that LLVM compiles for. torch is that of
version 2.9, the last with wheels for Arm that do not ask for CUDA.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "arm"
SYSTEM = PLACE / "system"  # of the emulated machine
EMULATOR = "qemu-aarch64-static"
DEBIAN = (
    "libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 libgomp1 liblzma5 libpython3.11-minimal libpython3.11-stdlib "
    "libssl3 libstdc++6 libuuid1 python3.11-minimal zlib1g"
).split()
WHEELS = (
    "numpy numba llvmlite torch==2.9.1 filelock fsspec jinja2 markupsafe mpmath networkx sympy typing_extensions"
).split()
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
APT = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
Dir::Cache "{folder}/cache";
Dir::State::Lists "{folder}/lists";
Dir::State::Status "{folder}/status";
"""


def unpack_debian(architecture: str, names: list[str], target: Path) -> None:
    """Unpack Debian's packages into a folder; this machine's own packages and settings stay as they are."""
    folder = PLACE / f"debian-{architecture}"
    for part in ("cache/archives/partial", "lists/partial", "packages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(APT.format(architecture=architecture, folder=folder))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    subprocess.run(["apt-get", "update", "-q"], env=environment, check=True)
    subprocess.run(["apt-get", "download", "-q", *names], env=environment, cwd=folder / "packages", check=True)
    for package in sorted((folder / "packages").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, target], check=True)


def find_emulator() -> str:
    """Return the path of qemu for programs of Arm, from Debian's package where it is not installed."""
    unpacked = PLACE / "emulator" / "usr" / "bin" / EMULATOR
    if found := shutil.which(EMULATOR):
        return found
    if not unpacked.exists():
        unpack_debian("amd64", ["qemu-user-static"], PLACE / "emulator")
    return str(unpacked)


def install_wheels() -> None:
    """Unpack wheels for Arm into the emulated system."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    command += ["--python-version", "3.11", "--implementation", "cp", "--target", str(SYSTEM / "packages")]
    subprocess.run([*command, *WHEELS], check=True)


def prepare() -> str:
    """Unpack what is missing; return the path of the emulator."""
    emulator = find_emulator()
    done = SYSTEM / ".done"
    if not done.exists():
        unpack_debian("arm64", DEBIAN, SYSTEM)
        install_wheels()
        done.touch()
    return emulator


def copy_kernels() -> Path:
    """Copy the kernels, which import nothing else of the package, and what compares them; return the folder."""
    folder = PLACE / "tried"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").touch()
    for path in (ROOT / "src" / "hmba_hf" / "models").glob("ops_*.py"):
        shutil.copy(path, folder / "kernels")
    shutil.copy(Path(__file__).with_name("agreement.py"), folder)
    return folder


def main() -> None:
    """Prepare and compare; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processor", default="neoverse-n1", help="of LLVM's names, such as neoverse-v1 or apple-m1")
    args = parser.parse_args()
    missing = [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    if missing:
        sys.exit(f"this machine must have Debian's tools to unpack an Arm Python, got none of {', '.join(missing)}")
    emulator = prepare()
    folder = copy_kernels()
    environment = {
        "NUMBA_CACHE_DIR": str(PLACE / "compiled"),
        "NUMBA_CPU_FEATURES": "+neon",
        "NUMBA_CPU_NAME": args.processor,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(folder), str(SYSTEM / "packages")]),
    }
    python = SYSTEM / "usr" / "bin" / "python3.11"
    print(f"{args.processor}\n", flush=True)
    command = [emulator, "-cpu", "max", "-L", str(SYSTEM), str(python), str(folder / "agreement.py")]
    sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
