"""Pretrained language models and published SAEs, from a hub or a folder.

``models`` loads language models, ``saes`` SAEs bound to them, ``vocabulary``
any tokenizer; ``stage`` makes artifacts of a run. They get their files from
``hub`` through ``folders`` and ``releases``, which need no torch. Import
from the one that is needed.
"""
