"""Exports a Hugging Face model to ONNX, verifies it, and writes what Triton needs to serve it::

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

from converters.errors import ConversionError, OptionError
from converters.kinds import EXPORTS
from converters.options import Exporter, ExportOptions, Kind, OrtCompat, Pooling, Precision
from converters.report import Progress
from converters.shapes import read_axes, read_shape

app = typer.Typer(add_completion=False, rich_markup_mode=None)
console = Console(stderr=True, highlight=False)

MOST_SEQUENCES = 1024


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder with Hugging Face weights, or a hub id.")],
    output: Annotated[
        Path, typer.Option(help="A model repository's folder, or a path that ends in .onnx.")
    ],
    name: Annotated[
        str | None, typer.Option(help="The Triton model's name; from MODEL without it.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="What the model is exported as.")] = "decoder",
    precision: Annotated[Precision, typer.Option(help="Of the weights.")] = "fp32",
    max_context: Annotated[
        int | None,
        typer.Option(help="Tokens of a sequence; 4096 or the model's own, if that is less."),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Sequences that run at once.")] = 8,
    exporter: Annotated[
        Exporter,
        typer.Option(help="onnxruntime-genai's model builder, PyTorch's exporter, or what fits."),
    ] = "auto",
    ort_compat: Annotated[
        OrtCompat, typer.Option(help="The oldest ONNX Runtime that has to run the graph.")
    ] = "latest",
    text: Annotated[
        Path | None, typer.Option(help="What quality is measured on; without it, a demo corpus.")
    ] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="encoder: of tokens to a vector; auto: the model's own.")
    ] = "auto",
    normalize: Annotated[
        bool | None,
        typer.Option(help="encoder: vectors of length 1; as the model has it without either."),
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
    report: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON.")] = None,
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
            input_shape=read_shape(input_shape),
            dynamic_axes=read_axes(dynamic_axes),
        )
        _check(options)
        if report is not None and not report.absolute().parent.is_dir():
            raise OptionError("report", f"{report.parent} is no folder")
        with _progress() as progress:
            made = EXPORTS[kind](options, progress)
    except ConversionError as error:
        console.print("[red]error:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, OptionError) else 1) from None
    console.print(made.table())
    for path in made.written:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    if report is not None:
        report.write_text(json.dumps(made.to_json(), indent=2) + "\n")


def _check(options: ExportOptions) -> None:
    if options.kind not in EXPORTS:
        raise OptionError("kind", f"must be one of {', '.join(EXPORTS)}")
    if not 1 <= options.max_num_seqs <= MOST_SEQUENCES:
        raise OptionError(
            "max-num-seqs", f"must be from 1 to {MOST_SEQUENCES}, not {options.max_num_seqs}"
        )
    if options.name is not None and not re.fullmatch(r"\w[\w.-]*", options.name):
        raise OptionError("name", "must have letters, digits, dots, dashes and underscores alone")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line for each stage, with the time that it took."""
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
