//! Bandwidth, delay and loss of a container's links, by tc(8)'s queues.
