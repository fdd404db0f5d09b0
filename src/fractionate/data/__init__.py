"""Data: readers of what people have, bundled data sets, splits, sampling, encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.data.augment import Augment as Augment
    from fractionate.data.batch import Batch as Batch
    from fractionate.data.batch import Places as Places
    from fractionate.data.batch import Split as Split
    from fractionate.data.bundled import column_names as column_names
    from fractionate.data.bundled import data_sets as data_sets
    from fractionate.data.bundled import digits as digits
    from fractionate.data.bundled import fashion_mnist as fashion_mnist
    from fractionate.data.dataset import DatasetSplit as DatasetSplit
    from fractionate.data.delimited import read_delimited as read_delimited
    from fractionate.data.dividing import divide as divide
    from fractionate.data.encoding import TableEncoding as TableEncoding
    from fractionate.data.examples import Examples as Examples
    from fractionate.data.language_sets import read_glosses as read_glosses
    from fractionate.data.memory import MemorySplit as MemorySplit
    from fractionate.data.own_pictures import PictureFolder as PictureFolder
    from fractionate.data.own_pictures import pictures as pictures
    from fractionate.data.own_saved import saved as saved
    from fractionate.data.own_table import encoded_table as encoded_table
    from fractionate.data.own_table import table as table
    from fractionate.data.own_texts import texts as texts
    from fractionate.data.packages import package_file as package_file
    from fractionate.data.parts import subset as subset
    from fractionate.data.parts import weighted as weighted
    from fractionate.data.parts import with_views as with_views
    from fractionate.data.picture_files import PictureEncoding as PictureEncoding
    from fractionate.data.picture_files import random_view as random_view
    from fractionate.data.raw import RawData as RawData
    from fractionate.data.raw import RawSplit as RawSplit
    from fractionate.data.raw import Tokenizing as Tokenizing
    from fractionate.data.sampling import batches as batches
    from fractionate.data.splits import as_examples as as_examples
    from fractionate.data.splits import as_split as as_split
    from fractionate.data.stream import StreamSplit as StreamSplit
else:
    __getattr__, __dir__, __all__ = exports(__name__)
