"""What a person sees while a model trains: a bar, held-out metrics, a log file that is always whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from prorank.util.files import write_json


class RichProgress(transformers.TrainerCallback):
    """A progress bar with the latest held-out metrics beside it, and a log file that is always whole."""

    def __init__(self, title: str, console: Console, log_file: Path) -> None:
        self.title, self.console, self.log_file = title, console, log_file
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        if not state.is_world_process_zero:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write the log; print held-out metrics."""
        if not state.is_world_process_zero:
            return
        write_json(self.log_file, state.log_history)
        held_out = {k[5:]: v for k, v in (logs or {}).items() if k.startswith("eval_")}
        if held_out:
            metrics = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in held_out.items())
            self.console.print(f"  step {state.global_step:>5}  {metrics}", soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar:
            self.bar.stop()
