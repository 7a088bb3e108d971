"""What a saved pixel pipeline carries as `pipeline.py`: the way to its class for a process that never imported l2p.

DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) runs it; L2PPipeline.from_pretrained(folder) does not.
"""

# The import stands in `try` since diffusers takes a bare one for the name of a package to install.
try:
    from l2p.pipeline import L2PPipeline  # noqa: F401
except ImportError as error:
    raise ImportError(
        "this folder holds a pixel pipeline of the L2P reproduction, whose module l2p cannot be imported: install the "
        "package l2p-reproduction (in its repository: pip install .)"
    ) from error
