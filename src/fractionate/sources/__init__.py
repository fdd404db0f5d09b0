"""Where models and data come from. Importing the package registers the bundled data sets, and the readers of a person's own."""

from fractionate.sources import bundled, fashion, glosses, own_table, pictures, resnets, saved, tables, texts

__all__ = ["bundled", "fashion", "glosses", "own_table", "pictures", "resnets", "saved", "tables", "texts"]
