//! Who owns a durable subscriber's topic. (interface to be filled)
