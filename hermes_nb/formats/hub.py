"""Rows of a hub data set, streamed. Lesson: 01_preference_data."""

from collections.abc import Iterator

from hermes_nb.errors import DataProblem, NetworkProblem
from hermes_nb.formats.table import Reader, hub_split
from hermes_nb.runtime import token


def _trouble() -> tuple:
    """What a hub out of reach, or without such a set, raises: its client speaks through httpx."""
    import datasets
    import httpx

    return (
        OSError,
        ValueError,
        httpx.HTTPError,
        datasets.exceptions.DatasetsError,
        datasets.exceptions.DatasetGenerationError,
    )


class Hub:
    """One split of a source's data set on the hub."""

    def __init__(self, source: str, known: Reader, split: str):
        if known.hub is None:
            more = " (formats.HERMES_PREFERENCE rebuilds it from three sets)" * (source == "hermes_preference")
            raise DataProblem(f"{source}: not on the hub; give a local file of that schema as path{more}.")
        self.name, self.split = known.hub, hub_split(known, split)

    def rows(self) -> Iterator[dict]:
        """Raw rows. Raises NetworkProblem where the hub is out of reach or has no such set."""
        import datasets

        try:
            yield from datasets.load_dataset(self.name, split=self.split, streaming=True, token=token())
        except _trouble() as error:
            raise self._problem(error) from error

    def count(self) -> int:
        """Number of rows: as the set's card says, else counted on the stream."""
        import datasets

        try:
            splits = datasets.load_dataset_builder(self.name, token=token()).info.splits or {}
        except _trouble() as error:
            raise self._problem(error) from error
        known = splits[self.split].num_examples if self.split in splits else None
        return known if known else sum(1 for _ in self.rows())

    def _problem(self, error: Exception) -> NetworkProblem:
        return NetworkProblem(
            f"{self.name} ({self.split}) could not be read from the hub ({type(error).__name__}); check the network, "
            f"or give a local file of that schema as path."
        )
