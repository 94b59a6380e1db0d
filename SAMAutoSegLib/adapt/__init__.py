"""What is learned on top of a frozen backbone, and the file it is kept in."""
