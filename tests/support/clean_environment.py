"""A process in which only mlflow, peft, transformers, ta-lib, exchange-calendars and what they require can be imported.

Run as `python -S clean_environment.py SITE_PACKAGES TRACKING_URI MODEL_URI BARS_CSV FORECAST_CSV [ALSO_ON_PATH]`;
without `-S` the working tree itself might be importable. The working folder comes first on the path, as in a notebook.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec

INSTALLED = ("mlflow", "peft", "transformers", "ta-lib", "exchange-calendars")


def required_distributions() -> set[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, str]] = set()
    left = [(name, "") for name in INSTALLED]
    while left:
        name, extra = left.pop()
        if (canonicalize_name(name), extra) in found:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add((canonicalize_name(name), extra))
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in found}


class OnlyThese:
    """Finds modules of the distributions, and those of no distribution, such as a model's own code."""

    def __init__(self, also: list[str]) -> None:
        from packaging.utils import canonicalize_name

        self.also = also
        self.distributions = required_distributions()
        self.owners = {
            name: {canonicalize_name(owner) for owner in owners}
            for name, owners in metadata.packages_distributions().items()
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name.partition(".")[0] == "tickerforge":
            return PathFinder.find_spec(name, path or self.also)  # type: ignore[arg-type]
        owners = self.owners.get(name.partition(".")[0])
        if owners is not None and not owners & self.distributions:
            return None
        return PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]

    def find_distributions(self, context: metadata.DistributionFinder.Context) -> Iterator[metadata.Distribution]:
        from packaging.utils import canonicalize_name

        for found in PathFinder.find_distributions(context):
            if canonicalize_name(found.name) in self.distributions:
                yield found


def main() -> None:
    site_packages, tracking, model_uri, bars, target, *also = sys.argv[1:]
    sys.path = ["", *(path for path in sys.path if path != sys.path[0]), site_packages]
    sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder]
    sys.meta_path.append(PathFinder)
    only = OnlyThese(also)
    sys.meta_path = [only if finder is PathFinder else finder for finder in sys.meta_path]
    unwanted = () if also else ("tickerforge",)
    importable = [
        name for name in (*unwanted, "pandera", "prefect", "statsmodels", "trl", "unsloth") if find_spec(name)
    ]

    foreign = importlib.import_module("tickerforge.tasks").__file__ if also else None

    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(tracking)
    model = mlflow.pyfunc.load_model(model_uri)
    model.predict(pd.read_csv(bars)).to_csv(target, index=False)
    ours = sorted({name.partition(".")[0] for name in sys.modules if name.startswith("tickerforge_")})
    still = sys.modules["tickerforge.tasks"].__file__ if also else None
    print(json.dumps({"importable": importable, "ours": ours, "foreign_kept": foreign == still}))


if __name__ == "__main__":
    main()
