__version__ = "0.1.0"

OFFERED = (  # of partbook.run
    "Request",
    "Run",
    "discover",
    "evaluate",
    "load",
    "plugin",
    "saliency",
    "segment",
)


def __getattr__(name: str):
    "What `partbook.run` offers, loaded when it is used: `import partbook` itself takes no time."
    if name in OFFERED:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *OFFERED])
