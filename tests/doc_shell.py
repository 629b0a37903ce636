"""Runs the commands of a page: ``selfjudge`` in this process, a server beside it, and all else in a real shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from serve_process import serving

from selfjudge.cli.main import main

SERVER = "http://localhost:8000"


def commands(script: str) -> Iterator[str]:
    """The commands of a script, each with the lines it goes on over; comments and empty lines are left out."""
    command = ""
    for line in script.splitlines():
        command += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # within quotes, which go on in the next line
            command += "\n"
            continue
        if words:
            yield command
        command = ""
    assert not command, f"a command without an end: {command}"


def selfjudge(arguments: list[str]) -> None:
    """Runs the command line in this process.

    Raises:
        AssertionError: it did not exit with 0.
    """
    with patch.object(sys, "argv", ["selfjudge", *arguments]):
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        assert code in (0, None), f"selfjudge {shlex.join(arguments)}: exit code {code}"


class Shell:
    """A folder to run a page's commands in, and the server that the page has started."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.folder = folder
        self._servers = servers
        self._url: str | None = None

    def run(self, script: str) -> None:
        """Runs one command after another, in the working directory, until one fails."""
        for command in commands(script):
            words = shlex.split(command, comments=True)
            if words[:2] == ["selfjudge", "serve"]:
                url, _ = self._servers.enter_context(serving(*words[2:]))
                self._url = url.removesuffix("/v1")
            elif words[0] == "selfjudge" and not re.search(r"[|><$&;]", command):
                selfjudge(words[1:])
            else:
                self._bash(command)

    def at_the_server(self, text: str) -> str:
        """The text with the address of the page's server in place of the documented one."""
        return text.replace(SERVER, self._url) if self._url else text

    def _bash(self, command: str) -> None:
        command = self.at_the_server(command).replace("curl ", "curl -sS --fail-with-body ")
        # As in an activated environment.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        script = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PATH": path})
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
