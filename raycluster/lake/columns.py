"""Stages' columns become the dataset's: exactly those of DESIGN.md section 5, then one an encoder.

Everything outside `lake/` sees thumbnails as plain binary; inside they are Lance blobs, so that a scan of the other
columns never reads a picture.
"""

from __future__ import annotations

import lance
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.errors import Mismatch
from raycluster.row import features_type

# Lance deduplicates concurrent merges only on a key that is declared so.
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}

PROVENANCE = pa.struct(
    [
        ("run_id", pa.string()),
        ("workload", pa.string()),
        ("stages", pa.list_(pa.string())),
        ("models", pa.list_(pa.string())),
    ]
)


def dataset_schema(encoders: pa.Schema, width: int = 384) -> pa.Schema:
    """Return a dataset's columns.

    Args:
        encoders: the columns that this workload's encoders write; those that every dataset has are passed over.
        width: the dimensions of `vector`, the space that all modalities share.
    """
    own = [
        pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("media_type", pa.string()),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), width)),
        pa.field("thumbnail", pa.binary()),
        pa.field("features", features_type()),
        pa.field("provenance", PROVENANCE),
        pa.field("ingested_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
    names = {field.name for field in own}
    return pa.schema([*own, *(field for field in encoders if field.name not in names)])


def is_blob(field: pa.Field) -> bool:
    """Tell whether a column of a Lance dataset holds blobs."""
    return isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name == "lance.blob.v2"


def outside(schema: pa.Schema) -> pa.Schema:
    """Return a Lance dataset's schema as the rest of raycluster sees it: blobs are binary, no metadata."""
    return pa.schema([field.with_type(pa.binary()) if is_blob(field) else field for field in schema])


def inside(schema: pa.Schema) -> pa.Schema:
    """Return the schema that Lance stores: thumbnails are blobs."""
    fields = [lance.blob_field(field.name) if field.name == "thumbnail" else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def require_fit(name: str, wanted: pa.Schema, found: pa.Schema) -> None:
    """Check that a workload's columns are among the dataset's, each with its type, or can be added to it.

    A measurement that the dataset does not have yet can (`unmeasured`): older rows have null there.

    Raises:
        Mismatch: names every column that is missing or of another type.
    """
    missing = {f"column 'features.{field.name}'" for field in unmeasured(wanted, found)}
    problems = [problem for field in wanted for problem in _problems(field, found)]
    problems = [problem for problem in problems if problem.partition(":")[0] not in missing]
    if problems:
        raise Mismatch(
            f"dataset {name!r} does not fit this workload:\n" + "\n".join(f"  {problem}" for problem in problems),
            fix="write to another dataset (sink.dataset), or change the encoders back",
        )


def unmeasured(wanted: pa.Schema, found: pa.Schema) -> list[pa.Field]:
    """Return the features that decoders measure now and did not when the dataset was created."""
    if "features" not in wanted.names or not pa.types.is_struct(found.field("features").type):
        return []
    have = {field.name for field in found.field("features").type}
    return [field for field in wanted.field("features").type if field.name not in have]


def _problems(wanted: pa.Field, found: pa.Schema) -> list[str]:
    if wanted.name not in found.names:
        return [f"column {wanted.name!r}: wanted {wanted.type}, the dataset has no such column"]
    kind = found.field(wanted.name).type
    if pa.types.is_struct(wanted.type) and pa.types.is_struct(kind):
        inner = pa.schema(list(kind))
        return [
            problem.replace(f"'{child.name}'", f"'{wanted.name}.{child.name}'", 1)
            for child in wanted.type
            for problem in _problems(child, inner)
        ]
    return [] if kind == wanted.type else [f"column {wanted.name!r}: wanted {wanted.type}, found {kind}"]


def conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with exactly the columns of `schema` (Lance's own), null where they have none.

    Raises:
        Mismatch: names the column whose values do not fit.
    """
    return pa.RecordBatch.from_arrays([_fitted(rows, field) for field in schema], schema=schema)


def _fitted(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    found = field.name in rows.schema.names
    column = rows.column(field.name) if found else pa.nulls(rows.num_rows, outside(pa.schema([field])).field(0).type)
    if column.null_count and not field.nullable:
        raise Mismatch(f"column {field.name!r}: {column.null_count} of {rows.num_rows} rows have no value")
    if is_blob(field):
        return lance.blob_array(column.to_pylist())
    try:
        return _cast(column, field.type)
    except pa.ArrowException as error:
        raise Mismatch(f"column {field.name!r}: wanted {field.type}, found {column.type} ({error})") from error


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as `kind`; the fields of a struct are matched by name, absent ones are null."""
    if column.type == kind:
        return column
    if not (pa.types.is_struct(kind) and pa.types.is_struct(column.type)):
        return column.cast(kind)
    have = {field.name for field in column.type}
    children = [
        _cast(pc.struct_field(column, child.name), child.type)
        if child.name in have
        else pa.nulls(len(column), child.type)
        for child in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
