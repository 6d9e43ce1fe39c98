"""Charts, one module per kind of data; `theme` holds the house style."""
