"""From a source to a pixel model and back to files: initialisation, deltas, the releases' form, descriptions."""

from l2p.conversion.delta import (
    DeltaHeader,
    delta_header,
    load_delta,
    save_delta,
    source_sha256,
)
from l2p.conversion.describe import describe, model_config
from l2p.conversion.release import (
    MergeReport,
    empty_model,
    merge_file,
    model_name,
    release_needs,
    released_patch_size,
    save_release,
)
from l2p.conversion.start import (
    ConversionReport,
    ProjectionFit,
    copy_source_weights,
    fit_input_projection,
    fit_projection,
    inherit,
    take_source_weights,
)

__all__ = [
    "ConversionReport",
    "DeltaHeader",
    "MergeReport",
    "ProjectionFit",
    "copy_source_weights",
    "delta_header",
    "describe",
    "empty_model",
    "fit_input_projection",
    "fit_projection",
    "inherit",
    "load_delta",
    "merge_file",
    "model_config",
    "model_name",
    "release_needs",
    "released_patch_size",
    "save_delta",
    "save_release",
    "source_sha256",
    "take_source_weights",
]
