"""The command that exports a Hugging Face model to ONNX, verifies the graph, and writes what Triton
needs to serve it::

python -m converters.export_onnx Qwen/Qwen2.5-0.5B-Instruct --output model_repository
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from converters.common.errors import ConversionError, OptionError
from converters.common.options import Exporter, ExportOptions, Kind, OrtCompat, Pooling, Precision
from converters.common.report import Progress, Report
from converters.kinds import EXPORTS
from converters.plain.shapes import parse_axes, parse_shape

app = typer.Typer(add_completion=False, rich_markup_mode=None)
console = Console(stderr=True, highlight=False)

MAX_SEQUENCES = 1024


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder with Hugging Face weights, or a hub id.")],
    output: Annotated[
        Path, typer.Option(help="A model repository's folder, or a path that ends in .onnx.")
    ],
    name: Annotated[
        str | None,
        typer.Option(help="The Triton model's name; without it, one derived from MODEL."),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="The kind of graph to export.")] = "decoder",
    precision: Annotated[Precision, typer.Option(help="The precision of the weights.")] = "fp32",
    max_context: Annotated[
        int | None,
        typer.Option(help="The tokens of a sequence; without it, at most 4096."),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="The sequences that run at once.")] = 8,
    exporter: Annotated[
        Exporter,
        typer.Option(help="onnxruntime-genai's model builder, PyTorch's exporter, or what fits."),
    ] = "auto",
    ort_compat: Annotated[
        OrtCompat, typer.Option(help="The oldest ONNX Runtime that has to run the graph.")
    ] = "latest",
    text: Annotated[
        Path | None,
        typer.Option(help="The text to measure quality on; without it, the demo corpus."),
    ] = None,
    pooling: Annotated[
        Pooling,
        typer.Option(help="encoder: how tokens become a vector; auto: as the model has it."),
    ] = "auto",
    normalize: Annotated[
        bool | None,
        typer.Option(help="encoder: vectors of length 1; without it, as the model has it."),
    ] = None,
    input_shape: Annotated[
        str, typer.Option(help="plain: the shape of the inputs, batch and tokens.")
    ] = "1,512",
    dynamic_axes: Annotated[
        str,
        typer.Option(
            help='plain: axes of any length by input, JSON: {"input_ids": {"0": "batch_size"}, …}'
        ),
    ] = "{}",
    allow_pickle_weights: Annotated[
        bool,
        typer.Option(
            "--allow-pickle-weights",
            help="Read weights that are pickles (pytorch_model.bin): they can run code.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="A file to write the figures to, as JSON.")
    ] = None,
) -> None:
    """Export MODEL to ONNX. An export that does not compute what MODEL computes is refused."""
    try:
        options = ExportOptions(
            model=model,
            output=output,
            name=name,
            kind=kind,
            precision=precision,
            allow_pickle_weights=allow_pickle_weights,
            max_context=max_context,
            max_num_seqs=max_num_seqs,
            exporter=exporter,
            ort_compat=ort_compat,
            text=text,
            pooling=pooling,
            normalize=normalize,
            input_shape=parse_shape(input_shape),
            dynamic_axes=parse_axes(dynamic_axes),
        )
        _check(options, report)
        with _progress() as progress:
            result = EXPORTS[kind](options, progress)
    except ConversionError as error:
        console.print("[red]error:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None
    _show(result)
    if report is not None:
        report.write_text(json.dumps(result.to_json(), indent=2) + "\n")


def _check(options: ExportOptions, report: Path | None) -> None:
    """Raise `OptionError` for values that are wrong whatever the kind of export."""
    if not 1 <= options.max_num_seqs <= MAX_SEQUENCES:
        raise OptionError(
            "max-num-seqs", f"must be from 1 to {MAX_SEQUENCES}, not {options.max_num_seqs}"
        )
    if options.name is not None and not re.fullmatch(r"\w[\w.-]*", options.name):
        raise OptionError(
            "name", "must have letters, digits, dots, dashes and underscores, and nothing else"
        )
    if report is not None and not report.absolute().parent.is_dir():
        raise OptionError("report", f"{report.parent} is not a folder")


def _show(report: Report) -> None:
    console.print(report.table())
    for path in report.written:
        console.print(f"written: {path}", markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Yield a function that shows a line for each stage, with the time that it took."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:

        def begin(stage: str) -> None:
            finish()
            bars.add_task(stage, total=1)

        def finish() -> None:
            for task in bars.task_ids:
                bars.update(task, completed=1)

        yield begin
        finish()


if __name__ == "__main__":
    # At a terminal, transformers would ask whether a checkpoint may run code.
    with Path(os.devnull).open() as sys.stdin:
        app()
