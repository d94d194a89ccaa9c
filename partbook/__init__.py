__version__ = "0.1.0"

OFFERED = {  # names, and the module each is loaded from when it is used
    "Request": "run",
    "Run": "run",
    "check": "checking",
    "choose": "choosing",
    "discover": "run",
    "evaluate": "run",
    "export": "exporting",
    "load": "run",
    "merge": "naming",
    "models": "cli",
    "name": "naming",
    "plugin": "contract",
    "reproduce": "cli",
    "saliency": "photographs",
    "segment": "photographs",
    "student": "course",
    "teacher": "course",
    "transfer": "transferring",
    "write_report": "report",
}


def __getattr__(name: str):
    "What the book offers, loaded when it is used: `import partbook` itself takes no time."
    if name in OFFERED:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{OFFERED[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *OFFERED])
