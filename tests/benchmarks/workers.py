"""Worker processes (`peers/`), asked in turns: a slow spell of the machine weighs on all of them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent / "peers"
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
"""What `saeworks.cli` tells glibc before it trains, for a library that does not."""


@dataclass(frozen=True)
class Command:
    """How a worker is started: the script in `peers/` with its options. A `peer` runs in the peers' environment."""

    arguments: list[str]
    peer: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def with_and_without_memory(peers: Mapping[str, Command]) -> dict[str, Command]:
    """Each peer as its users run it, and with the memory setting of our command line."""
    keeping = {f"{name}, keeps memory": Command(c.arguments, c.peer, KEEP_FREED_MEMORY) for name, c in peers.items()}
    return {name: command for pair in zip(peers.items(), keeping.items(), strict=True) for name, command in pair}


class Worker:
    """A worker process, asked one request at a time."""

    def __init__(self, python: str, command: Command) -> None:
        self._command = command
        self._process = subprocess.Popen(
            [python, str(HERE / command.arguments[0]), *command.arguments[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **command.environment},
        )

    def answer(self) -> dict:
        """The next line it writes."""
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._command.arguments)} ended, exit status {self._process.wait()}")
        return json.loads(line)

    def ask(self, request: dict) -> dict:
        """One request, one answer; an error ends the benchmark."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self.answer()
        if "error" in answer:
            raise SystemExit(f"{' '.join(self._command.arguments)}, {request}:\n{answer['error']}")
        return answer

    def close(self) -> None:
        """End of its input, then wait."""
        self._process.stdin.close()
        self._process.wait()


def start(commands: Mapping[str, Command], case: str, peers: str | None) -> tuple[dict[str, Worker], dict[str, dict]]:
    """The workers that know the case, and what they said of themselves; a peer that is not installed is left out.

    Args:
        peers: the python of the peers' environment; None leaves them all out.
    """
    started = {
        name: Worker(peers if command.peer else sys.executable, command)
        for name, command in commands.items()
        if peers or not command.peer
    }
    workers, hellos = {}, {}
    for name, worker in started.items():
        hello = worker.answer()
        if "error" in hello and commands[name].peer:
            print(f"{name}: {hello['error']}", file=sys.stderr)
            worker.close()
        elif "error" in hello:
            raise SystemExit(f"{name}: {hello['error']}")
        elif case in hello["cases"]:
            workers[name], hellos[name] = worker, hello
        else:
            worker.close()
    return workers, hellos


def take_turns(
    workers: Mapping[str, Worker], cases: Mapping[str, Callable[[str], str]], threads: int, rounds: int, steps: int
) -> dict[str, dict[str, list[dict]]]:
    """One unmeasured round of one step, then `rounds` measured ones of `steps`: answers by case and worker.

    Args:
        cases: by name, the case to ask of the worker of a name.
    """
    answers: dict[str, dict[str, list[dict]]] = {case: {name: [] for name in workers} for case in cases}
    for i in range(rounds + 1):
        for case, case_of in cases.items():
            for name, worker in workers.items():
                answer = worker.ask({"case": case_of(name), "steps": steps if i else 1, "threads": threads})
                if i:
                    answers[case][name].append(answer)
    return answers


def medians(answers: Mapping[str, list[dict]], key: str) -> dict[str, list[float]]:
    """By worker, the median step of each round."""
    return {name: [statistics.median(answer[key]) for answer in given] for name, given in answers.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def read_options(description: str, cases: Sequence[str], steps: int) -> argparse.Namespace:
    """The command line of a benchmark that compares with the peers; `steps` is its default number in a round."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the python of the peers' environment; without it, no peers")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=steps, help="steps in a round")
    return parser.parse_args()
