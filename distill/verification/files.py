"""Whether a folder holds the files that its manifest names, byte for byte, and no others."""

from __future__ import annotations

from pathlib import Path

from distill.checkpoint import sha256
from distill.shipping import manifest as manifests
from distill.shipping.manifest import Manifest
from distill.verification.finding import Finding


def check_files(folder: Path, manifest: Manifest) -> tuple[list[Finding], set[str]]:
    """One finding for all files when they are as the manifest says, else one for each that isn't; and their names.

    Raises CheckpointError for links.
    """
    found = {name for name in manifests.files_in(folder) if name != manifests.NAME}
    findings = []
    for name in sorted(found | set(manifest.files)):
        claimed = manifest.files.get(name)
        if claimed is None:
            findings.append(Finding(f"file {name}", "FAILS", why="the manifest doesn't name it"))
        elif name not in found:
            findings.append(Finding(f"file {name}", "FAILS", claimed=f"{claimed.bytes:,} bytes", why="it isn't there"))
        elif (finding := _compare(folder / name, name, claimed)) is not None:
            findings.append(finding)
    spoilt = {finding.name.removeprefix("file ") for finding in findings}
    if not findings:
        total = sum(claimed.bytes for claimed in manifest.files.values())
        told = f"{len(manifest.files)} files, {total:,} bytes"
        findings.append(Finding("files", "holds", told, told, "exactly, by SHA-256"))
    return findings, spoilt


def _compare(path: Path, name: str, claimed: manifests.File) -> Finding | None:
    size = path.stat().st_size
    if size != claimed.bytes:
        return Finding(f"file {name}", "FAILS", f"{claimed.bytes:,} bytes", f"{size:,} bytes", "exactly")
    digest = sha256(path)
    if digest != claimed.sha256:
        return Finding(f"file {name}", "FAILS", f"SHA-256 {claimed.sha256[:12]}…", f"{digest[:12]}…", "exactly")
    return None
