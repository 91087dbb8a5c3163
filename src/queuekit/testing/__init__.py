"""What tests of queuekit, and of plugins for it, share."""
