"""What can be asked of the joint distribution: a request and its run in a file a task."""
