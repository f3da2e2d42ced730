"""Files on disk: written whole or not at all, small JSON files, fingerprints, and the set of files that one result consists of."""
