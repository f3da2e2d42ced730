"""Data sets from lists of addresses, folders or shards: filter, download, check, label, write tar shards; stopped builds go on."""
