"""Questions to the joint distribution: a request and its run in a file a task."""
