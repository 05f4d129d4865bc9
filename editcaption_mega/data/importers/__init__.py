"""What `make_shards --format` can read: one file per format, each yielding `Candidate` or `Rejected` rows."""

from editcaption_mega.data.importers import jsonl, parquet, synthetic, table
from editcaption_mega.data.importers.candidates import Candidate, Importer, ImportOptions, Rejected

FORMATS: dict[str, Importer] = {
    importer.name: importer for importer in (jsonl.IMPORTER, *table.IMPORTERS, *parquet.IMPORTERS, synthetic.IMPORTER)
}

__all__ = ["FORMATS", "Candidate", "ImportOptions", "Importer", "Rejected"]
