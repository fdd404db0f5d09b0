"""Where models and data come from. Importing the package registers the bundled data sets."""

from fractionate.sources import bundled, fashion, glosses, resnets, tables

__all__ = ["bundled", "fashion", "glosses", "resnets", "tables"]
