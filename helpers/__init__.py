"""Thin helpers behind the notebooks, one module per stage of the flow.

Import the module you need (``from helpers import metrics``): nothing is
imported here, so that a chapter pays only for what it uses.
"""
