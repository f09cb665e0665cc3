"""The audit of the pinned dependencies against the OSV database of known vulnerabilities: `make audit`.

Exit codes: 0 nothing is known, or the database does not answer; 1 something is known, or the audit failed.
audit-ignore.toml lists the accepted vulnerabilities, each with its reason.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OSV_URL = "https://api.osv.dev/v1/query"
REACH_SECONDS = 5
ANSWER_SECONDS = 20


def main(arguments: list[str] | None = None) -> int:
    """Audit, report the findings, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraints", type=Path, default=HERE.parent / "constraints.txt")
    parser.add_argument("--ignore", type=Path, default=HERE / "audit-ignore.toml")
    parser.add_argument("--osv-url", default=OSV_URL)
    options = parser.parse_args(arguments)
    ignored = read_ignored(options.ignore)
    if trouble := unreachable(options.osv_url):
        return _say(f"audit skipped: {options.osv_url} does not answer ({trouble}); nothing was checked", 0)
    found = audit(options.constraints, ignored=sorted(ignored), osv_url=options.osv_url)
    for name, version, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        _say(f"{name} {version}: {vulnerability['id']}, fixed in {fixed}", 1)
    if found:
        return _say(f"{len(found)} known: raise the pin, or accept it with a reason in {options.ignore.name}", 1)
    return _say(f"audit passed: nothing known against {options.constraints.name}, {len(ignored)} accepted", 0)


def read_ignored(path: Path) -> dict[str, str]:
    """Return the accepted vulnerabilities, each with its reason.

    Raises:
        SystemExit: If an entry has no reason.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("ignore", [])
    for entry in entries:
        if not str(entry.get("id", "")).strip() or not str(entry.get("reason", "")).strip():
            raise SystemExit(f"{path.name}: every [[ignore]] needs an id and a reason, this one does not: {entry}")
    return {entry["id"]: entry["reason"] for entry in entries}


def unreachable(url: str) -> str:
    """Return why the database does not answer within seconds; empty if it does."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "999"}).encode()
    request = urllib.request.Request(url, data=question, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return ""


def audit(constraints: Path, *, ignored: list[str], osv_url: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, version and vulnerability of each pinned package that has a known one.

    Raises:
        SystemExit: If the audit itself fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", osv_url, "--timeout", str(ANSWER_SECONDS)]
        command += ["--cache-dir", scratch, "--progress-spinner", "off", "--format", "json", "--output", str(report)]
        command += [word for identity in ignored for word in ("--ignore-vuln", identity)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(f"the audit failed: {done.stderr.strip()[-1000:]}")
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    if unknown := [package for package in packages if "skip_reason" in package]:
        raise SystemExit(f"the audit failed: {unknown[0]['name']} was not checked: {unknown[0]['skip_reason']}")
    return [(package["name"], package["version"], each) for package in packages for each in package["vulns"]]


def _say(text: str, code: int) -> int:
    (sys.stderr if code else sys.stdout).write(text + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
