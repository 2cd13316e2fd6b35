//! Which connection speaks for a publisher. (interface to be filled)
